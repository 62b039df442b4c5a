"""Standard expert parallelism: tokens go to where their expert stands."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.hardware.traffic import Traffic
from moesim.policies.base import ClusterView, Parameters
from moesim.policies.dispatch import replica_choice, source_choice
from moesim.policies.dispatch.fitting import fitted
from moesim.policies.dispatch.placement_index import PlacementIndex, columns_per_source, index_for
from moesim.policies.dispatch.row_plans import plan_of_split, plan_of_totals
from moesim.policies.plan import DispatchPlan, Placement
from moesim.routing.load import Load

FloatArray = npt.NDArray[np.float64]


class StandardParameters(Parameters):
    """Parameters of standard dispatch."""

    replica_choice: Literal["even", "nearest", "static", "round_robin", "random"] = Field(
        default="even",
        description="even: all replicas of an expert share its copies; nearest: replicas of the same device,"
        " else of the same node, else all; static: one replica for each source, the nearest; round_robin:"
        " every source deals its copies to the replicas in turn; random: uniform for every copy",
    )
    seed: int = Field(default=0, ge=0, description="seed of the random choice")


@dataclass(frozen=True)
class Standard:
    """Every copy is computed where its expert stands; replicas share the copies of an expert."""

    parameters: StandardParameters = field(default_factory=StandardParameters)
    name: ClassVar[str] = "standard"
    summary: ClassVar[str] = "tokens go to the devices that hold their experts"
    needs: ClassVar[str] = "nothing"
    source: ClassVar[str] = (
        "GShard (arXiv 2006.16668); random and static replicas are SGLang's 'dynamic' and 'static'"
    )
    exact: ClassVar[bool] = True
    parameters_type: ClassVar[type[Parameters]] = StandardParameters

    def plan(self, load: Load, placement: Placement, view: ClusterView) -> DispatchPlan:
        """Plan all MoE layers of one step; nothing needs to be computed for it at run time.

        Raises:
            InputError: load and placement differ in layers, devices or experts.
        """
        index = index_for(load, placement)
        choice = self.parameters.replica_choice if index.shared.size else "even"
        if load.is_pooled:
            return self._pooled(choice, load, index, view)
        columns = columns_per_source(load)
        if choice == "nearest":
            split = replica_choice.nearest(index, columns, view.node_of)
        elif choice == "static":
            split = source_choice.static(index, columns, view.node_of)
        elif choice == "round_robin":
            split = source_choice.round_robin(index, columns)
        elif choice == "random":
            split = source_choice.random(index, columns, self.parameters.seed)
        else:
            split = replica_choice.even(index, columns)
        return plan_of_split(load, index, split)

    def _pooled(self, choice: str, load: Load, index: PlacementIndex, view: ClusterView) -> DispatchPlan:
        """Split totals as if every source had its share of every expert; whose turn it is is not known."""
        totals = load.per_expert.ravel()
        if choice == "nearest":
            share = replica_choice.nearest_share(index, load.share, view.node_of)
        elif choice == "static":
            every = np.repeat(load.share[:, np.newaxis], totals.size, axis=1)
            share = source_choice.static(index, every, view.node_of)
        elif choice == "random":
            columns = totals[np.newaxis]
            return plan_of_totals(load, index, source_choice.random(index, columns, self.parameters.seed)[0])
        else:
            return plan_of_totals(load, index, replica_choice.even_totals(index, totals))
        parts = share * totals[index.key]
        copies = replica_choice.largest_remainder(parts.sum(axis=0), index.key, totals)
        inbound = index.sum_per_device(copies).reshape(load.layers, load.devices)
        pairs = index.sum_per_device(parts).reshape(load.devices, load.layers, load.devices)
        traffic = Traffic.of_pairs(fitted(pairs.transpose(1, 0, 2), inbound.astype(np.float64)))
        return replace(plan_of_totals(load, index, copies), traffic=traffic)

    def planning_seconds(self, experts: int, devices: int) -> float:
        """Return zero: the destination of a copy is a table look-up inside the permute kernel."""
        return 0.0
