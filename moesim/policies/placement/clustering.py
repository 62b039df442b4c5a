"""Balanced clustering, the first stage of MoETuner: equally many experts per cluster, even loads.

Minimises the sum over clusters of |load - mean load| of one layer. Loads are whole numbers and so are all
comparisons: deviations are held times the number of clusters. A search finds a clustering; a bound, then
an enumeration of the clusters that could still be part of a better one, tell whether it is the best.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb, gcd
from typing import Final

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

MOST_SUBSETS: Final = 20_000
"""Subsets of a cluster's size that are tried when two clusters swap experts."""
MOST_SWEEPS: Final = 30


@dataclass(frozen=True)
class Clustering:
    """A clustering of the experts of one layer.

    Attributes:
        clusters: experts of each cluster, each by rising number; clusters by their first expert.
        objective: sum over clusters of |load - mean|, in copies.
        bound: no clustering has a smaller objective.
    """

    clusters: tuple[tuple[int, ...], ...]
    objective: float
    bound: float

    @property
    def optimal(self) -> bool:
        """Whether no clustering is better."""
        return self.bound >= self.objective


class Problem:
    """Loads to be split into clusters of equal size, give or take one; deviations times clusters.

    Attributes:
        loads: load of each expert divided by what divides all loads.
        unit: what divides all loads.
        count: number of clusters.
        sizes: size of each cluster, larger ones first.
    """

    def __init__(self, loads: IntArray, count: int) -> None:
        whole = [int(load) for load in loads]
        self.unit = gcd(*whole) or 1
        self.loads = [load // self.unit for load in whole]
        self.count = count
        self.total = sum(self.loads)
        larger = len(whole) % count
        self.sizes = [len(whole) // count + (cluster < larger) for cluster in range(count)]

    def value(self, clusters: list[list[int]]) -> int:
        """Sum |clusters x load - total| over the clusters."""
        return sum(abs(self.count * sum(self.loads[e] for e in c) - self.total) for c in clusters)

    def copies(self, value: int) -> float:
        """Turn a value into copies."""
        return value * self.unit / self.count

    def bound(self) -> int:
        """Return a value that no clustering goes below.

        Loads are whole, so clusters cannot all meet a mean that is not. And the clusters of the h hottest
        experts carry at least these and the coldest others, those of the h coldest at most these and the
        hottest others; what the former have above the mean others have below it.
        """
        rest = self.total % self.count
        best = 2 * rest * (self.count - rest)
        falling = sorted(self.loads, reverse=True)
        for loads, sign, sizes in (
            (falling, 1, self.sizes[::-1]),
            (falling[::-1], -1, self.sizes),
        ):
            first, last = np.cumsum([0, *loads]), np.cumsum([0, *loads[::-1]])
            room = np.cumsum([0, *sizes])
            for extreme in range(1, min(self.count, len(loads)) + 1):
                excess = [
                    self.count * int(first[extreme] + last[max(0, int(room[used]) - extreme)])
                    - used * self.total
                    for used in range(1, extreme + 1)
                    if int(np.cumsum(self.sizes)[used - 1]) >= extreme
                ]
                least = min(sign * value for value in excess)
                best = max(best, 2 * least)
        return best


def cluster(loads: IntArray, count: int) -> tuple[Problem, list[list[int]], int]:
    """Find a good clustering of one layer.

    Args:
        loads: copies per expert, int64 [experts].
        count: number of clusters.

    Returns:
        The problem, the clusters found, and a bound on the value.
    """
    problem = Problem(loads, count)
    bound = problem.bound()
    found = _improved(problem, _by_falling_load(problem), bound)
    return problem, found, bound


def _by_falling_load(problem: Problem) -> list[list[int]]:
    """Deal experts to clusters by falling load, each to the lightest with room."""
    clusters: list[list[int]] = [[] for _ in problem.sizes]
    carried = [0] * problem.count
    for expert in sorted(range(len(problem.loads)), key=lambda e: (-problem.loads[e], e)):
        at = min(
            (c for c in range(problem.count) if len(clusters[c]) < problem.sizes[c]),
            key=lambda c: (carried[c], c),
        )
        clusters[at].append(expert)
        carried[at] += problem.loads[expert]
    return clusters


def _improved(problem: Problem, clusters: list[list[int]], bound: int) -> list[list[int]]:
    """Let pairs of clusters swap groups of experts as long as that evens them out."""
    carried = [sum(problem.loads[e] for e in c) for c in clusters]
    for _ in range(MOST_SWEEPS):
        changed = False
        by_load = sorted(range(problem.count), key=lambda c: (-carried[c], c))
        for high in by_load:
            for low in reversed(by_load):
                above = problem.count * carried[high] > problem.total
                if above and problem.count * carried[low] < problem.total:
                    swap = _best_swap(problem, clusters[high], clusters[low])
                    if swap is not None:
                        clusters[high], clusters[low] = swap
                        carried[high] = sum(problem.loads[e] for e in swap[0])
                        carried[low] = sum(problem.loads[e] for e in swap[1])
                        changed = True
        if not changed or sum(abs(problem.count * c - problem.total) for c in carried) <= bound:
            break
    return clusters


@cache
def _subsets(size: int, taken: int) -> IntArray:
    """List the subsets of so many out of ``size``, int64 [subsets, taken]."""
    return np.asarray(list(combinations(range(size), taken)), dtype=np.int64).reshape(
        comb(size, taken), taken
    )


def _best_swap(problem: Problem, high: list[int], low: list[int]) -> tuple[list[int], list[int]] | None:
    """Return two clusters after the swap that leaves them closest, None if they are as close as can be."""
    mine, yours = ([problem.loads[e] for e in c] for c in (high, low))
    gap = sum(mine) - sum(yours)
    best, choice = abs(gap), None
    # Where sizes differ by one, the larger cluster may also hand one over for good.
    for more in sorted({0, len(high) - len(low)}):
        for taken in range(max(0, more), min(len(high), len(low) + more) + 1):
            given_back = taken - more
            if comb(len(high), taken) > MOST_SUBSETS or comb(len(low), given_back) > MOST_SUBSETS:
                continue
            out, back = _subsets(len(high), taken), _subsets(len(low), given_back)
            gone = np.asarray(mine, dtype=np.int64)[out].sum(axis=1)
            come = np.asarray(yours, dtype=np.int64)[back].sum(axis=1)
            order = np.argsort(come, kind="stable")
            at = np.searchsorted(come[order], gone - gap / 2)
            for shift in (at - 1, at):
                nearest = np.clip(shift, 0, come.size - 1)
                left = np.abs(gap - 2 * (gone - come[order[nearest]]))
                pick = int(left.argmin())
                if int(left[pick]) < best:
                    best, choice = int(left[pick]), (out[pick], back[order[nearest[pick]]])
    if choice is None:
        return None
    out_set, back_set = (set(part.tolist()) for part in choice)
    to_low, to_high = [high[i] for i in sorted(out_set)], [low[i] for i in sorted(back_set)]
    kept = [e for i, e in enumerate(high) if i not in out_set]
    stays = [e for i, e in enumerate(low) if i not in back_set]
    return kept + to_high, stays + to_low
