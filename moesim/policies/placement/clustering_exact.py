"""Best clusterings of a layer: by enumeration where few clusters can be part of one, else by HiGHS.

Both start from a clustering that is known and look only for better ones.
"""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moesim.policies.placement.clustering import Problem

IntArray = npt.NDArray[np.int64]

MOST_CLUSTERS: Final = 200_000
"""Clusters of the right size that are listed at most."""
MOST_STATES: Final = 400_000
"""Sets of experts already clustered that are held at most."""
MOST_PAIRS: Final = 20_000_000
"""Combinations of such a set and one more cluster that are tried at most, per cluster."""
NODES: Final = 1_000
"""Branch-and-bound nodes of HiGHS per layer: unlike time, the same on every machine."""


def enumerate_clusters(problem: Problem, known: list[list[int]]) -> list[list[int]] | None:
    """Return the best clustering, or None if there are too many to look at.

    Clusters are chosen in the order of their first expert; for every set of experts that is clustered the
    cheapest way is kept. What cannot end below the known clustering is left out, which is most.
    """
    best = problem.value(known)
    listed = _affordable(problem, best)
    if listed is None:
        return None
    masks, excess, lowest = listed
    cost, idle = np.abs(excess), sum(not size for size in problem.sizes)
    experts, smaller = len(problem.loads), max(1, problem.sizes[-1])
    larger = sum(size > smaller for size in problem.sizes)
    state = np.zeros(1, dtype=np.uint64)
    # Empty clusters, where there are more clusters than experts, lack a mean load each.
    spent = np.asarray([idle * problem.total])
    above = -spent
    trail: list[tuple[IntArray, IntArray]] = []
    for taken in range(problem.count - idle):
        first = _lowest_bit(~state)
        got: list[tuple[IntArray, IntArray]] = []
        pairs = 0
        for bit in np.unique(first):
            mine, yours = np.flatnonzero(first == bit), np.flatnonzero(lowest == bit)
            pairs += mine.size * yours.size
            if pairs > MOST_PAIRS:
                return None
            for part in np.array_split(mine, max(1, mine.size * yours.size // 2_000_000)):
                least = spent[part, np.newaxis] + cost[yours]
                # What these have above the mean, those that follow lack, and the other way round.
                least += np.abs(above[part, np.newaxis] + excess[yours])
                fits = (state[part, np.newaxis] & masks[yours]) == 0
                row, column = np.nonzero(fits & (least < best))
                got.append((part[row], yours[column]))
        parent, by = (np.concatenate([pair[i] for pair in got]) for i in range(2))
        after, so_far = state[parent] | masks[by], spent[parent] + cost[by]
        # No more larger clusters than there are: the number of experts tells how many a state has.
        kept = np.bitwise_count(after).astype(np.int64) - smaller * (taken + 1) <= larger
        order = np.flatnonzero(kept)[np.lexsort((so_far[kept], after[kept]))]
        order = order[np.diff(after[order], prepend=~after[order[:1]]) != 0]
        if not order.size:
            return known
        if order.size > MOST_STATES:
            return None
        trail.append((parent[order], by[order]))
        state, spent, above = after[order], so_far[order], above[parent[order]] + excess[by[order]]
    at, found = 0, []
    for parent, by in reversed(trail):
        found.append([e for e in range(experts) if int(masks[by[at]]) >> e & 1])
        at = int(parent[at])
    return found + [[] for _ in range(idle)]


def _lowest_bit(masks: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return the place of the lowest set bit."""
    single = masks & (~masks + np.uint64(1))
    return np.bitwise_count(single - np.uint64(1)).astype(np.int64)


def _affordable(problem: Problem, best: int) -> tuple[npt.NDArray[np.uint64], IntArray, IntArray] | None:
    """List the clusters that a better clustering may have: their experts as bits, excess, first expert."""
    experts = len(problem.loads)
    wanted = sorted({size for size in problem.sizes if size})
    if experts > 63 or sum(comb(experts, size) for size in wanted) > MOST_CLUSTERS:
        return None
    loads = np.asarray(problem.loads, dtype=np.int64)
    masks, above, lowest = [], [], []
    for size in wanted:
        members = np.asarray(list(combinations(range(experts), size)), dtype=np.int64)
        excess = problem.count * loads[members].sum(axis=1) - problem.total
        # What one cluster has too much others lack: the whole costs twice as much at least.
        kept = 2 * np.abs(excess) < best
        masks.append((np.uint64(1) << members[kept].astype(np.uint64)).sum(axis=1, dtype=np.uint64))
        above.append(excess[kept])
        lowest.append(members[kept, 0])
    return np.concatenate(masks), np.concatenate(above), np.concatenate(lowest)


def with_highs(
    problem: Problem, known: list[list[int]], bound: int, seconds: float
) -> tuple[list[list[int]], int, bool]:
    """Look for a better clustering with HiGHS.

    The expert of rank i by load stands in one of the first i clusters, which leaves one numbering of the
    clusters; this needs clusters of equal size. Only what is better than the known is searched.

    Args:
        problem: the layer.
        known: a clustering to beat.
        bound: a value that no clustering goes below.
        seconds: time limit.

    Returns:
        The best clustering known, the best bound known, and whether a limit ended the search.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    value, experts, count = problem.value(known), len(problem.loads), problem.count
    order = sorted(range(experts), key=lambda e: (-problem.loads[e], e))
    mean = max(problem.total / count, 1.0)
    share = np.asarray([problem.loads[e] for e in order]) / mean
    columns, variables = experts * count, (experts + 1) * count
    x = np.arange(columns).reshape(experts, count)
    deviation = np.arange(columns, variables)
    entries: list[tuple[Any, Any, Any]] = []
    low: list[float] = []
    high: list[float] = []

    def add(at: Any, weights: Any, least: float, most: float) -> None:
        entries.append((np.full(len(at), len(low)), at, weights))
        low.append(least)
        high.append(most)

    for row in x:
        add(row, np.ones(count), 1, 1)
    even = len(set(problem.sizes)) == 1
    for c in range(count):
        add(x[:, c], np.ones(experts), problem.sizes[c], problem.sizes[c])
        column = np.append(x[:, c], deviation[c])
        add(column, np.append(share, -1.0), -np.inf, problem.total / count / mean)
        add(column, np.append(share, 1.0), problem.total / count / mean, np.inf)
    unit = count * mean
    # A better clustering is better by two steps at least, as excess and lack are equal.
    add(deviation, np.ones(count), bound / unit, (value - 2) / unit)
    upper = np.ones(variables)
    upper[columns:] = np.inf
    if even:
        for rank in range(min(count, experts)):
            upper[x[rank, rank + 1 :]] = 0
    rows, at, weights = (np.concatenate([entry[i] for entry in entries]) for i in range(3))
    matrix = coo_array((weights, (rows, at)), shape=(len(low), variables)).tocsr()
    answer = milp(
        np.r_[np.zeros(columns), np.ones(count)],
        integrality=np.r_[np.ones(columns), np.zeros(count)],
        bounds=Bounds(np.zeros(variables), upper),
        constraints=LinearConstraint(matrix, low, high),
        options={"time_limit": max(0.01, seconds), "node_limit": NODES, "mip_rel_gap": 0.0},
    )
    if answer.status == 2:
        return known, value, False
    if answer.x is not None:
        chosen = answer.x[:columns].reshape(experts, count).argmax(axis=1)
        found = [sorted(order[i] for i in np.flatnonzero(chosen == c)) for c in range(count)]
        if sorted(map(len, found)) == sorted(problem.sizes) and problem.value(found) < value:
            known, value = found, problem.value(found)
    if answer.status == 0:
        return known, value, False
    proven = answer.mip_dual_bound
    if proven is not None and np.isfinite(proven):
        # Values are even numbers of steps apart from rounding: take what is surely reached.
        bound = max(bound, min(value, int(np.floor(proven * unit - 1e-6 * unit))))
    return known, bound, True
