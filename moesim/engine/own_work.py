"""What each device does by itself, laid out over the stages of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from moesim.engine.overlap import Stage
from moesim.engine.own_costs import AFTER_COMBINE, BEFORE_DISPATCH, OwnCosts, own_costs
from moesim.engine.passes import INPUT_GRADIENTS, WEIGHT_GRADIENTS
from moesim.engine.setup import Setup

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OwnWork:
    """Own work of a micro-batch, beside what it overlaps with.

    Attributes:
        costs: seconds by layer, cause and device.
        moe_rows: rows that are MoE layers, int64 [MoE layers].
        apart: whether shared experts are a stage of their own.
        shared: shared experts, where they are a stage of their own, with the gradients of their weights in a
            backward pass [MoE layers, devices].
        first: the first part of the work before dispatch, where it is cut in two [MoE layers + 1, devices].
        before: work before the dispatch of each MoE layer, and after the last combine [MoE layers + 1,
            devices]; the rest of it where it is cut in two; its gradients of inputs in a backward pass.
        own_weights: its gradients of weights in a backward pass [MoE layers + 1, devices].
        pieces: what ``before`` and ``own_weights`` consist of: costs, and the LM head by itself where shared
            experts of its layer are a stage of their own [devices].
        cut: whether the work before dispatch is cut in two.
        backward: whether this is a backward pass.
    """

    costs: OwnCosts
    moe_rows: npt.NDArray[np.int64]
    apart: bool
    shared: Array
    first: Array
    before: Array
    own_weights: Array
    pieces: Mapping[str, tuple[OwnCosts, Array]]
    cut: bool = False
    backward: bool = False

    @classmethod
    def of(cls, setup: Setup, stretch: Array, backward: bool = False) -> OwnWork:
        """Price the work of a setup's tokens.

        Args:
            setup: the run.
            stretch: how many times as long devices compute beside exchange kernels [devices].
            backward: price the backward pass.
        """
        if backward:
            return cls._backward(setup, stretch)
        costs, rows = own_costs(setup), setup.moe_rows
        shared, head = np.zeros((rows.size, setup.cluster.size)), np.zeros(setup.cluster.size)
        none = np.zeros((rows.size + 1, setup.cluster.size))
        if not setup.overlap.shared_apart:
            before = np.vstack(costs.segments(rows))
            return cls(costs, rows, False, shared, none, before, none, {"before": (costs, head)})
        if setup.overlap.paired:
            costs = _stretched(costs, stretch)
        shared, head, before = _apart(costs, rows)
        if setup.overlap.kind == "shared_experts":
            shared *= stretch
            dense = costs.dense.copy()
            dense[rows] = shared
            dense[rows[-1]] += head
            costs = replace(costs, dense=dense)
        pieces = dict.fromkeys(("first", "before"), (costs, head))
        cut = setup.overlap.kind == "pipeline"
        made = cls(costs, rows, True, shared, none, before, none, pieces, cut)
        if not made.cut:
            return made
        first, rest = (
            np.stack(
                [
                    sum((seconds for *_, seconds in made.parts(Stage(0, layer, part))), none[layer])
                    for layer in range(rows.size + 1)
                ]
            )
            for part in ("first", "before")
        )
        return replace(made, first=first, before=rest)

    @classmethod
    def _backward(cls, setup: Setup, stretch: Array) -> OwnWork:
        rows = setup.moe_rows
        inputs, weights = (
            _stretched(own_costs(setup, share), stretch) for share in (INPUT_GRADIENTS, WEIGHT_GRADIENTS)
        )
        shared, head, before = _apart(inputs, rows)
        shared_weights, head_weights, own_weights = _apart(weights, rows)
        return cls(
            costs=OwnCosts(
                *(getattr(inputs, one.name) + getattr(weights, one.name) for one in fields(OwnCosts))
            ),
            moe_rows=rows,
            apart=True,
            shared=shared + shared_weights,
            first=np.zeros_like(before),
            before=before,
            own_weights=own_weights,
            pieces={"before": (inputs, head), "own_weights": (weights, head_weights)},
            backward=True,
        )

    def parts(self, stage: Stage) -> list[tuple[int, str, Array]]:
        """Return the pieces of a stage other than routed experts, in order: row, cause, seconds [devices]."""
        rows = self.moe_rows
        if stage.part == "shared":
            return [(int(rows[stage.layer]), "dense", self.shared[stage.layer])]
        found: list[tuple[int, str, Array]] = []
        if stage.part not in self.pieces:
            return found
        costs, head = self.pieces[stage.part]
        if stage.layer:
            row = int(rows[stage.layer - 1])
            found.append((row, AFTER_COMBINE, getattr(costs, AFTER_COMBINE)[row]))
        begin = int(rows[stage.layer - 1]) + 1 if stage.layer else 0
        stop = int(rows[stage.layer]) + 1 if stage.layer < rows.size else costs.dense.shape[0]
        for row in range(begin, stop):
            elsewhere = self.apart and row in rows
            causes = [cause for cause in BEFORE_DISPATCH if cause != "dense" or not elsewhere]
            found += [(row, cause, getattr(costs, cause)[row]) for cause in causes]
        if self.apart and stage.layer == rows.size:
            found.append((int(rows[-1]), "dense", head))
        if self.backward:
            return found[::-1]
        if not self.cut:
            return found
        # Attention of the last layer before the dispatch is halved; what precedes it is the first part.
        middle = max((i for i, piece in enumerate(found) if piece[1] == "attention"), default=len(found))
        halves = [(row, cause, seconds / 2) for row, cause, seconds in found[middle : middle + 1]]
        return [*found[:middle], *halves] if stage.part == "first" else [*halves, *found[middle + 1 :]]


def _stretched(costs: OwnCosts, stretch: Array) -> OwnCosts:
    """Return costs beside exchange kernels; sums over devices are communication."""
    causes = [cause for cause in (*BEFORE_DISPATCH, AFTER_COMBINE) if cause != "all_reduce"]
    scaled = {cause: getattr(costs, cause) * stretch for cause in causes}
    return replace(costs, head=costs.head * stretch, **scaled)


def _apart(costs: OwnCosts, rows: npt.NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """Take shared experts out of the work between collectives.

    Args:
        costs: seconds by layer, cause and device.
        rows: rows that are MoE layers, int64 [MoE layers].

    Returns:
        Shared experts [MoE layers, devices], the LM head where its layer is an MoE layer [devices], and the
        other work before each dispatch and after the last combine [MoE layers + 1, devices].
    """
    head = costs.head[-1] if rows[-1] == costs.dense.shape[0] - 1 else np.zeros(costs.dense.shape[1])
    shared = costs.dense[rows]
    shared[-1] = np.maximum(shared[-1] - head, 0.0)
    dense = costs.dense.copy()
    dense[rows] = 0.0
    before = np.vstack(replace(costs, dense=dense).segments(rows))
    before[-1] += head
    return shared, head, before
