"""Which replica of an expert computes which copies.

Copies of an expert are numbered source after source and dealt to its slots in turn. That gives every
source, and the expert as a whole, an even split whose parts differ by at most one (the largest
remainder), and odd copies of different sources end on different replicas.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.policies.dispatch.placement_index import PlacementIndex, ranks_within

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def dealt(numbers: IntArray, first: IntArray, slots: IntArray, replicas: IntArray) -> IntArray:
    """Count the copies among numbers 0..n-1 that fall to slots ``first .. first + slots - 1``."""
    # Division of floats is exact here (counts are far below 2**52), and many times as fast.
    rounds = (numbers / replicas).astype(np.int64)
    rest = numbers - rounds * replicas
    rest -= first
    np.minimum(np.maximum(rest, 0, out=rest), slots, out=rest)
    rounds *= slots
    rounds += rest
    return rounds


def _deal(columns: IntArray, first: IntArray, slots: IntArray, replicas: IntArray) -> IntArray:
    """Deal copies per source, int64 [sources, rows], to the slots of each row."""
    until = np.cumsum(columns, axis=0)
    after = dealt(until, first, slots, replicas)
    after[1:] -= after[:-1].copy()
    return after


def even_totals(index: PlacementIndex, totals: IntArray) -> IntArray:
    """Split the copies of each (layer, expert), int64 [layers * experts], into rows, int64 [rows]."""
    copies = totals[index.key]
    rows = index.shared
    copies[rows] = dealt(copies[rows], index.first[rows], index.slots[rows], index.replicas[rows])
    return copies


def even(index: PlacementIndex, columns: IntArray) -> IntArray:
    """Split copies per source, int64 [sources, layers * experts], into rows, int64 [sources, rows]."""
    if index.in_order:
        return columns
    copies = np.take(columns, index.key, axis=1)
    rows = index.shared
    if rows.size:
        sent = np.take(copies, rows, axis=1)
        copies[:, rows] = _deal(sent, index.first[rows], index.slots[rows], index.replicas[rows])
    return copies


def _reach(index: PlacementIndex, node_of: IntArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Say which devices hold a replica of each (layer, expert), and which have one in their node.

    Returns:
        Two bool arrays [devices, layers * experts].
    """
    rows, nodes = index.shared, int(node_of.max()) + 1
    on_device = np.zeros((index.devices, index.layers * index.experts), dtype=bool)
    on_device[index.device[rows], index.key[rows]] = True
    on_node = np.zeros((nodes, index.layers * index.experts), dtype=bool)
    on_node[node_of[index.device[rows]], index.key[rows]] = True
    return on_device, on_node[node_of]


def nearest(index: PlacementIndex, columns: IntArray, node_of: IntArray) -> IntArray:
    """Split copies per source over the nearest replicas, int64 [sources, rows].

    A source uses replicas of its own device; if there are none, those of its node evenly; if there are
    none, all of them evenly.
    """
    copies = np.take(columns, index.key, axis=1)
    rows = index.shared
    if not rows.size:
        return copies
    on_device, on_node = _reach(index, node_of)
    key, device = index.key[rows], index.device[rows]
    here, near = on_device[:, key], on_node[:, key]
    sent = copies[:, rows]
    parts = _deal(np.where(near, 0, sent), index.first[rows], index.slots[rows], index.replicas[rows])
    parts[device, np.arange(rows.size)] += sent[device, np.arange(rows.size)]
    in_node = np.where(near & ~here, sent, 0)
    for node in np.unique(node_of[device]):
        sources, mine = np.flatnonzero(node_of == node), np.flatnonzero(node_of[device] == node)
        slots = index.slots[rows][mine]
        first, replicas = ranks_within(key[mine], slots, index.layers * index.experts)
        parts[np.ix_(sources, mine)] += _deal(in_node[np.ix_(sources, mine)], first, slots, replicas)
    copies[:, rows] = parts
    return copies


def nearest_share(index: PlacementIndex, share: FloatArray, node_of: IntArray) -> FloatArray:
    """Fraction of an expert's copies that go from each source to each row, [sources, rows].

    ``share`` is the fraction of all copies that each source sends, [sources]; the result adds up to it
    over the rows of an expert.
    """
    parts = np.repeat(share[:, np.newaxis], index.key.size, axis=1)
    rows = index.shared
    if not rows.size:
        return parts
    on_device, on_node = _reach(index, node_of)
    key, device, slots = index.key[rows], index.device[rows], index.slots[rows]
    groups = index.layers * index.experts
    _, in_node = ranks_within(node_of[device] * groups + key, slots, (int(node_of.max()) + 1) * groups)
    same_device = np.arange(share.size)[:, np.newaxis] == device
    same_node = (node_of[:, np.newaxis] == node_of[device]) & ~on_device[:, key]
    fraction = np.where(on_node[:, key], 0.0, slots / index.replicas[rows])
    fraction = np.where(same_node, slots / in_node, fraction)
    parts[:, rows] *= np.where(same_device, 1.0, fraction)
    return parts


def largest_remainder(ideal: FloatArray, group: IntArray, totals: IntArray) -> IntArray:
    """Round amounts, [rows], so that each group adds up to its total, int64 [groups].

    The largest fractional parts are rounded up, equal ones in row order.
    """
    floor = np.floor(np.round(ideal, 6)).astype(np.int64)
    missing = totals.copy()
    np.subtract.at(missing, group, floor)
    remainder = np.round(ideal - floor, 6)
    order = np.lexsort((-remainder, group))
    rank = np.empty_like(group)
    rank[order] = ranks_within(group[order], np.ones_like(group), totals.size)[0]
    return floor + (rank < missing[group])
