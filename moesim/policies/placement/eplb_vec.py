"""EPLB with a time axis: copies go where they lower the sum of the busiest copies of all steps.

SGLang's ``deepseek_vec``: an expert that is hot in turns with others gains less from a further copy than one
that is hot all the time. Copies are then dealt to devices back and forth by falling load.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.policies.base import ClusterView, Parameters
from moesim.policies.placement.eplb_policy import SlotParameters, form, room_of, spread_slots
from moesim.policies.placement.packing import inverse, pack
from moesim.policies.plan import Placement

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

TIE_BREAK: Final = 1e-4
"""Copies by which an expert counts as busier than the one before it, so that no two are equal (SGLang)."""


class EplbVecParameters(SlotParameters):
    """Parameters of EPLB with a time axis."""

    windows: int = Field(
        default=32,
        json_schema_extra={"tune": [1, 256, "log"]},
        ge=1,
        le=10_000,
        description="parts of equal length into which the past is cut (SGLang: its recorded steps, 1000)",
    )


@dataclass(frozen=True)
class EplbVec:
    """Redundant experts placed from loads over time."""

    parameters: EplbVecParameters = field(default_factory=EplbVecParameters)
    name: ClassVar[str] = "eplb_vec"
    summary: ClassVar[str] = "copies where they help most over time, dealt back and forth by load"
    needs: ClassVar[str] = "past loads in parts; room for copies"
    source: ClassVar[str] = "SGLang 'deepseek_vec' and 'deepseek_vec_hierarchical'"
    parameters_type: ClassVar[type[Parameters]] = EplbVecParameters

    def place(self, statistics: npt.NDArray[np.int64], view: ClusterView) -> Placement:
        """Place experts and their copies.

        Args:
            statistics: past copies per expert, int64 [layers, experts]; all that is known of time where the
                view has no past of these layers.
            view: the machine and the past.

        Raises:
            InputError: as ``Eplb.place``.
        """
        asked = self.parameters
        room = room_of(asked, view)
        groups, nodes, order = form(self.name, asked, view, int(room.sum()))
        loads = np.asarray(statistics, dtype=np.float64)[np.newaxis]
        if view.past is not None:
            windows = view.past.windows(asked.windows)
            if windows.shape[1:] == statistics.shape:
                loads = windows.astype(np.float64)
        flat = balance_over_time(loads, room[order], groups, nodes)
        return spread_slots(flat, room[order], order, view)


def balance_over_time(loads: FloatArray, room: IntArray, groups: int, nodes: int) -> IntArray:
    """Return the expert of each slot, device after device, int64 [layers, slots].

    Args:
        loads: copies per expert of each step [steps, layers, experts].
        room: slots of each device, int64 [devices]; uneven room needs one node.
        groups: routing groups of the model.
        nodes: number of nodes.
    """
    steps, layers, experts = loads.shape
    in_group, in_node = experts // groups, experts // nodes
    total = loads.sum(axis=0)
    per_group = total.reshape(layers, groups, in_group).sum(axis=2).astype(np.float32)
    node, rank = pack(per_group, np.full(nodes, groups // nodes, dtype=np.int64))
    group_at = (node * (groups // nodes) + rank) * in_group
    old_of = inverse((group_at[:, :, np.newaxis] + np.arange(in_group)).reshape(layers, experts))
    by_node = np.take_along_axis(loads, old_of[np.newaxis], axis=2).reshape(steps, layers * nodes, in_node)
    number = np.tile(np.arange(experts, dtype=np.float64).reshape(nodes, in_node), (layers, 1))
    tie_break = np.asarray(number * TIE_BREAK, dtype=np.float64)
    expert_of, count = replicate_over_time(by_node, tie_break, int(room.sum()) // nodes)
    per_copy = np.take_along_axis(by_node.sum(axis=0) / count, expert_of, axis=1)
    expert_of = np.take_along_axis(expert_of, serpentine(per_copy, room[: room.size // nodes]), axis=1)
    shift = np.tile(np.arange(nodes) * in_node, layers)[:, np.newaxis]
    return np.take_along_axis(old_of, (expert_of + shift).reshape(layers, -1), axis=1)


def replicate_over_time(loads: FloatArray, tie_break: FloatArray, slots: int) -> tuple[IntArray, IntArray]:
    """Give every item a slot, then each further slot to the item that lowers the sum over steps the most.

    The sum is that of the largest load per copy of each step; of several equal items the first one counts.

    Args:
        loads: load per item [steps, rows, items].
        tie_break: what is added to the load of items that are not given a copy [rows, items].
        slots: number of slots, at least the number of items.

    Returns:
        Item of each slot [rows, slots] and copies of each item [rows, items], both int64.
    """
    _, rows, items = loads.shape
    every = np.arange(rows)
    item_of = np.empty((rows, slots), dtype=np.int64)
    item_of[:, :items] = np.arange(items)
    count = np.ones((rows, items), dtype=np.int64)
    for slot in range(items, slots):
        score = (loads + tie_break) / count
        busiest = score.argmax(axis=2, keepdims=True)
        largest = np.take_along_axis(score, busiest, axis=2)
        halved = np.take_along_axis(loads / (count + 1), busiest, axis=2)
        np.put_along_axis(score, busiest, halved, axis=2)
        helped = np.repeat(largest, items, axis=2)
        np.put_along_axis(helped, busiest, score.max(axis=2, keepdims=True), axis=2)
        chosen = helped.sum(axis=0).argmin(axis=1)
        item_of[:, slot] = chosen
        count[every, chosen] += 1
    return item_of, count


def serpentine(loads: FloatArray, room: IntArray) -> IntArray:
    """Deal items to devices by falling load, first to last device, then last to first, and so on.

    Args:
        loads: load of each item [rows, items].
        room: slots of each device, int64 [devices]; they add up to the items.

    Returns:
        Item of each slot, device after device, int64 [rows, items]; items themselves if slots are single.
    """
    if int(room.max()) == 1:
        return np.broadcast_to(np.arange(loads.shape[1]), loads.shape)
    order = np.argsort(-loads, axis=1, kind="stable")
    begins = np.cumsum(room) - room
    turns = []
    for turn in range(int(room.max())):
        places = begins[room > turn] + turn
        turns.append(places[::-1] if turn % 2 else places)
    return order[:, np.argsort(np.concatenate(turns))]
