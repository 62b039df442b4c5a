"""LPLB: how many copies every replica computes, by a linear program per layer and batch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from moesim.policies.base import ClusterView, Parameters
from moesim.policies.dispatch.min_max import balance
from moesim.policies.dispatch.placement_index import index_for
from moesim.policies.dispatch.replica_choice import even_totals
from moesim.policies.dispatch.row_plans import plan_in_proportion
from moesim.policies.dispatch.shared_rows import shared_rows
from moesim.policies.plan import DispatchPlan, Placement
from moesim.policies.quantities import Seconds
from moesim.routing.load import Load


class LplbParameters(Parameters):
    """Parameters of LPLB."""

    planning_s: Seconds = Field(
        default=100e-6,
        ge=0,
        description="planning time of a layer: the solver's own figure inside one node (LPLB's README: about"
        " 100 us, longer between nodes)",
    )


@dataclass(frozen=True)
class Lplb:
    """Replicas share the copies of their expert so that the largest load is as small as it can be.

    The linear program of LPLB (as SGLang's 'lp' dispatch states it), solved exactly and in whole copies:
    where all devices are equal, the largest load is the optimum of the program, rounded up. Otherwise the
    largest ratio of load and speed is minimised. Each source sends every replica its share of its copies.
    """

    parameters: LplbParameters = field(default_factory=LplbParameters)
    name: ClassVar[str] = "lplb"
    summary: ClassVar[str] = "replicas share copies so that the largest load of a device is least"
    needs: ClassVar[str] = "counts of the step; a placement with copies"
    source: ClassVar[str] = "deepseek-ai/LPLB; the program as in SGLang's 'lp' dispatch"
    exact: ClassVar[bool] = True
    parameters_type: ClassVar[type[Parameters]] = LplbParameters

    def plan(self, load: Load, placement: Placement, view: ClusterView) -> DispatchPlan:
        """Plan all MoE layers of one step.

        Raises:
            InputError: load and placement differ in layers, devices or experts.
        """
        index = index_for(load, placement)
        shared = shared_rows(index)
        copies = even_totals(index, load.per_expert.ravel())
        loads = index.sum_per_device(copies).reshape(load.layers, load.devices)
        speed = None if view.speed is None or np.ptp(view.speed) == 0 else view.speed.tolist()
        solved: list[int] = copies[shared.rows].tolist()
        planned = np.zeros(load.layers, dtype=bool)
        for layer, web in enumerate(shared.webs):
            part = slice(shared.starts[layer], shared.starts[layer + 1])
            if web is not None and any(solved[part]):
                planned[layer] = True
                solved[part] = balance(web, solved[part], loads[layer].tolist(), speed)[0]
        copies[shared.rows] = solved
        return replace(plan_in_proportion(load, index, copies, shared.by_rank), planned=planned)

    def planning_seconds(self, experts: int, devices: int) -> float:
        """Return the time to plan one layer (s), charged only where an expert has a choice of devices."""
        return self.parameters.planning_s
