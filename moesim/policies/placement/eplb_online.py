"""Online EPLB: few slot updates at a time towards the placement that EPLB would make.

TensorRT-LLM changes experts of running devices between iterations and limits how many, so that an iteration
hardly waits. Which device holds which of EPLB's sets is free: sets go to the devices that hold most of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.policies.base import ClusterView, Parameters
from moesim.policies.placement.eplb_policy import Eplb, EplbParameters, SlotParameters, form, room_of
from moesim.policies.placement.kept_slots import previous_slots, reordered
from moesim.policies.plan import Placement

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class EplbOnlineParameters(SlotParameters):
    """Parameters of online EPLB."""

    updates: int | None = Field(
        default=None,
        json_schema_extra={"tune": [1, 512, "log"]},
        ge=1,
        description="slots that a refresh may fill anew on a device, over all layers; by default any number"
        " (TensorRT-LLM's aim for DeepSeek-R1 on 64 GB200: 47 per iteration)",
    )


@dataclass(frozen=True)
class EplbOnline:
    """EPLB that changes as few slots as it can, and no more than asked for."""

    parameters: EplbOnlineParameters = field(default_factory=EplbOnlineParameters)
    name: ClassVar[str] = "eplb_online"
    summary: ClassVar[str] = "EPLB by few slot updates per refresh, where they help most"
    needs: ClassVar[str] = "past loads; room for copies; `refresh` to move anything"
    source: ClassVar[str] = "TensorRT-LLM tech blogs 4 and 8; deepseek-ai/EPLB d52c72d"
    parameters_type: ClassVar[type[Parameters]] = EplbOnlineParameters

    def place(self, statistics: npt.NDArray[np.int64], view: ClusterView) -> Placement:
        """Place experts, near the placement in force if there is one.

        A layer changes only if its busiest device gets less to do.

        Args:
            statistics: past copies per expert, int64 [layers, experts].
            view: the machine and the placement in force.

        Raises:
            InputError: as ``Eplb.place``.
        """
        shared = {name: getattr(self.parameters, name) for name in SlotParameters.model_fields}
        target = Eplb(EplbParameters(**shared)).place(statistics, view)
        before = previous_slots(view, target.slots.shape)
        if before is None:
            return target
        nodes = form(self.name, self.parameters, view, int(room_of(self.parameters, view).sum()))[1]
        near = np.stack(
            [
                _relabelled(old, new, view.experts, view.node_of if nodes > 1 else None)
                for old, new in zip(before, target.slots, strict=True)
            ]
        )
        loads = np.asarray(statistics, dtype=np.float64)
        return Placement(_updated(before, near, loads, self.parameters.updates), view.experts)


def _relabelled(old: IntArray, new: IntArray, experts: int, node_of: IntArray | None) -> IntArray:
    """Give the sets of a layer to the devices that lack least of them, experts in their old slots.

    Args:
        old: slots in force, int64 [devices, slots].
        new: slots that each set is for, int64 [devices, slots].
        experts: experts of the layer.
        node_of: node of each device if sets of one node must stay together, int64 [devices].
    """
    devices = len(old)
    have, want = (_copies(slots, experts) for slots in (old, new))
    shared = np.zeros((devices, devices))
    for copies in range(1, int(max(have.max(), want.max())) + 1):
        shared += (have >= copies).astype(np.float64) @ (want >= copies).astype(np.float64).T
    # A set of another size does not fit the device.
    room = (new >= 0).sum(axis=1)
    shared = np.where(room[:, np.newaxis] == room, shared, -float(new.size))
    if node_of is None:
        taken = _assigned(shared)
    else:
        members = [np.flatnonzero(node_of == node) for node in np.unique(node_of)]
        inside = [[_assigned(shared[np.ix_(mine, theirs)]) for theirs in members] for mine in members]
        worth = [
            [shared[mine, theirs[pick]].sum() for theirs, pick in zip(members, picks, strict=True)]
            for mine, picks in zip(members, inside, strict=True)
        ]
        taken = np.empty(devices, dtype=np.int64)
        for node, other in enumerate(_assigned(np.asarray(worth))):
            taken[members[node]] = members[other][inside[node][other]]
    return reordered(new[taken], old)


def _copies(slots: IntArray, experts: int) -> IntArray:
    """Return copies of each expert on each device, int64 [devices, experts]."""
    device, slot = np.nonzero(slots >= 0)
    counted = np.bincount(device * experts + slots[device, slot], minlength=len(slots) * experts)
    return counted.reshape(len(slots), experts).astype(np.int64)


def _assigned(worth: FloatArray) -> IntArray:
    """Return the column for each row that together are worth most, int64 [rows]."""
    from scipy.optimize import linear_sum_assignment

    return np.asarray(linear_sum_assignment(worth, maximize=True)[1], dtype=np.int64)


def _updated(old: IntArray, new: IntArray, loads: FloatArray, budget: int | None) -> IntArray:
    """Fill slots anew where it helps most, int64 [layers, devices, slots].

    Args:
        old: slots in force, int64 [layers, devices, slots].
        new: slots aimed at.
        loads: copies per expert [layers, experts].
        budget: updates of each device over all layers; None for any number.
    """
    slots = old.copy()
    gain = np.asarray(
        [_busiest(a, load) - _busiest(b, load) for a, b, load in zip(old, new, loads, strict=True)]
    )
    left = np.full(old.shape[1], old.shape[0] * old.shape[2] if budget is None else budget, dtype=np.int64)
    for layer in np.argsort(-gain, kind="stable"):
        if gain[layer] <= 0:
            break
        found = _within(old[layer], new[layer], loads[layer], left)
        if _busiest(found, loads[layer]) < _busiest(old[layer], loads[layer]):
            slots[layer] = found
            left -= (found != old[layer]).sum(axis=1)
    return slots


def _within(old: IntArray, new: IntArray, load: FloatArray, left: IntArray) -> IntArray:
    """Make of the updates of a layer those that devices have left, the largest changes of load first.

    Args:
        old: slots in force, int64 [devices, slots].
        new: slots aimed at.
        load: copies per expert [experts].
        left: updates that each device has left, int64 [devices].
    """
    changed = old != new
    weight = np.abs(_per_slot(new, load) - _per_slot(old, load))
    order = np.argsort(np.where(changed, -weight, np.inf), axis=1, kind="stable")
    beyond = np.arange(old.shape[1]) >= left[:, np.newaxis]
    np.put_along_axis(changed, order, np.take_along_axis(changed, order, axis=1) & ~beyond, axis=1)
    while True:
        slots = np.where(changed, new, old)
        held = np.bincount(slots[slots >= 0], minlength=load.size)
        homeless = np.flatnonzero(held == 0)
        if not homeless.size:
            return slots
        # An expert that would be lost keeps its first slot, which may take the place of another one.
        for expert in homeless:
            device, slot = np.argwhere(changed & (old == expert))[0]
            changed[device, slot] = False


def _per_slot(slots: IntArray, load: FloatArray) -> FloatArray:
    """Return the load of each slot [devices, slots]."""
    held = np.bincount(slots[slots >= 0], minlength=load.size)
    share = np.append(load / np.maximum(held, 1), 0.0)
    return np.asarray(share[slots])


def _busiest(slots: IntArray, load: FloatArray) -> float:
    """Return the load of the busiest device."""
    return float(_per_slot(slots, load).sum(axis=1).max())
