"""Hit rates of caches of every size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.routing.locality.accesses import Accesses
from moesim.routing.locality.stack import stack_distances

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
    distances = stack_distances(accesses, policy, window)
    caches, per_token = accesses.ids.shape[1:]
    sequences, sizes = len(accesses.lengths), accesses.experts
    histogram = np.empty((sequences, caches, sizes), dtype=np.int64)
    offsets = np.arange(caches)[:, np.newaxis] * sizes - 1
    order = np.argsort(accesses.starts, kind="stable")
    for place, sequence in enumerate(order):
        start = accesses.starts[sequence]
        part = distances[start : start + accesses.lengths[sequence]]
        bins = np.bincount((part + offsets).reshape(-1), minlength=caches * sizes)
        histogram[place] = bins.reshape(caches, sizes)
    accessed = accesses.lengths[order] * per_token
    return np.asarray(histogram.cumsum(axis=2) / accessed[:, np.newaxis, np.newaxis])
