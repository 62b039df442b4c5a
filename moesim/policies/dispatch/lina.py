"""Lina-like dispatch: popular experts get proportionally more devices, by their predicted popularity."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.policies.base import ClusterView, Parameters
from moesim.policies.dispatch.placement_index import PlacementIndex, index_for
from moesim.policies.dispatch.popularity import quotas, schedule_experts
from moesim.policies.dispatch.standard import Standard
from moesim.policies.plan import DispatchPlan, Placement, WeightMoves
from moesim.policies.prediction import AnyPredictor, Oracle
from moesim.policies.quantities import Seconds
from moesim.routing.load import Load

IntArray = npt.NDArray[np.int64]


class LinaParameters(Parameters):
    """Parameters of Lina-like dispatch."""

    alpha: float = Field(
        default=1.1,
        json_schema_extra={"tune": [1.0, 4.0, "log"]},
        gt=0,
        description="predicted copies above which cold experts leave a device, in even shares (no value is"
        " published)",
    )
    correct_above: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="share of copies predicted wrong above which a layer is planned again for its real load;"
        " 1: never (no value is published)",
    )
    predictor: AnyPredictor = Field(
        default_factory=Oracle,
        description="popularity; oracle: the best that an estimate from earlier layers could be",
    )
    planning_per_expert_s: Seconds = Field(
        default=0.0,
        ge=0,
        description="planning time per expert; 0: experts are scheduled while the layer before runs",
    )
    planning_fixed_s: Seconds = Field(
        default=0.0, ge=0, description="planning time besides that of the experts"
    )


@dataclass(frozen=True)
class Lina:
    """Popular experts get more devices, in proportion to predicted copies; cold ones are packed together.

    All devices of an expert share its copies evenly, however many there turn out to be.
    """

    parameters: LinaParameters = field(default_factory=LinaParameters)
    name: ClassVar[str] = "lina"
    summary: ClassVar[str] = "popular experts get proportionally more devices, cold ones are packed"
    needs: ClassVar[str] = "predicted or exact counts; room for copies"
    source: ClassVar[str] = "Lina (USENIX ATC 2023), popularity scheduling for inference, by its abstract"
    exact: ClassVar[bool] = True
    parameters_type: ClassVar[type[Parameters]] = LinaParameters

    def plan(self, load: Load, placement: Placement, view: ClusterView) -> DispatchPlan:
        """Plan all MoE layers of one step.

        Raises:
            InputError: load and placement differ in layers, devices or experts.
        """
        index = index_for(load, placement)
        predicted = self.parameters.predictor.predict(load, view).per_expert
        real = load.per_expert
        wrong = np.abs(predicted - real).sum(axis=1) > 2 * self.parameters.correct_above * real.sum(axis=1)
        scheduled = self._scheduled(np.where(wrong[:, np.newaxis], real, predicted), placement, index, view)
        standard = Standard()
        plan = standard.plan(load, scheduled, view)
        there = index_for(load, scheduled)
        sent = ~index.holds(there.layer, there.device, there.expert)
        layer, expert, target = there.layer[sent], there.expert[sent], there.device[sent]
        moves = WeightMoves(layer, expert, index.home[layer, expert], target)
        planned = np.asarray(real.any(axis=1), dtype=np.bool_)
        return DispatchPlan(plan.assignments, plan.traffic, planned, moves)

    def _scheduled(
        self, popularity: IntArray, placement: Placement, index: PlacementIndex, view: ClusterView
    ) -> Placement:
        """Return the placement that experts have for this step only."""
        quota = quotas(popularity, index.devices)
        capacity = self.parameters.alpha * popularity.sum(axis=1) / index.devices
        # An expert that is not rescheduled stands in all of its slots.
        slots: list[list[list[int]]] = [
            [[e for e in row if e >= 0] for row in layer] for layer in placement.slots.tolist()
        ]
        for layer in np.flatnonzero(self._uneven(popularity, quota, capacity, index)).tolist():
            held: list[list[int]] = [[] for _ in range(index.experts)]
            for device, row in enumerate(slots[layer]):
                for expert in dict.fromkeys(row):
                    held[expert].append(device)
            chosen = schedule_experts(
                popularity[layer].tolist(),
                quota[layer].tolist(),
                held,
                index.devices,
                float(capacity[layer]),
                view.free_expert_slots,
            )
            slots[layer] = [[e for e in row if e not in chosen] for row in slots[layer]]
            for expert, devices in chosen.items():
                for device in devices:
                    slots[layer][device].append(expert)
        width = max((len(row) for rows in slots for row in rows), default=0)
        padded = [[row + [-1] * (width - len(row)) for row in rows] for rows in slots]
        return Placement(np.asarray(padded, dtype=np.int64), placement.experts)

    @staticmethod
    def _uneven(
        popularity: IntArray, quota: IntArray, capacity: npt.NDArray[np.float64], index: PlacementIndex
    ) -> npt.NDArray[np.bool_]:
        """Say in which layers something is to be rescheduled, bool [layers]."""
        at_home = np.where(index.first == 0, popularity.ravel()[index.key], 0)
        busiest = index.sum_per_device(at_home).reshape(index.layers, index.devices).max(axis=1)
        return np.asarray((quota > 1).any(axis=1) | (busiest > capacity), dtype=np.bool_)

    def planning_seconds(self, experts: int, devices: int) -> float:
        """Return the time to predict and to plan one layer (s)."""
        given = self.parameters
        return given.predictor.overhead_s + given.planning_fixed_s + given.planning_per_expert_s * experts
