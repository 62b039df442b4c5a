"""HarMoEny: blocks of tokens go to less loaded devices, which load the expert from their host's memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import Field

from moesim.errors import InputError
from moesim.policies.base import ClusterView, Parameters
from moesim.policies.dispatch.llep import capacity_of, spill
from moesim.policies.dispatch.spilling import Spilt, spilling_plan
from moesim.policies.plan import DispatchPlan, Placement
from moesim.policies.quantities import Seconds
from moesim.routing.load import Load


class HarmoenyParameters(Parameters):
    """Parameters of HarMoEny."""

    block: int | None = Field(
        default=None,
        ge=1,
        description="fewest copies worth sending away; by default as many as a device computes while it loads"
        " one expert from its host",
    )
    alpha: float = Field(
        default=1.0, gt=0, description="copies up to which a device takes over work, in even shares"
    )
    threshold: float = Field(
        default=1.0, ge=0, description="plan where the busiest device has this many times the mean load"
    )
    planning_per_expert_s: Seconds = Field(
        default=5e-6, ge=0, description="planning time per expert: Python, as measured for LLEP"
    )
    planning_fixed_s: Seconds = Field(
        default=20e-6, ge=0, description="planning time besides that: counts read back from the GPU"
    )


@dataclass(frozen=True)
class Harmoeny:
    """Blocks of a hot expert's copies go to the least loaded devices; missing experts come from the host.

    The assignment is that of LLEP, but a block too small to hide the load of its expert is not sent: what no
    device takes stays at home. The kernel of a block waits for its expert, which is loaded beside dispatch.
    """

    parameters: HarmoenyParameters = field(default_factory=HarmoenyParameters)
    name: ClassVar[str] = "harmoeny"
    summary: ClassVar[str] = "blocks of tokens go to the least loaded devices, experts come from host memory"
    needs: ClassVar[str] = "counts of the step; experts in host memory"
    source: ClassVar[str] = "HarMoEny (arXiv 2506.12417), by its abstract; size of a block from its idea"
    exact: ClassVar[bool] = True
    parameters_type: ClassVar[type[Parameters]] = HarmoenyParameters

    def plan(self, load: Load, placement: Placement, view: ClusterView) -> DispatchPlan:
        """Plan all MoE layers of one step.

        Raises:
            InputError: load and placement differ in layers, devices or experts, or devices have no host.
        """
        block, alpha = self.block_of(view), self.parameters.alpha

        def hand_over(counts: list[int], homes: list[int], order: list[int], loads: list[int]) -> Spilt:
            capacity = capacity_of(sum(loads), len(loads), alpha)
            room = view.free_expert_slots
            return spill(counts, homes, order, loads, capacity, block, forced=False, room=room)

        return spilling_plan(load, placement, self.parameters.threshold, hand_over, "host")

    def block_of(self, view: ClusterView) -> int:
        """Return the fewest copies that are worth an expert from the host.

        Raises:
            InputError: devices have no host.
        """
        if view.host_bandwidth <= 0:
            message = f"dispatch policy '{self.name}' loads experts from the host, and the cluster has none"
            raise InputError(message, hint="describe 'host' in the cluster")
        if self.parameters.block is not None:
            return self.parameters.block
        loading = view.expert_bytes / view.host_bandwidth
        return max(1, math.ceil(loading * view.flops / view.expert_flops))

    def planning_seconds(self, experts: int, devices: int) -> float:
        """Return the time to plan one layer (s)."""
        return self.parameters.planning_fixed_s + self.parameters.planning_per_expert_s * experts
