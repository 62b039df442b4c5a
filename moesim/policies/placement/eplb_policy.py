"""EPLB as a placement policy: how many slots, which form, which devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.errors import InputError
from moesim.policies.base import ClusterView, Parameters
from moesim.policies.placement.eplb import balance, divides
from moesim.policies.placement.kept_slots import kept
from moesim.policies.plan import Placement

IntArray = npt.NDArray[np.int64]


class SlotParameters(Parameters):
    """Which slots EPLB fills; parameters of all of its variants."""

    redundant: int | None = Field(
        default=None,
        ge=0,
        json_schema_extra={"tune": [0, "experts"]},
        description="copies per layer beyond one of each expert; by default one slot more per device than"
        " an even share has, if memory holds it (32 for DeepSeek-V3 on 32 devices)",
    )
    mode: Literal["auto", "global", "hierarchical"] = Field(
        default="auto",
        description="hierarchical keeps the copies of a routing group in one node; auto does so where the"
        " numbers divide",
    )
    groups: int | None = Field(default=None, ge=1, description="routing groups; by default the model's")
    dead: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(),
        description="devices that hold no experts; the others are then filled without regard to nodes"
        " (SGLang's elasticity_aware)",
    )


def slots_per_device(experts: int, redundant: int | None, devices: int, free: int) -> IntArray:
    """Count the slots of each device of a layer, int64 [devices].

    If the devices do not divide the slots, the last devices have one more: the first ones receive the
    heaviest copies, so the lightest find their way to devices whose load is light.

    Raises:
        InputError: more redundant experts than the memory of a device holds.
    """
    share = -(-experts // devices)
    if redundant is None:
        per_device = min(experts // devices + 1, share + free)
        return np.full(devices, per_device, dtype=np.int64)
    total = experts + redundant
    room = np.full(devices, total // devices, dtype=np.int64)
    room[devices - total % devices :] += 1
    if int(room.max()) > share + free:
        fits = max(0, (share + free) * devices - experts)
        message = (
            f"eplb: {redundant} redundant experts need {int(room.max())} slots per device and layer,"
            f" memory holds {share + free}"
        )
        raise InputError(message, hint=f"at most {fits} fit")
    return room


def room_of(asked: SlotParameters, view: ClusterView) -> IntArray:
    """Return the slots of each device, int64 [devices]; 0 on dead ones.

    Raises:
        InputError: the redundant experts do not fit in memory, or the living devices hold too few experts.
    """
    room = slots_per_device(view.experts, asked.redundant, view.devices, view.free_expert_slots)
    gone = sorted(set(asked.dead))
    if not gone:
        return room
    if gone[-1] >= view.devices:
        message = f"eplb: device {gone[-1]} cannot be dead, there are {view.devices} devices"
        raise InputError(message, hint="they count from 0")
    room[gone] = 0
    if int(room.sum()) < view.experts:
        message = (
            f"eplb: without {len(gone)} of {view.devices} devices {int(room.sum())} slots are left for"
            f" {view.experts} experts"
        )
        raise InputError(message, hint="more redundant experts leave more slots")
    return room


def form(name: str, asked: SlotParameters, view: ClusterView, slots: int) -> tuple[int, int, IntArray]:
    """Choose between the hierarchical and the global form.

    Args:
        name: of the policy, for messages.
        asked: its parameters.
        view: the machine.
        slots: slots of all devices.

    Returns:
        Groups and nodes, both 1 in the global form, and the devices in the order in which they are filled.

    Raises:
        InputError: the hierarchical form is asked for and the numbers do not divide.
    """
    groups, nodes = asked.groups or view.expert_groups, view.nodes
    if asked.dead:
        return 1, 1, np.setdiff1d(np.arange(view.devices), asked.dead)
    sizes = np.unique(view.node_of, return_counts=True)[1]
    obstacle = divides(slots, view.experts, groups, nodes, view.devices)
    if int(sizes.min()) != int(sizes.max()):
        obstacle = "nodes have different numbers of devices"
    if asked.mode == "hierarchical" and obstacle:
        message = f"{name}: the hierarchical form cannot be used: {obstacle}"
        raise InputError(message, hint="set mode to 'auto' or 'global'")
    if asked.mode == "global" or obstacle:
        return 1, 1, np.arange(view.devices)
    return groups, nodes, np.argsort(view.node_of, kind="stable")


def spread_slots(flat: IntArray, room: IntArray, order: IntArray, view: ClusterView) -> Placement:
    """Return the placement of experts listed device after device.

    Args:
        flat: expert of each slot, int64 [layers, slots].
        room: slots of each listed device, int64 [listed].
        order: the listed devices, int64 [listed].
        view: the machine.
    """
    slots = np.full((flat.shape[0], order.size, int(room.max())), -1, dtype=np.int64)
    slots[:, np.arange(int(room.max())) < room[:, np.newaxis]] = flat
    placed = np.full((flat.shape[0], view.devices, int(room.max())), -1, dtype=np.int64)
    placed[:, order] = slots
    return Placement(placed, view.experts)


class EplbParameters(SlotParameters):
    """Parameters of EPLB."""

    keep_slots: bool = Field(
        default=False,
        json_schema_extra={"tune": False},
        description="at a refresh, experts that stay on a device keep their slots, as in vLLM",
    )


@dataclass(frozen=True)
class Eplb:
    """Redundant experts placed by DeepSeek's EPLB from past loads."""

    parameters: EplbParameters = field(default_factory=EplbParameters)
    name: ClassVar[str] = "eplb"
    summary: ClassVar[str] = "copies of hot experts, packed onto devices by past load"
    needs: ClassVar[str] = "past loads; room for copies"
    source: ClassVar[str] = "DeepSeek-V3 (arXiv 2412.19437); deepseek-ai/EPLB d52c72d"
    parameters_type: ClassVar[type[Parameters]] = EplbParameters

    def place(self, statistics: npt.NDArray[np.int64], view: ClusterView) -> Placement:
        """Place experts and their copies.

        Args:
            statistics: past copies per expert, int64 [layers, experts].
            view: the machine.

        Raises:
            InputError: the hierarchical form is asked for and the numbers do not divide, or the redundant
                experts do not fit, or too few devices are left.
        """
        room = room_of(self.parameters, view)
        groups, nodes, order = form(self.name, self.parameters, view, int(room.sum()))
        flat, _, _ = balance(np.asarray(statistics, dtype=np.float32), room[order], groups, nodes)
        placement = spread_slots(flat, room[order], order, view)
        return kept(placement, view) if self.parameters.keep_slots else placement
