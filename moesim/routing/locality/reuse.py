"""When experts are used again, and how evenly: distances between uses, neighbouring tokens, popularity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.routing.locality.accesses import Accesses, IntArray
from moesim.routing.locality.stack import Distances, stack_distances

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Distribution:
    """How often each whole number was seen.

    Attributes:
        counts: times that the number of its place was seen, int64 [layers, numbers from 0].
    """

    counts: IntArray

    @property
    def seen(self) -> int:
        """How many there are, over all layers."""
        return int(self.counts.sum())

    def mean(self) -> float:
        """Return the mean over all layers; NaN of nothing."""
        total = self.counts.sum(axis=0)
        return float(total @ np.arange(len(total)) / total.sum()) if self.seen else float("nan")

    def layer_means(self) -> FloatArray:
        """Return the mean of each layer, [layers]; NaN of nothing."""
        seen = self.counts.sum(axis=1)
        sums = self.counts @ np.arange(self.counts.shape[1])
        means: FloatArray = np.divide(sums, seen, out=np.full(len(seen), np.nan), where=seen > 0)
        return means

    def quantile(self, share: float) -> float:
        """Return the smallest number that at least a share of all, over all layers, does not exceed.

        NaN of nothing.
        """
        if not self.seen:
            return float("nan")
        total = np.cumsum(self.counts.sum(axis=0))
        return float(np.searchsorted(total, max(1, int(np.ceil(share * total[-1] - 1e-9)))))


@dataclass(frozen=True, eq=False)
class Reuse:
    """How soon experts are used again in a sequence.

    Attributes:
        tokens: tokens from one use of an expert in a layer to the next; 1: neighbouring tokens.
        distinct: other experts of the layer used in between. Those of the two tokens themselves count if
            they come later in the first token; those of the second do not.
        first: accesses whose expert the sequence had not used before, int64 [layers].
        adjacent: share of a token's experts that the token before it used too, [layers]; NaN if every
            sequence has one token.
        adjacent_random: the same if every token drew its experts evenly, top-k over experts.
        adjacent_independent: the same if tokens kept the popularity of experts but forgot each other,
            [layers].
    """

    tokens: Distribution
    distinct: Distribution
    first: IntArray
    adjacent: FloatArray
    adjacent_random: float
    adjacent_independent: FloatArray


@dataclass(frozen=True, eq=False)
class Popularity:
    """How evenly the experts of a layer are used.

    Attributes:
        counts: uses, int64 [layers, experts].
        cv: standard deviation over mean of the uses, [layers].
        top_quarter: share of all uses that the most used quarter of experts (rounded up) has, [layers].
    """

    counts: IntArray
    cv: FloatArray
    top_quarter: FloatArray


def popularity(accesses: Accesses) -> Popularity:
    """Return how evenly the experts of each layer are used."""
    layers, experts = accesses.ids.shape[1], accesses.experts
    keys = accesses.ids.astype(np.int32) + np.arange(layers, dtype=np.int32)[:, np.newaxis] * experts
    counts = np.bincount(keys.reshape(-1), minlength=layers * experts).reshape(layers, experts)
    ranked = -np.sort(-counts, axis=1)
    top = ranked[:, : -(-experts // 4)].sum(axis=1)
    return Popularity(counts, counts.std(axis=1) / counts.mean(axis=1), top / counts.sum(axis=1))


def reuse(accesses: Accesses, distances: Distances | None = None) -> Reuse:
    """Return how soon experts are used again.

    Args:
        accesses: the tokens, a cache per layer.
        distances: stack distances under ``lru``, if they are at hand.
    """
    if distances is None:
        distances = stack_distances(accesses, "lru")
    tokens, layers, per_token = accesses.ids.shape
    starts = np.sort(accesses.starts)
    sequence = np.repeat(np.arange(len(starts)), np.diff(starts, append=tokens))
    gaps = np.zeros((layers, accesses.longest), dtype=np.int64)
    between = np.zeros((layers, accesses.experts), dtype=np.int64)
    numbers = np.repeat(np.arange(tokens), per_token)
    for layer in range(layers):
        keys = (sequence[:, np.newaxis] * accesses.experts + accesses.ids[:, layer]).reshape(-1)
        order = np.argsort(keys, kind="stable")
        again = keys[order[1:]] == keys[order[:-1]]
        gap = (numbers[order[1:]] - numbers[order[:-1]])[again]
        gaps[layer] = np.bincount(gap, minlength=accesses.longest)
        depth = distances[:, layer].reshape(-1)[order[1:]][again]
        between[layer] = np.bincount(depth - 1, minlength=accesses.experts)
    pairs = (tokens - len(starts)) * per_token
    shared = gaps[:, 1] if accesses.longest > 1 else np.zeros(layers, dtype=np.int64)
    adjacent = shared / pairs if pairs else np.full(layers, np.nan)
    rates = popularity(accesses).counts / tokens
    return Reuse(
        Distribution(gaps),
        Distribution(between),
        tokens * per_token - gaps.sum(axis=1),
        adjacent,
        per_token / accesses.experts,
        (rates**2).sum(axis=1) / per_token,
    )
