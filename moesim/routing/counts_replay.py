"""Replay a counts-only trace: the shape of a recorded step, scaled to the tokens of a simulated one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from moesim.errors import InputError
from moesim.routing.counting import IntArray
from moesim.routing.trace import RoutingTrace
from moesim.routing.trace_window import split_window


def largest_remainder(shape: IntArray, total: int) -> IntArray:
    """Scale counts so that each row sums to ``total`` exactly.

    Every share is rounded down and the copies that are left go to the largest remainders, the lowest
    expert first among equals (the method of Hamilton). Arithmetic is in whole numbers, so nothing is
    lost. No expert gets more than its exact share rounded up.

    Args:
        shape: copies, int64 [layers, experts], each row with a positive sum.
        total: wanted sum of each row.

    Returns:
        int64 [layers, experts].
    """
    sums = shape.sum(axis=1)
    fits = total * int(shape.max()) < 1 << 62
    product = (shape if fits else shape.astype(object)) * total
    base = np.asarray(product // sums[:, np.newaxis], dtype=np.int64)
    remainder = np.asarray(product % sums[:, np.newaxis], dtype=np.int64)
    order = np.argsort(-remainder, axis=1, kind="stable")
    left = total - base.sum(axis=1)
    extra = np.arange(shape.shape[1])[np.newaxis, :] < left[:, np.newaxis]
    np.put_along_axis(base, order, np.take_along_axis(base, order, axis=1) + extra, axis=1)
    return base


class CountsReplay:
    """Give each simulated step the expert shares of the next recorded one.

    A layer without a single copy in a recorded step takes the shares of the whole evaluation part.

    Args:
        trace: a counts-only trace.
        used: leading layers of the trace to use.
        profile: share of the steps that is the past.

    Raises:
        InputError: no step to simulate, or a layer without any copies.
    """

    def __init__(self, trace: RoutingTrace, used: int, profile: float) -> None:
        self._counts = trace.counts
        self._used = used
        self._top_k = trace.top_k
        self._window = split_window(len(self._counts), profile, "step", str(trace.path))
        window = self._window
        self._pooled = np.zeros((used, trace.experts), dtype=np.int64)
        for row in range(window.first, window.first + window.length):
            self._pooled += self._counts[row, :used]
        empty = np.flatnonzero(self._pooled.sum(axis=1) == 0)
        if empty.size:
            message = f"layer {trace.layers[int(empty[0])]} has no copies in the part that is simulated"
            raise InputError(message, str(trace.path))

    def past(self) -> IntArray:
        """Return copies per expert in the past, int64 [used layers, experts]."""
        total = np.zeros_like(self._pooled)
        for row in range(self._window.past):
            total += self._counts[row, : self._used]
        return total

    def past_parts(self, count: int) -> list[IntArray]:
        """Return the past in parts, int64 [used layers, experts] each."""
        edges = np.linspace(0, self._window.past, count + 1).astype(np.int64)
        return [
            np.asarray(self._counts[low:high, : self._used], dtype=np.int64).sum(axis=0)
            for low, high in pairwise(edges)
        ]

    def past_ids(self) -> None:
        """Return nothing: totals do not tell tokens apart."""

    def steps_available(self, tokens_per_step: int) -> int:
        """Return the recorded steps of the evaluation part, whatever the tokens of a step."""
        return self._window.length

    def counts(self, step: int, share: IntArray) -> IntArray:
        """Return copies per expert over all devices, int64 [used layers, 1, experts]."""
        row = self._window.first + step % self._window.length
        shape = np.array(self._counts[row, : self._used], dtype=np.int64)
        empty = shape.sum(axis=1) == 0
        shape[empty] = self._pooled[empty]
        return largest_remainder(shape, int(share.sum()) * self._top_k)[:, np.newaxis, :]
