"""EPLB as a placement policy: how many slots, which form, which devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.errors import InputError
from moesim.policies.base import ClusterView, Parameters
from moesim.policies.placement.eplb import balance, divides
from moesim.policies.plan import Placement

IntArray = npt.NDArray[np.int64]


class EplbParameters(Parameters):
    """Parameters of EPLB."""

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


@dataclass(frozen=True)
class Eplb:
    """Redundant experts placed by DeepSeek's EPLB from past loads."""

    parameters: EplbParameters = field(default_factory=EplbParameters)
    name: ClassVar[str] = "eplb"
    summary: ClassVar[str] = "copies of hot experts, packed onto devices by past load"
    source: ClassVar[str] = "DeepSeek-V3 (arXiv 2412.19437); deepseek-ai/EPLB d52c72d"
    parameters_type: ClassVar[type[Parameters]] = EplbParameters

    def place(self, statistics: npt.NDArray[np.int64], view: ClusterView) -> Placement:
        """Place experts and their copies.

        Args:
            statistics: past copies per expert, int64 [layers, experts].
            view: the machine.

        Raises:
            InputError: the hierarchical form is asked for and the numbers do not divide, or the
                redundant experts do not fit.
        """
        asked = self.parameters
        room = slots_per_device(view.experts, asked.redundant, view.devices, view.free_expert_slots)
        groups, nodes = asked.groups or view.expert_groups, view.nodes
        order = np.argsort(view.node_of, kind="stable")
        obstacle = self._obstacle(view, int(room.sum()), groups)
        if asked.mode == "hierarchical" and obstacle:
            message = f"eplb: the hierarchical form cannot be used: {obstacle}"
            raise InputError(message, hint="set mode to 'auto' or 'global'")
        if asked.mode == "global" or obstacle:
            groups, nodes, order = 1, 1, np.arange(view.devices)
        flat, _, _ = balance(np.asarray(statistics, dtype=np.float32), room, groups, nodes)
        slots = np.full((flat.shape[0], view.devices, int(room.max())), -1, dtype=np.int64)
        position = np.arange(int(room.max())) < room[:, np.newaxis]
        slots[:, position] = flat
        placed = np.empty_like(slots)
        placed[:, order] = slots
        return Placement(placed, view.experts)

    @staticmethod
    def _obstacle(view: ClusterView, slots: int, groups: int) -> str | None:
        """Say why the hierarchical form cannot be used on this machine."""
        sizes = np.unique(view.node_of, return_counts=True)[1]
        if int(sizes.min()) != int(sizes.max()):
            return "nodes have different numbers of devices"
        return divides(slots, view.experts, groups, view.nodes, view.devices)
