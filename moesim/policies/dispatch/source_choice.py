"""Which replica each source chooses by itself, not knowing what the others do.

That is cheap, and uneven where ``replica_choice.even`` is not: sources may choose the same replica.
"""

from __future__ import annotations

import zlib
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from moesim.policies.dispatch.placement_index import PlacementIndex
from moesim.policies.dispatch.replica_choice import dealt
from moesim.policies.dispatch.shared_rows import shared_rows

IntArray = npt.NDArray[np.int64]
Number = TypeVar("Number", np.int64, np.float64)


def round_robin(index: PlacementIndex, columns: IntArray) -> IntArray:
    """Split copies per source, int64 [sources, layers * experts], into rows, int64 [sources, rows].

    Every source deals its own copies of an expert to the slots in turn; sources begin at slots in turn.
    """
    copies = np.take(columns, index.key, axis=1)
    rows = index.shared
    replicas = index.replicas[rows]
    start = np.arange(columns.shape[0])[:, np.newaxis] % replicas
    slots = (index.first[rows], index.slots[rows], replicas)
    copies[:, rows] = dealt(start + copies[:, rows], *slots) - dealt(start, *slots)
    return copies


def random(index: PlacementIndex, columns: IntArray, seed: int) -> IntArray:
    """Split copies per source, int64 [sources, layers * experts], into rows, int64 [sources, rows].

    Every copy goes to a slot drawn uniformly. The numbers that this gives are drawn at once from their
    binomial distributions, by a generator that starts from the seed and the copies, so that the same load
    is always split alike and every step otherwise.
    """
    rng = np.random.default_rng([seed, zlib.crc32(np.ascontiguousarray(columns).tobytes())])
    copies = np.take(columns, index.key, axis=1)
    left = columns.copy()
    for rows in shared_rows(index).by_rank:
        keys = index.key[rows]
        chance = index.slots[rows] / (index.replicas[rows] - index.first[rows])
        copies[:, rows] = rng.binomial(left[:, keys], chance)
        left[:, keys] -= copies[:, rows]
    return copies


def static(index: PlacementIndex, amounts: npt.NDArray[Number], node_of: IntArray) -> npt.NDArray[Number]:
    """Give all that a source sends to an expert, [sources, layers * experts], to one row, [sources, rows].

    That is the source's own replica; if it has none, the first of its node; sources that have none there
    either are dealt to the slots in turn.
    """
    parts = np.take(amounts, index.key, axis=1)
    by_rank = shared_rows(index).by_rank
    if not by_rank:
        return parts
    keys = index.key[by_rank[0]]
    position = np.full(amounts.shape[1], -1, dtype=np.int64)
    position[keys] = np.arange(keys.size)
    target = np.full((amounts.shape[0], keys.size), -1, dtype=np.int64)
    for rows in reversed(by_rank):
        at = position[index.key[rows]]
        same_node = node_of[:, np.newaxis] == node_of[index.device[rows]]
        target[:, at] = np.where(same_node, rows, target[:, at])
    for rows in by_rank:
        target[index.device[rows], position[index.key[rows]]] = rows
    turn = np.cumsum(target < 0, axis=0) - 1
    for rows in by_rank:
        at = position[index.key[rows]]
        slot = turn[:, at] % index.replicas[rows] - index.first[rows]
        mine = (target[:, at] < 0) & (slot >= 0) & (slot < index.slots[rows])
        target[:, at] = np.where(mine, rows, target[:, at])
        parts[:, rows] = np.where(target[:, at] == rows, parts[:, rows], 0)
    return parts
