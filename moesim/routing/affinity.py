"""Which experts share tokens: inside a layer, and from one MoE layer to the next.

Recorded tokens tell it; where only totals are known, choices are taken to be independent, and the tables say
no more than the totals do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Affinity:
    """Pairs of experts that tokens use together.

    Attributes:
        together: tokens that use both experts of a layer, [layers, experts, experts], symmetric, diagonal 0.
        onward: (token, choice, next choice) triples from an expert to one of the next MoE layer,
            [layers - 1, experts, experts].
        recorded: whether tokens were looked at, or independence was assumed.
    """

    together: FloatArray
    onward: FloatArray
    recorded: bool

    @classmethod
    def independent(cls, counts: IntArray, top_k: int) -> Self:
        """Assume that choices know nothing of each other.

        Args:
            counts: copies per expert, int64 [layers, experts].
            top_k: experts per token.
        """
        copies = counts.astype(np.float64)
        tokens = copies.sum(axis=1) / top_k
        pairs = copies[:, :, np.newaxis] * copies[:, np.newaxis, :]
        rows = np.arange(copies.shape[1])
        pairs[:, rows, rows] = 0.0
        total = pairs.sum(axis=(1, 2))
        wanted = tokens * top_k * (top_k - 1)
        scale = np.divide(wanted, total, out=np.zeros_like(total), where=total > 0)
        onward = copies[:-1, :, np.newaxis] * copies[1:, np.newaxis, :]
        sums = onward.sum(axis=(1, 2))
        triples = tokens[:-1] * top_k**2
        share = np.divide(triples, sums, out=np.zeros_like(sums), where=sums > 0)
        return cls(pairs * scale[:, np.newaxis, np.newaxis], onward * share[:, np.newaxis, np.newaxis], False)

    @classmethod
    def of_tokens(cls, ids: IntArray, experts: int) -> Self:
        """Count pairs in recorded tokens.

        Args:
            ids: experts of each token, int64 [tokens, layers, top_k].
            experts: experts per layer.
        """
        _, layers, top_k = ids.shape
        together = np.zeros((layers, experts * experts))
        onward = np.zeros((max(layers - 1, 0), experts * experts))
        for layer in range(layers):
            for first in range(top_k):
                key = ids[:, layer, first] * experts
                for second in range(top_k):
                    if second != first:
                        together[layer] += np.bincount(key + ids[:, layer, second], minlength=experts**2)
                    if layer + 1 < layers:
                        onward[layer] += np.bincount(key + ids[:, layer + 1, second], minlength=experts**2)
        square = (-1, experts, experts)
        return cls(together.reshape(square), onward.reshape(square), True)

    def plus(self, other: Affinity) -> Affinity:
        """Add what other tokens tell."""
        recorded = self.recorded and other.recorded
        return Affinity(self.together + other.together, self.onward + other.onward, recorded)

    def cycled(self, columns: IntArray) -> Affinity:
        """Return the affinity of a model whose layers repeat recorded ones.

        Args:
            columns: recorded layer of each layer of the model, int64 [layers].
        """
        if np.array_equal(columns, np.arange(len(self.together))):
            return self
        follows = np.diff(columns) == 1
        onward = np.zeros((max(len(columns) - 1, 0), *self.together.shape[1:]))
        onward[follows] = self.onward[columns[:-1][follows]]
        for place in np.flatnonzero(~follows):
            left, right = (self.together[columns[place + step]].sum(axis=1) for step in (0, 1))
            total = right.sum()
            onward[place] = np.outer(left, right / total) if total > 0 else 0.0
        return Affinity(self.together[columns], onward, self.recorded)
