"""Hit rates of caches of every size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.routing.locality.accesses import Accesses
from moesim.routing.locality.stack import Distances, stack_distances

FloatArray = npt.NDArray[np.float64]


def hit_rate_curves(accesses: Accesses, policy: str, window: int | None = None) -> FloatArray:
    """Return the hit rate of every cache of every sequence at every size.

    A curve for a cache per layer needs ``accesses`` as they are, one for a cache of all layers
    ``accesses.together()``. The published figure is the mean over sequences, and over layers.

    Args:
        accesses: the tokens.
        policy: ``lru``, ``lfu``, ``belady`` or ``sch``.
        window: tokens that ``sch`` looks ahead, the current one included.

    Returns:
        Shares of accesses, [sequences, caches, experts], sequences in the order of the trace; size c is at
        ``c - 1``.

    Raises:
        InputError: an unknown policy or a window it does not take.
    """
    return distances_to_curves(accesses, stack_distances(accesses, policy, window))


def distances_to_curves(accesses: Accesses, distances: Distances, *, pooled: bool = False) -> FloatArray:
    """Return the hit rate of every cache at every size, from :func:`stack_distances`.

    Args:
        accesses: the tokens.
        distances: the smallest cache that each access hits.
        pooled: hits over accesses of all sequences together.

    Returns:
        Shares of accesses, [sequences or 1, caches, experts], size c at ``c - 1``.
    """
    caches, per_token = accesses.ids.shape[1:]
    sequences, sizes = len(accesses.lengths), accesses.experts
    order = np.argsort(accesses.starts, kind="stable")
    starts, lengths = accesses.starts[order], accesses.lengths[order]
    if pooled:
        starts, lengths, sequences = np.zeros(1, dtype=np.int64), np.array([len(accesses.ids)]), 1
    histogram = np.empty((sequences, caches, sizes), dtype=np.int64)
    offsets = np.arange(caches)[:, np.newaxis] * sizes - 1
    for sequence, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        part = distances[start : start + length]
        bins = np.bincount((part + offsets).reshape(-1), minlength=caches * sizes)
        histogram[sequence] = bins.reshape(caches, sizes)
    accessed = lengths * per_token
    return np.asarray(histogram.cumsum(axis=2) / accessed[:, np.newaxis, np.newaxis])
