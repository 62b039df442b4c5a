"""FasterMoE's dynamic shadowing: experts with many copies are given to all devices, tokens stay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.policies.base import ClusterView, Parameters
from moesim.policies.dispatch.local import copies_by_source, keep_local
from moesim.policies.dispatch.placement_index import index_for
from moesim.policies.dispatch.rates import copy_seconds, wire_bandwidth
from moesim.policies.dispatch.shadowing import ShadowCosts, shadow_counts, shadow_order
from moesim.policies.plan import DispatchPlan, Placement, WeightMoves
from moesim.policies.prediction import AnyPredictor, Oracle
from moesim.policies.quantities import BytesPerSecond, FlopsPerSecond, Seconds
from moesim.routing.load import Load

BoolArray = npt.NDArray[np.bool_]


class FasterMoeParameters(Parameters):
    """Parameters of shadowing."""

    iteration: Literal["forward", "training", "prototype"] = Field(
        default="forward",
        json_schema_extra={"tune": False},
        description="what the performance model counts: forward, the passes of inference; training, the"
        " paper's three GEMM passes, four exchanges, weights out and gradients back; prototype, that with its"
        " GEMM passes times bytes per element, as the released prototype has it",
    )
    gemm_flops: FlopsPerSecond | None = Field(
        default=None, gt=0, description="arithmetic of a device (FLOP/s); by default the machine's"
    )
    network_bandwidth: BytesPerSecond | None = Field(
        default=None, gt=0, description="what a device sends (bytes/s); by default the machine's slowest tier"
    )
    predictor: AnyPredictor = Field(
        default_factory=Oracle,
        description="load that shadows are chosen for; oracle: the counts exchanged before dispatch",
    )
    planning_per_expert_s: Seconds = Field(
        default=5e-6, ge=0, description="planning time per expert: Python, as measured for LLEP"
    )
    planning_fixed_s: Seconds = Field(
        default=20e-6, ge=0, description="planning time besides that: counts read back from the GPU"
    )


@dataclass(frozen=True)
class FasterMoe:
    """Every device gets the weights of shadowed experts and computes its own copies for them."""

    parameters: FasterMoeParameters = field(default_factory=FasterMoeParameters)
    name: ClassVar[str] = "fastermoe"
    summary: ClassVar[str] = "weights of experts with many copies go to all devices, their tokens stay"
    needs: ClassVar[str] = "predicted or exact counts; room for shadowed experts"
    source: ClassVar[str] = "FasterMoE (PPoPP 2022); thu-pacman/FasterMoE de4d5ac"
    exact: ClassVar[bool] = True
    parameters_type: ClassVar[type[Parameters]] = FasterMoeParameters

    def plan(self, load: Load, placement: Placement, view: ClusterView) -> DispatchPlan:
        """Plan all MoE layers of one step.

        Raises:
            InputError: load and placement differ in layers, devices or experts.
        """
        index = index_for(load, placement)
        shadowed = self._shadowed(self.parameters.predictor.predict(load, view), index.home, view)
        keeps = np.repeat(shadowed[:, np.newaxis], load.devices, axis=1)
        assignments, traffic = keep_local(load, placement, view, keeps)
        layer, target, expert = np.nonzero(keeps & ~index.held())
        moves = WeightMoves(layer, expert, index.home[layer, expert], target)
        planned = load.counts.any(axis=(1, 2))
        return DispatchPlan(assignments, traffic, np.asarray(planned, dtype=np.bool_), moves)

    def costs(self, view: ClusterView) -> ShadowCosts:
        """Return the constants of the performance model on a machine."""
        given = self.parameters
        flops = view.flops if given.gemm_flops is None else given.gemm_flops
        wire = wire_bandwidth(view) if given.network_bandwidth is None else given.network_bandwidth
        trains = given.iteration != "forward"
        copy = copy_seconds(view) * view.flops / flops * (3 if trains else 1)
        if given.iteration == "prototype" and view.hidden:
            copy *= view.token_bytes / view.hidden
        ways = 2 if trains else 1
        return ShadowCosts(copy, 2 * ways * view.token_bytes / wire, ways * view.expert_bytes / wire)

    def _shadowed(self, load: Load, homes: npt.NDArray[np.int64], view: ClusterView) -> BoolArray:
        """Say which experts get shadows, bool [layers, experts]."""
        counts = copies_by_source(load)
        shadowed = np.zeros((load.layers, load.experts), dtype=bool)
        most = min(load.experts, view.free_expert_slots)
        if load.devices == 1 or most == 0:
            return shadowed
        chosen = shadow_counts(counts, homes, self.costs(view), most)
        first = np.arange(load.experts) < chosen[:, np.newaxis]
        np.put_along_axis(shadowed, shadow_order(counts), first, axis=1)
        return shadowed

    def planning_seconds(self, experts: int, devices: int) -> float:
        """Return the time to predict and to plan one layer (s)."""
        given = self.parameters
        return given.predictor.overhead_s + given.planning_fixed_s + given.planning_per_expert_s * experts
