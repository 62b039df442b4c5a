"""What an iteration asks for: the experts of every MoE layer, with their tokens, weights and precisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.policies.cache.base import Precisions
from moesim.policies.offload.precision import precision_of
from moesim.policies.offload.token_scheduler import regroup
from moesim.routing.load import IntArray, Load
from moesim.routing.requests import Tokens, TokenSource
from moesim.workload.steps import Workload

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Iteration:
    """One pass through the model.

    Attributes:
        number: from 0.
        group: requests served at a time, counted from 0.
        phase: prefill or decode.
        tokens: tokens of each device.
        context: tokens of a prompt, or in each KV cache.
        first: place of its first token in each request.
        new: whether it begins requests.
    """

    number: int
    group: int
    phase: Literal["prefill", "decode"]
    tokens: int
    context: int
    first: int
    new: bool


def iterations(workload: Workload, sequences: int, paired: bool = False) -> Iterator[Iteration]:
    """Yield the passes of a workload whose devices each work on so many sequences at a time.

    Args:
        workload: which tokens arrive when.
        sequences: of each device at a time.
        paired: whether every two groups of requests take turns; the last of an odd number runs by itself.
    """
    served = workload.requests
    if served is None:
        for step in range(workload.steps):
            prefill = workload.phase == "prefill"
            group, first = (step, 0) if prefill else (0, step)
            new = prefill or step == 0
            yield Iteration(step, group, workload.phase, sequences, workload.context, first, new)
        return
    order = (
        (group, turn)
        for first in range(0, served.count, 2 if paired else 1)
        for turn in range(served.output)
        for group in range(first, min(first + (2 if paired else 1), served.count))
    )
    for number, (group, turn) in enumerate(islice(order, served.steps)):
        if turn == 0:
            tokens = sequences * served.prompt
            yield Iteration(number, group, "prefill", tokens, served.prompt, 0, new=True)
        else:
            place = served.prompt + turn - 1
            yield Iteration(number, group, "decode", sequences, place + 1, place, new=False)


class LayerDemand(NamedTuple):
    """What one layer of one iteration asks for, the most important expert first.

    Attributes:
        experts: the experts.
        tokens: tokens of each.
        classes: precision that a miss of each would load, or None.
        ids: the experts as an array [1, n].
        weights: mean gate weight over the tokens of the iteration [1, n], or None.
        precision: the classes as an array [1, n], or None.
    """

    experts: list[int]
    tokens: list[int]
    classes: list[int] | None
    ids: IntArray
    weights: Floats | None
    precision: npt.NDArray[np.int8] | None


@dataclass(frozen=True, eq=False)
class Demand:
    """What an iteration asks for.

    Attributes:
        ids: experts of its tokens, devices one after another [tokens, layers, k].
        layers: demand of each MoE layer, over all devices.
        copies: copies of each expert [layers, experts].
    """

    ids: IntArray
    layers: list[LayerDemand]
    copies: IntArray

    def load(self, devices: int, experts: int) -> Load:
        """Count copies by the device that brings the tokens."""
        tokens, layers, _ = self.ids.shape
        own = np.repeat(np.arange(devices), tokens // devices)
        key = (own[:, np.newaxis, np.newaxis] * experts + self.ids).transpose(1, 0, 2).reshape(layers, -1)
        key += np.arange(layers)[:, np.newaxis] * (devices * experts)
        counts = np.bincount(key.ravel(), minlength=layers * devices * experts)
        return Load(
            counts.reshape(layers, devices, experts).astype(np.int64),
            np.full(devices, tokens // devices, dtype=np.int64),
        )


class Demands:
    """Turns the tokens of requests into what iterations ask for.

    Args:
        source: which experts tokens take.
        workload: which tokens arrive when.
        devices: devices; each has its own requests.
        sequences: sequences, or with steps of prompts tokens, of each device at a time.
        experts: routed experts per layer.
        mix: precisions of misses, if there are two.
        weighted: whether policies need gate weights.
        regrouped: whether the tokens of two groups that decode in turn are split anew at each step.
    """

    def __init__(
        self,
        source: TokenSource,
        workload: Workload,
        devices: int,
        sequences: int,
        experts: int,
        mix: Precisions | None,
        weighted: bool,
        regrouped: bool = False,
    ) -> None:
        self._source, self._workload, self._devices = source, workload, devices
        self._experts, self._mix, self._weighted = experts, mix, weighted
        self._groups: dict[int, tuple[IntArray, Floats | None]] = {}
        self._regroup = regrouped
        self._split: tuple[tuple[int, int], tuple[IntArray, IntArray]] | None = None
        served = workload.requests
        if served is not None:
            self._at_a_time, self._length = sequences, served.prompt + served.output - 1
        elif workload.phase == "decode":
            self._at_a_time, self._length = sequences, workload.steps
        else:
            self._at_a_time, self._length = 1, sequences

    def of(self, iteration: Iteration) -> Demand:
        """Return what an iteration asks for.

        Raises:
            InputError: the source has too few tokens, or no gate weights where they are needed.
        """
        count = iteration.tokens // self._at_a_time
        rows = slice(iteration.first, iteration.first + count)
        ids, weights = self._fetched(iteration.group)
        ids, weights = ids[:, rows], None if weights is None else weights[:, rows]
        if self._partner(iteration) is not None:
            ids, weights = self._regrouped(iteration)
        flat = ids.reshape(-1, *ids.shape[2:])
        if len(flat) == 1:
            return self._single(flat, None if weights is None else weights[0])
        return self._several(flat, None if weights is None else weights.reshape(flat.shape))

    def _partner(self, iteration: Iteration) -> int | None:
        """Return the group whose tokens are mixed with those of a pass, if any is."""
        served = self._workload.requests
        if not self._regroup or served is None or iteration.phase == "prefill":
            return None
        other = iteration.group ^ 1
        return other if other < served.count else None

    def _regrouped(self, iteration: Iteration) -> tuple[IntArray, Floats | None]:
        """Return the tokens of a pass [sequences, 1, layers, k] after those of two groups were split anew."""
        pair = (iteration.group & ~1, iteration.group | 1)
        at, known = iteration.first, [self._fetched(group) for group in pair]
        ids = np.stack([each[0][:, at] for each in known])
        if self._split is None or self._split[0] != (pair[0], at):
            self._split = ((pair[0], at), self._halves(ids))
        mine = self._split[1][iteration.group & 1]
        chosen = np.concatenate(list(ids))[mine][:, np.newaxis]
        if known[0][1] is None or known[1][1] is None:
            return chosen, None
        weights = np.concatenate([each[1][:, at] for each in known if each[1] is not None])
        return chosen, weights[mine][:, np.newaxis]

    def _halves(self, ids: IntArray) -> tuple[IntArray, IntArray]:
        """Split the tokens of two groups [2, sequences, layers, k], those of each device by themselves."""
        _, count, layers, _ = ids.shape
        each = count // self._devices
        routes = np.zeros((2, count, layers, self._experts), dtype=bool)
        np.put_along_axis(routes, ids, True, axis=3)
        parts: tuple[list[IntArray], list[IntArray]] = ([], [])
        for device in range(self._devices):
            mine = slice(device * each, (device + 1) * each)
            place = np.concatenate([np.arange(count)[mine], count + np.arange(count)[mine]])
            split = regroup(routes[:, mine].reshape(2 * each, -1))
            parts[0].append(place[split.first])
            parts[1].append(place[split.second])
        return np.concatenate(parts[0]), np.concatenate(parts[1])

    def everything(self) -> Iterator[Demand]:
        """Yield what all iterations ask for, for policies that know the future."""
        served = self._workload.requests
        tokens = self._at_a_time if served is not None or self._workload.phase == "decode" else self._length
        for iteration in iterations(self._workload, tokens, self._regroup):
            yield self.of(iteration)

    def _fetched(self, group: int) -> tuple[IntArray, Floats | None]:
        """Return the requests of a group [sequences, tokens, layers, k], important experts first."""
        if group not in self._groups:
            count = self._devices * self._at_a_time
            found = [self._source.request(group * count + number, self._length) for number in range(count)]
            ids = np.stack([tokens.ids for tokens in found])
            weights = None
            if self._weighted or self._mix is not None:
                weights = np.stack([_weights_of(tokens) for tokens in found])
                order = np.argsort(-weights, axis=-1, kind="stable")
                ids = np.take_along_axis(ids, order, axis=-1)
                weights = np.take_along_axis(weights, order, axis=-1)
            kept = {one: known for one, known in self._groups.items() if self._regroup and one ^ 1 == group}
            self._groups = kept | {group: (ids, weights)}
        return self._groups[group]

    def _classes(self, weights: Floats | None) -> npt.NDArray[np.int8] | None:
        if self._mix is None or weights is None:
            return None
        return precision_of(weights, self._mix.t1, self._mix.t2)

    def _single(self, ids: IntArray, weights: Floats | None) -> Demand:
        """One token: every expert has one copy."""
        classes = self._classes(weights)
        lists, ones = ids[0].tolist(), [1] * ids.shape[2]
        precisions = None if classes is None else classes[0].tolist()
        layers = [
            LayerDemand(
                experts,
                ones,
                None if precisions is None else precisions[layer],
                ids[:, layer],
                None if weights is None else weights[:, layer],
                None if classes is None else classes[:, layer],
            )
            for layer, experts in enumerate(lists)
        ]
        copies = np.zeros((len(lists), self._experts), dtype=np.int64)
        np.put_along_axis(copies, ids[0], 1, axis=1)
        return Demand(ids, layers, copies)

    def _several(self, ids: IntArray, weights: Floats | None) -> Demand:
        """Several tokens: an expert's precision is the highest that one of its tokens needs."""
        tokens, count, _ = ids.shape
        size = count * self._experts
        key = (ids + np.arange(count)[np.newaxis, :, np.newaxis] * self._experts).ravel()
        copies = np.bincount(key, minlength=size).reshape(count, self._experts).astype(np.int64)
        mean = None
        if weights is not None:
            share = weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-30)
            mean = np.bincount(key, weights=share.ravel(), minlength=size).reshape(copies.shape) / tokens
        classes = self._classes(weights)
        best = None
        if classes is not None:
            best = np.full(size, 2, dtype=np.int8)
            np.minimum.at(best, key, classes.ravel())
            best = best.reshape(copies.shape)
        layers = []
        for layer, row in enumerate(copies):
            there = np.flatnonzero(row)
            worth = row[there] if mean is None else mean[layer, there]
            there = there[np.argsort(-worth, kind="stable")]
            precision = None if best is None else best[layer, there]
            layers.append(
                LayerDemand(
                    there.tolist(),
                    row[there].tolist(),
                    None if precision is None else precision.tolist(),
                    there[np.newaxis],
                    None if mean is None else mean[layer, there][np.newaxis],
                    None if precision is None else precision[np.newaxis],
                )
            )
        return Demand(ids, layers, copies)


def _weights_of(tokens: Tokens) -> Floats:
    if tokens.weights is None:
        message = "the policy needs gate weights, and the trace has none"
        raise InputError(message, hint="record gate weights, or choose policies that do without")
    return tokens.weights
