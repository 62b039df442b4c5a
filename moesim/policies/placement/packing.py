"""Building blocks of EPLB: deal items into bins, and hand out replicas.

Rows are independent problems (layers, or layers times nodes) solved side by side. Loads are float32,
as in the reference implementation of EPLB (deepseek-ai/EPLB, commit d52c72d), so ties and rounding fall
the same way; equal items keep their order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


def pack(loads: FloatArray, room: IntArray) -> tuple[IntArray, IntArray]:
    """Deal items into bins, heaviest first, each into the lightest bin that has room left.

    Args:
        loads: load per item, float32 [rows, items].
        room: items that each bin takes, int64 [bins]; they add up to the number of items.

    Returns:
        Bin of each item and its rank among the arrivals of that bin, both int64 [rows, items]. With
        room for one item everywhere, item i goes to bin i and nothing is sorted.
    """
    rows, items = loads.shape
    if bool(np.all(room == 1)):
        identity = np.broadcast_to(np.arange(items, dtype=np.int64), loads.shape).copy()
        return identity, np.zeros_like(identity)
    order = np.argsort(-loads, axis=1, kind="stable")
    filled = np.zeros((rows, room.size), dtype=np.int64)
    weight = np.zeros((rows, room.size), dtype=np.float32)
    weight[:, room == 0] = np.inf
    chosen = np.empty((rows, items), dtype=np.int64)
    rank = np.empty((rows, items), dtype=np.int64)
    every = np.arange(rows)
    heaviest_first = np.take_along_axis(loads, order, axis=1)
    for turn in range(items):
        lightest = weight.argmin(axis=1)
        item = order[:, turn]
        arrived = filled[every, lightest]
        chosen[every, item] = lightest
        rank[every, item] = arrived
        arrived = arrived + 1
        filled[every, lightest] = arrived
        heavier = weight[every, lightest] + heaviest_first[:, turn]
        # A full bin never comes up again: an infinite load keeps it out of every later minimum.
        weight[every, lightest] = np.where(arrived < room[lightest], heavier, np.float32(np.inf))
    return chosen, rank


def replicate(loads: FloatArray, slots: int) -> tuple[IntArray, IntArray, IntArray]:
    """Give every item a slot, then each further slot to the item with the largest load per copy.

    Args:
        loads: load per item, float32 [rows, items].
        slots: number of slots, at least the number of items.

    Returns:
        Item of each slot [rows, slots], which copy of the item it is [rows, slots], and copies of each
        item [rows, items], all int64. Equal loads go to the lowest item.
    """
    rows, items = loads.shape
    item_of = np.empty((rows, slots), dtype=np.int64)
    copy_of = np.zeros((rows, slots), dtype=np.int64)
    item_of[:, :items] = np.arange(items)
    copies = np.ones((rows, items), dtype=np.int64)
    per_copy = loads.copy()
    every = np.arange(rows)
    for slot in range(items, slots):
        hottest = per_copy.argmax(axis=1)
        had = copies[every, hottest]
        item_of[:, slot] = hottest
        copy_of[:, slot] = had
        copies[every, hottest] = had + 1
        per_copy[every, hottest] = loads[every, hottest] / (had + 1).astype(np.float32)
    return item_of, copy_of, copies


def inverse(permutation: IntArray) -> IntArray:
    """Invert each row of a permutation, int64 [rows, items]."""
    result = np.empty_like(permutation)
    positions = np.broadcast_to(np.arange(permutation.shape[1], dtype=np.int64), permutation.shape)
    np.put_along_axis(result, permutation, positions, axis=1)
    return result
