"""METRO: as few activated experts on the fullest device as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from moesim.policies.base import ClusterView, Parameters
from moesim.policies.dispatch.min_max import Web, balance
from moesim.policies.dispatch.placement_index import index_for
from moesim.policies.dispatch.replica_choice import even_totals
from moesim.policies.dispatch.row_plans import plan_in_proportion
from moesim.policies.dispatch.shared_rows import shared_rows
from moesim.policies.plan import DispatchPlan, Placement
from moesim.policies.quantities import Seconds
from moesim.routing.load import Load


class MetroParameters(Parameters):
    """Parameters of METRO."""

    planning_s: Seconds = Field(
        default=0.0, ge=0, description="planning time of a layer; the paper calls it minimal"
    )


def choose(web: Web, tokens: Sequence[int], active: Sequence[int], loads: Sequence[int]) -> list[int]:
    """Choose one device for each shared expert with copies.

    First experts go to the device with the fewest activated experts so far, and what that leaves above the
    optimum is taken away by moving experts along chains of replicas. Then all are given out again, to the
    device with the fewest copies among those below the optimum, and the better of both choices counts.

    Args:
        web: where the shared experts stand.
        tokens: copies of each shared expert.
        active: activated experts of each device among the others.
        loads: copies of each device of the others.

    Returns:
        1 for the row that computes an expert, else 0, by row of the web.
    """
    found, most, fullest = _give_out(web, tokens, active, loads, 0)
    other, _, emptier = _give_out(web, tokens, active, loads, most)
    return other if emptier < fullest else found


def _give_out(
    web: Web, tokens: Sequence[int], active: Sequence[int], loads: Sequence[int], most: int
) -> tuple[list[int], int, int]:
    """Give experts out by falling copies, by copies to devices with fewer than ``most`` experts first.

    Returns:
        1 for the row that computes an expert, else 0; the most experts of a device; its most copies.
    """
    chosen = [0] * sum(map(len, web.holders))
    counts, copies = list(active), list(loads)
    for expert in sorted(range(len(tokens)), key=tokens.__getitem__, reverse=True):
        if not tokens[expert]:
            break
        places = web.holders[expert]
        best = min(places, key=lambda place: (max(counts[place] - most + 1, 0), copies[place]))
        chosen[web.first[expert] + places.index(best)] = 1
        counts[best] += 1
        copies[best] += tokens[expert]
    balance(web, chosen, counts)
    copies = list(loads)
    for first, places, amount in zip(web.first, web.holders, tokens, strict=True):
        for row, place in enumerate(places, first):
            copies[place] += chosen[row] * amount
    return chosen, max(counts), max(copies)


@dataclass(frozen=True)
class Metro:
    """Every expert is computed by one of its replicas, so that no device reads more weights than it must.

    Decode is bound by reading weights, and an expert's weights are read by every device that computes any
    of its copies. The largest number of activated experts per device is the least possible; among choices
    with that number, one with few copies on the fullest device is looked for.
    """

    parameters: MetroParameters = field(default_factory=MetroParameters)
    name: ClassVar[str] = "metro"
    summary: ClassVar[str] = (
        "one replica per expert, so that the most activated experts of a device are fewest"
    )
    needs: ClassVar[str] = "counts of the step; a placement with copies"
    source: ClassVar[str] = "METRO (arXiv 2512.09277), with the choice made optimal"
    exact: ClassVar[bool] = True
    parameters_type: ClassVar[type[Parameters]] = MetroParameters

    def plan(self, load: Load, placement: Placement, view: ClusterView) -> DispatchPlan:
        """Plan all MoE layers of one step.

        Raises:
            InputError: load and placement differ in layers, devices or experts.
        """
        index = index_for(load, placement)
        shared, totals = shared_rows(index), load.per_expert.ravel()
        copies = even_totals(index, totals)
        copies[shared.rows] = 0
        loads = index.sum_per_device(copies).reshape(load.layers, load.devices)
        active = index.sum_per_device((copies > 0).astype(np.int64)).reshape(load.layers, load.devices)
        chosen: list[int] = [0] * shared.rows.size
        planned = np.zeros(load.layers, dtype=bool)
        of_row = totals[index.key[shared.rows]]
        for layer, web in enumerate(shared.webs):
            begin, end = shared.starts[layer], shared.starts[layer + 1]
            if web is not None and of_row[begin:end].any():
                planned[layer] = True
                tokens = of_row[begin:end][list(web.first)].tolist()
                chosen[begin:end] = choose(web, tokens, active[layer].tolist(), loads[layer].tolist())
        copies[shared.rows] = of_row * np.asarray(chosen, dtype=np.int64)
        return replace(plan_in_proportion(load, index, copies, shared.by_rank), planned=planned)

    def planning_seconds(self, experts: int, devices: int) -> float:
        """Return the time to plan one layer (s), charged only where an expert has a choice of devices."""
        return self.parameters.planning_s
