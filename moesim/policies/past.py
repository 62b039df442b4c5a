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
class Past:
    """The past, looked up when a policy asks.

    Attributes:
        windows_of: returns copies per expert of so many equal parts of the past, in order, int64 [parts,
            layers, experts].
        pairs_of: returns tokens that used both experts of a layer [layers, experts, experts], and triples
            from an expert to one of the next MoE layer [layers - 1, experts, experts].
        previous: the placement that is in force, None before the first.
    """

    windows_of: Callable[[int], IntArray]
    pairs_of: Callable[[], tuple[FloatArray, FloatArray]]
    previous: Placement | None = None

    def windows(self, count: int) -> IntArray:
        """Return copies per expert of ``count`` equal parts of the past, int64 [count, layers, experts]."""
        return self.windows_of(count)

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

        def windows(count: int) -> IntArray:
            edges = known[np.newaxis] * np.arange(count + 1)[:, np.newaxis, np.newaxis] // count
            return np.diff(edges, axis=0)

        def pairs() -> tuple[FloatArray, FloatArray]:
            from moesim.routing.affinity import Affinity

            found = Affinity.independent(known, top_k)
            return found.together, found.onward

        return cls(windows, pairs, previous)
