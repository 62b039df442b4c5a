"""What an iteration asks for: the experts of every MoE layer, with their tokens, weights and precisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.policies.cache.base import Precisions
from moesim.policies.offload.precision import precision_of
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


def iterations(workload: Workload, sequences: int) -> Iterator[Iteration]:
    """Yield the passes of a workload whose devices each work on so many sequences at a time."""
    served = workload.requests
    if served is None:
        for step in range(workload.steps):
            prefill = workload.phase == "prefill"
            group, first = (step, 0) if prefill else (0, step)
            new = prefill or step == 0
            yield Iteration(step, group, workload.phase, sequences, workload.context, first, new)
        return
    for number in range(served.steps):
        group, turn = divmod(number, served.output)
        if turn == 0:
            tokens = sequences * served.prompt
            yield Iteration(number, group, "prefill", tokens, served.prompt, 0, new=True)
        else:
            place = served.prompt + turn - 1
            yield Iteration(number, group, "decode", sequences, place + 1, place, new=False)


@dataclass(frozen=True, eq=False)
class LayerDemand:
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
    ) -> None:
        self._source, self._workload, self._devices = source, workload, devices
        self._experts, self._mix, self._weighted = experts, mix, weighted
        self._group = -1
        self._ids: Any = None
        self._weights: Any = None
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
        if iteration.group != self._group:
            self._fetch(iteration.group)
        count = iteration.tokens // self._at_a_time
        rows = slice(iteration.first, iteration.first + count)
        ids = self._ids[:, rows]
        weights = None if self._weights is None else self._weights[:, rows]
        flat = ids.reshape(-1, *ids.shape[2:])
        if len(flat) == 1:
            return self._single(flat, None if weights is None else weights[0])
        return self._several(flat, None if weights is None else weights.reshape(flat.shape))

    def everything(self) -> Iterator[Demand]:
        """Yield what all iterations ask for, for policies that know the future."""
        served = self._workload.requests
        tokens = self._at_a_time if served is not None or self._workload.phase == "decode" else self._length
        for iteration in iterations(self._workload, tokens):
            yield self.of(iteration)

    def _fetch(self, group: int) -> None:
        """Read the requests of a group; each token's experts the most important first."""
        count = self._devices * self._at_a_time
        found = [self._source.request(group * count + number, self._length) for number in range(count)]
        self._group = group
        self._ids = np.stack([tokens.ids for tokens in found])
        self._weights = None
        if self._weighted or self._mix is not None:
            self._weights = np.stack([_weights_of(tokens) for tokens in found])
            order = np.argsort(-self._weights, axis=-1, kind="stable")
            self._ids = np.take_along_axis(self._ids, order, axis=-1)
            self._weights = np.take_along_axis(self._weights, order, axis=-1)

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
