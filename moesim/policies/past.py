"""What policies may know of the past besides copies per expert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from moesim.policies.plan import Placement

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EqualWindows:
    """Cuts copies per expert, int64 [layers, experts], into equal parts."""

    counts: IntArray

    def __call__(self, count: int) -> IntArray:
        """Return ``count`` parts, int64 [count, layers, experts]."""
        edges = self.counts[np.newaxis] * np.arange(count + 1)[:, np.newaxis, np.newaxis] // count
        return np.diff(edges, axis=0)


@dataclass(frozen=True, eq=False)
class IndependentPairs:
    """Pairs and triples of experts if choices know nothing of each other.

    Attributes:
        counts: copies per expert, int64 [layers, experts].
        top_k: experts per token.
    """

    counts: IntArray
    top_k: int

    def __call__(self) -> tuple[FloatArray, FloatArray]:
        """Return what ``Past.together`` and ``Past.onward`` are."""
        from moesim.routing.affinity import Affinity

        found = Affinity.independent(self.counts, self.top_k)
        return found.together, found.onward


@dataclass(frozen=True, eq=False)
class Past:
    """The past, looked up when a policy asks.

    Attributes:
        windows_of: returns copies per expert of so many equal parts of the past, in order, int64 [parts,
            layers, experts].
        pairs_of: returns tokens that used both experts of a layer [layers, experts, experts], and triples
            from an expert to one of the next MoE layer [layers - 1, experts, experts].
        previous: the placement that is in force, None before the first.
        recent_of: returns copies per expert of so many of the last steps of the run, oldest first, int64
            [steps, layers, experts]; fewer, or none, where the run has not had as many.
    """

    windows_of: Callable[[int], IntArray]
    pairs_of: Callable[[], tuple[FloatArray, FloatArray]]
    previous: Placement | None = None
    recent_of: Callable[[int], IntArray] | None = None

    def windows(self, count: int) -> IntArray:
        """Return copies per expert of ``count`` equal parts of the past, int64 [count, layers, experts]."""
        if count not in self._windows:
            self._windows[count] = self.windows_of(count)
        return self._windows[count]

    @cached_property
    def _windows(self) -> dict[int, IntArray]:
        return {}

    def latest(self, count: int) -> IntArray:
        """Return copies per expert of the last parts of the past, oldest first.

        These are the last steps of the run, or before its first step the past in ``count`` equal parts.

        Returns:
            int64 [1 .. count, layers, experts].
        """
        steps = self.recent_of(count) if self.recent_of is not None else None
        return steps if steps is not None and len(steps) else self.windows(count)

    @cached_property
    def _pairs(self) -> tuple[FloatArray, FloatArray]:
        return self.pairs_of()

    @property
    def together(self) -> FloatArray:
        """Tokens that used both experts of a layer, [layers, experts, experts]; the diagonal is 0."""
        return self._pairs[0]

    @property
    def onward(self) -> FloatArray:
        """Triples (token, expert, expert of the next MoE layer), [layers - 1, experts, experts]."""
        return self._pairs[1]

    @classmethod
    def of_counts(cls, counts: npt.ArrayLike, top_k: int = 1, previous: Placement | None = None) -> Past:
        """Return a past of which only totals are known: equal windows, independent choices.

        Args:
            counts: copies per expert, int64 [layers, experts].
            top_k: experts per token.
            previous: the placement in force.
        """
        known = np.asarray(counts, dtype=np.int64)
        return cls(EqualWindows(known), IndependentPairs(known, top_k), previous)
