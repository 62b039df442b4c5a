"""Greedy placement: experts by falling load, each to the device that would be done first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.policies.base import ClusterView, Parameters
from moesim.policies.placement.layout import check_redundant, most_slots, slots_of
from moesim.policies.placement.packing import replicate
from moesim.policies.plan import Placement

IntArray = npt.NDArray[np.int64]


class GreedyParameters(Parameters):
    """Parameters of the greedy placement."""

    counts: Literal["equal", "memory"] = Field(
        default="equal",
        description="equal: as many experts on every device, give or take one; memory: as many as its memory"
        " holds",
    )
    redundant: int = Field(
        default=0,
        json_schema_extra={"tune": [0, "experts"]},
        ge=0,
        description="copies per layer beyond one of each expert, each given to the largest load per copy",
    )


@dataclass(frozen=True)
class Greedy:
    """Experts by falling load, each to the device that would have computed its load first.

    This is the longest-processing-time rule; on unlike devices a load takes load / speed. Copies of an
    expert go to different devices as long as there are any with room.
    """

    parameters: GreedyParameters = field(default_factory=GreedyParameters)
    name: ClassVar[str] = "greedy"
    summary: ClassVar[str] = "experts by falling load to the least loaded device, regarding speeds"
    needs: ClassVar[str] = "past loads"
    source: ClassVar[str] = "longest processing time first (Graham, SIAM J. Appl. Math. 17, 1969)"
    parameters_type: ClassVar[type[Parameters]] = GreedyParameters

    def place(self, statistics: npt.NDArray[np.int64], view: ClusterView) -> Placement:
        """Place experts by past load.

        Args:
            statistics: past copies per expert, int64 [layers, experts].
            view: the machine.

        Raises:
            InputError: the redundant experts do not fit.
        """
        check_redundant(self.name, self.parameters.redundant, view)
        items = view.experts + self.parameters.redundant
        limit = most_slots(view) if self.parameters.counts == "memory" else -(-items // view.devices)
        # Devices that may hold one more than the others; all may where only memory counts.
        fuller = items % view.devices if self.parameters.counts == "equal" else 0
        loads = np.asarray(statistics, dtype=np.float64)
        expert, _, copies = replicate(loads.astype(np.float32), items)
        weight = np.take_along_axis(loads / copies, expert, axis=1)
        order = np.argsort(-weight, axis=1, kind="stable")
        weight, expert = np.take_along_axis(weight, order, axis=1), np.take_along_axis(expert, order, axis=1)
        device = _deal(weight, expert, view, limit, fuller or view.devices)
        return Placement(slots_of(device, view.devices, expert), view.experts)


def _deal(
    weight: npt.NDArray[np.float64], expert: IntArray, view: ClusterView, limit: int, fuller: int
) -> IntArray:
    """Choose a device for each item in turn, int64 [layers, items].

    Args:
        weight: load of each item, heaviest first [layers, items].
        expert: expert of each item [layers, items].
        view: the machine.
        limit: most experts per device.
        fuller: devices that may be filled up to the limit; the others stop one before it.
    """
    layers, items = weight.shape
    speed = np.ones(view.devices) if view.speed is None else np.asarray(view.speed, dtype=np.float64)
    carried = np.zeros((layers, view.devices))
    filled = np.zeros((layers, view.devices), dtype=np.int64)
    holds = np.zeros((layers, view.devices, view.experts), dtype=np.bool_)
    chosen = np.empty((layers, items), dtype=np.int64)
    every = np.arange(layers)
    for turn in range(items):
        item = expert[:, turn]
        full = (filled == limit).sum(axis=1, keepdims=True)
        open_to = (filled < limit - 1) | ((filled == limit - 1) & (full < fuller))
        # A second copy on one device helps nobody: only where there is no other room.
        apart = open_to & ~holds[every, :, item]
        usable = np.where(apart.any(axis=1, keepdims=True), apart, open_to)
        done = np.where(usable, (carried + weight[:, turn, np.newaxis]) / speed, np.inf)
        least = done.min(axis=1, keepdims=True)
        # Among equals the emptiest takes it: experts without load spread out.
        device = np.where(done == least, filled, items + 1).argmin(axis=1)
        chosen[:, turn] = device
        carried[every, device] += weight[:, turn]
        filled[every, device] += 1
        holds[every, device, item] = True
    return chosen
