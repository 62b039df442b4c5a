"""What each device does by itself, laid out over the stages of a step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.engine.overlap import Stage
from moesim.engine.own_costs import AFTER_COMBINE, BEFORE_DISPATCH, OwnCosts, own_costs
from moesim.engine.setup import Setup

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OwnWork:
    """Own work of a micro-batch, beside what it overlaps with.

    Attributes:
        costs: seconds by layer, cause and device.
        moe_rows: rows that are MoE layers, int64 [MoE layers].
        apart: whether shared experts are a stage of their own.
        shared: shared experts, where they are a stage of their own [MoE layers, devices].
        head: the LM head, where shared experts of its layer are a stage of their own [devices].
        first: the first part of the work before dispatch, where it is cut in two [MoE layers + 1, devices].
        before: work before the dispatch of each MoE layer, and after the last combine [MoE layers + 1,
            devices]; the rest of it where it is cut in two.
        cut: whether it is.
    """

    costs: OwnCosts
    moe_rows: npt.NDArray[np.int64]
    apart: bool
    shared: Array
    head: Array
    first: Array
    before: Array
    cut: bool = False

    @classmethod
    def of(cls, setup: Setup, stretch: Array) -> OwnWork:
        """Price the work of a setup's tokens.

        Args:
            setup: the run.
            stretch: how many times as long devices compute beside exchange kernels [devices].
        """
        costs, rows = own_costs(setup), setup.moe_rows
        shared, head = np.zeros((rows.size, setup.cluster.size)), np.zeros(setup.cluster.size)
        none = np.zeros((rows.size + 1, setup.cluster.size))
        if not setup.overlap.shared_apart:
            return cls(costs, rows, False, shared, head, none, np.vstack(costs.segments(rows)))
        if setup.overlap.paired:
            causes = [cause for cause in (*BEFORE_DISPATCH, AFTER_COMBINE) if cause != "all_reduce"]
            scaled = {cause: getattr(costs, cause) * stretch for cause in causes}
            costs = replace(costs, head=costs.head * stretch, **scaled)
        if rows[-1] == len(setup.layers) - 1:
            head = costs.head[-1]
        shared = costs.dense[rows]
        shared[-1] = np.maximum(shared[-1] - head, 0.0)
        dense = costs.dense.copy()
        dense[rows] = 0.0
        before = np.vstack(replace(costs, dense=dense).segments(rows))
        before[-1] += head
        if setup.overlap.kind == "shared_experts":
            shared *= stretch
            dense[rows] = shared
            dense[rows[-1]] += head
            costs = replace(costs, dense=dense)
        made = cls(costs, rows, True, shared, head, none, before, setup.overlap.kind == "pipeline")
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

    def parts(self, stage: Stage) -> list[tuple[int, str, Array]]:
        """Return the pieces of a stage other than routed experts, in order: row, cause, seconds [devices]."""
        costs, rows = self.costs, self.moe_rows
        if stage.part == "shared":
            return [(int(rows[stage.layer]), "dense", self.shared[stage.layer])]
        found: list[tuple[int, str, Array]] = []
        if stage.part == "experts":
            return found
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
            found.append((int(rows[-1]), "dense", self.head))
        if not self.cut:
            return found
        # Attention of the last layer before the dispatch is halved; what precedes it is the first part.
        middle = max((i for i, piece in enumerate(found) if piece[1] == "attention"), default=len(found))
        halves = [(row, cause, seconds / 2) for row, cause, seconds in found[middle : middle + 1]]
        return [*found[:middle], *halves] if stage.part == "first" else [*halves, *found[middle + 1 :]]
