"""Prophet-like dispatch: hot experts are given to subsets of devices, whose tokens then stay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from pydantic import Field

from moesim.policies.base import ClusterView, Parameters
from moesim.policies.dispatch.local import copies_by_source, keep_local
from moesim.policies.dispatch.placement_index import index_for
from moesim.policies.dispatch.subsets import LayerModel, plan_subsets
from moesim.policies.plan import DispatchPlan, Placement, WeightMoves
from moesim.policies.prediction import AnyPredictor, LastWindow
from moesim.policies.quantities import Seconds
from moesim.routing.load import Load


class ProphetParameters(Parameters):
    """Parameters of Prophet-like dispatch."""

    max_experts: int | None = Field(
        default=None,
        json_schema_extra={"tune": [0, "experts"]},
        ge=0,
        description="most experts of a layer that are given to other devices; by default any",
    )
    predictor: AnyPredictor = Field(
        default_factory=LastWindow,
        description="load that subsets are chosen for; last_window: the locality between iterations that"
        " Prophet builds on",
    )
    planning_per_expert_s: Seconds = Field(
        default=0.0,
        ge=0,
        description="planning time per expert; 0: the planner runs beside the layers before, as in"
        " Pro-Prophet",
    )
    planning_fixed_s: Seconds = Field(
        default=0.0, ge=0, description="planning time besides that of the experts"
    )


@dataclass(frozen=True)
class Prophet:
    """Devices that are given an expert compute their own copies for it; other copies go home.

    What the devices that are not given an expert send goes to where it stands, whatever was predicted.
    """

    parameters: ProphetParameters = field(default_factory=ProphetParameters)
    name: ClassVar[str] = "prophet"
    summary: ClassVar[str] = "hot experts go to the subset of devices where a performance model finds it pays"
    needs: ClassVar[str] = "predicted or exact counts; room for copies"
    source: ClassVar[str] = "Prophet (CLUSTER 2023), Pro-Prophet (arXiv 2411.10003), by their abstracts"
    exact: ClassVar[bool] = True
    parameters_type: ClassVar[type[Parameters]] = ProphetParameters

    def plan(self, load: Load, placement: Placement, view: ClusterView) -> DispatchPlan:
        """Plan all MoE layers of one step.

        Raises:
            InputError: load and placement differ in layers, devices or experts.
        """
        index = index_for(load, placement)
        counts = copies_by_source(self.parameters.predictor.predict(load, view))
        model, held = LayerModel.of(view), index.held()
        limit = self.parameters.max_experts
        most = load.experts if limit is None else min(limit, load.experts)
        given = np.stack(
            [
                plan_subsets(
                    counts[layer], index.home[layer], held[layer], model, view.free_expert_slots, most
                )
                for layer in range(load.layers)
            ]
        )
        keeps = given | (held & given.any(axis=1, keepdims=True))
        assignments, traffic = keep_local(load, placement, view, keeps)
        layer, target, expert = np.nonzero(given)
        moves = WeightMoves(layer, expert, index.home[layer, expert], target)
        planned = np.asarray(load.counts.any(axis=(1, 2)), dtype=np.bool_)
        return DispatchPlan(assignments, traffic, planned, moves)

    def planning_seconds(self, experts: int, devices: int) -> float:
        """Return the time to predict and to plan one layer (s)."""
        given = self.parameters
        return given.predictor.overhead_s + given.planning_fixed_s + given.planning_per_expert_s * experts
