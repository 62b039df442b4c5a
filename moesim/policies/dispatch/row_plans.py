"""From copies per row of a placement to a plan, for policies that leave experts where they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.hardware.traffic import Traffic
from moesim.policies.dispatch.placement_index import PlacementIndex, columns_per_source
from moesim.policies.plan import Assignments, DispatchPlan
from moesim.routing.load import Load

IntArray = npt.NDArray[np.int64]


def plan_of_split(load: Load, index: PlacementIndex, split: IntArray) -> DispatchPlan:
    """Make the plan of copies from each source to each row, int64 [sources, rows]."""
    pairs = index.sum_per_device(split).reshape(load.devices, load.layers, load.devices)
    return _plan(load, index, split.sum(axis=0), Traffic.of_pairs(pairs.transpose(1, 0, 2)))


def plan_of_totals(load: Load, index: PlacementIndex, copies: IntArray) -> DispatchPlan:
    """Make the plan of copies per row, int64 [rows], each source sending its share of them."""
    inbound = index.sum_per_device(copies).reshape(load.layers, load.devices)
    return _plan(load, index, copies, Traffic.pooled(inbound, load.share))


def plan_in_proportion(
    load: Load, index: PlacementIndex, copies: IntArray, by_rank: tuple[IntArray, ...]
) -> DispatchPlan:
    """Make the plan of copies per row, int64 [rows], to which all sources add in proportion.

    Args:
        load: what the sources have.
        index: the placement.
        copies: copies of each row; those of an expert add up to the expert's.
        by_rank: rows of experts on several devices, by the number of the device.
    """
    if load.is_pooled:
        return plan_of_totals(load, index, copies)
    columns = columns_per_source(load)
    split = np.take(columns, index.key, axis=1)
    if by_rank:
        keys = index.key[by_rank[0]]
        position = np.full(columns.shape[1], -1, dtype=np.int64)
        position[keys] = np.arange(keys.size)
        # Copies are numbered source after source; every device takes its share of the numbers that are left.
        until = np.cumsum(columns[:, keys], axis=0)
        left = until[-1].copy()
        for rows in by_rank:
            at = position[index.key[rows]]
            whole = np.maximum(left[at], 1)
            mine = (until[:, at] * copies[rows] + whole // 2) // whole
            split[:, rows] = np.diff(mine, axis=0, prepend=0)
            until[:, at] -= mine
            left[at] -= copies[rows]
    return plan_of_split(load, index, split)


def _plan(load: Load, index: PlacementIndex, copies: IntArray, traffic: Traffic) -> DispatchPlan:
    assignments = Assignments(index.layer, index.expert, index.device, copies)
    return DispatchPlan(assignments, traffic, np.zeros(load.layers, dtype=bool))
