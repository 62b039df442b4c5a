"""The contract of a policy: pure decisions from what a real system would know.

A placement policy turns past loads into a placement; a dispatch policy turns the load of a step into
a plan. Neither sees time, SimPy or random state, and neither keeps anything between calls. A
``Policy`` is one of each under one name, which is what users compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from moesim.policies.past import Past
from moesim.policies.plan import DispatchPlan, Placement
from moesim.routing.load import Load

if TYPE_CHECKING:
    from moesim.policies.offload.system import Offload
    from moesim.policies.refresh import Refresh


class Parameters(BaseModel):
    """Typed parameters of a policy: frozen, unknown keys refused, defaults always usable."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, eq=False)
class ClusterView:
    """What a policy may know of the machine and the model, read only.

    Attributes:
        devices: number of devices of the expert-parallel group.
        node_of: node that each device is in, int64 [devices].
        experts: routed experts per layer.
        top_k: experts per token.
        expert_bytes: weight bytes of one expert.
        token_bytes: bytes of one token copy on the wire, one way.
        expert_groups: routing groups of the model (1 where it has none).
        free_expert_slots: experts of one layer that a device's memory can hold beyond its share.
        past: what is known of the past besides copies per expert; None where there is none.
        speed: arithmetic of each device relative to the fastest, [devices]; None: all alike.
        flops: arithmetic of the fastest device in the experts' format (FLOP/s).
        expert_flops: arithmetic of one token copy (FLOP).
        memory_bandwidth: of a device's own memory (bytes/s).
        inside_bandwidth: what a device sends inside its node (bytes/s).
        between_bandwidth: what a device sends between nodes (bytes/s); 0 on one node.
        host_bandwidth: what a device loads from its host's memory (bytes/s); 0 without a host.
        hidden: width of a token.
        intermediate: width of an expert.
    """

    devices: int
    node_of: npt.NDArray[np.int64]
    experts: int
    top_k: int
    expert_bytes: int
    token_bytes: int
    expert_groups: int = 1
    free_expert_slots: int = 1 << 30
    past: Past | None = None
    speed: npt.NDArray[np.float64] | None = None
    flops: float = 1e15
    expert_flops: float = 1e8
    memory_bandwidth: float = 1e12
    inside_bandwidth: float = 1e11
    between_bandwidth: float = 0.0
    host_bandwidth: float = 0.0
    hidden: int = 0
    intermediate: int = 0

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return int(np.unique(self.node_of).size)


@runtime_checkable
class PlacementPolicy(Protocol):
    """Decides which device holds which expert.

    One that looks at no past loads may say so with a class attribute ``looks_back = False``: it is then given
    zeros, and none are drawn.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    parameters_type: ClassVar[type[Parameters]]
    parameters: Any

    def place(self, statistics: npt.NDArray[np.int64], view: ClusterView) -> Placement:
        """Place experts given past copies per expert, int64 [layers, experts]."""
        ...


@runtime_checkable
class DispatchPolicy(Protocol):
    """Decides which device computes which token copies of a step."""

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    exact: ClassVar[bool]
    parameters_type: ClassVar[type[Parameters]]
    parameters: Any

    def plan(self, load: Load, placement: Placement, view: ClusterView) -> DispatchPlan:
        """Plan all MoE layers of one step."""
        ...

    def planning_seconds(self, experts: int, devices: int) -> float:
        """Return the time to compute the plan of one layer, a parameter of the policy (s)."""
        ...


@dataclass(frozen=True)
class Policy:
    """A placement and a dispatch policy under one name: what users compare.

    Attributes:
        name: what results call it.
        placement: which device holds which expert.
        dispatch: which device computes which token copies.
        refresh: how the placement follows the loads; None leaves it as it was before the first step.
        offload: how experts come from host memory or a drive; None keeps all of them on the devices.
    """

    name: str
    placement: PlacementPolicy
    dispatch: DispatchPolicy
    refresh: Refresh | None = None
    offload: Offload | None = None

    @property
    def exact(self) -> bool:
        """Whether the output of the model stays as it is."""
        return self.dispatch.exact and (self.offload is None or self.offload.exact)
