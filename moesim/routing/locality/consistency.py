"""Segment routing best performance (SRP): how well a fixed set of experts serves a segment of tokens.

In a segment of ``m`` tokens an oracle keeps the experts that at least ``a`` of them use active for the whole
segment, and the F1 score says how well that agrees with what is used; SRP is the score at the best ``a``
(arXiv 2505.16056). Only the histogram of uses per window is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.routing.locality.accesses import Accesses, IntArray

FloatArray = npt.NDArray[np.float64]

_CELLS = 1 << 21
"""Cells (token, layer, expert) that are counted at once."""


@dataclass(frozen=True, eq=False)
class Scores:
    """SRP of some groups of experts; all arrays have one entry per group.

    Attributes:
        srp: best F1 score, from 0 to 1.
        rho_hat: experts that the best rule keeps, over those used per token (top-k, for whole layers); NaN
            where nothing is used.
        threshold: uses per window from which the best rule keeps an expert; the lowest of equally good ones.
        activation: share of tokens that use an expert, over all windows.
    """

    srp: FloatArray
    rho_hat: FloatArray
    threshold: IntArray
    activation: FloatArray


@dataclass(frozen=True, eq=False)
class Consistency:
    """Local routing consistency at one window length.

    Attributes:
        window: tokens per window.
        positions: windows that were seen.
        experts: scores of each expert, [layers, experts].
        layers: scores of each layer, one rule for its experts, [layers].
        model: scores of all layers together, one rule, [].
        distinct: mean distinct experts in a window, [layers].
    """

    window: int
    positions: int
    experts: Scores
    layers: Scores
    model: Scores
    distinct: FloatArray


def window_histogram(accesses: Accesses, window: int) -> IntArray:
    """Count how often an expert is used 0, 1, ... ``window`` times in a window.

    Windows begin at every token of a sequence and end within it; shorter sequences have none.

    Args:
        accesses: the tokens.
        window: tokens per window.

    Returns:
        Windows, int64 [layers, experts, window + 1].

    Raises:
        InputError: a window below 1, or longer than every sequence.
    """
    if not 1 <= window <= accesses.longest:
        message = f"a window of {window} tokens does not fit: the longest sequence has {accesses.longest}"
        raise InputError(message, hint="windows hold at least one token")
    layers = accesses.ids.shape[1]
    columns = layers * accesses.experts
    total = np.zeros(columns * (window + 1), dtype=np.int64)
    offsets = np.arange(columns) * (window + 1)
    stride = max(window, _CELLS // columns)
    for start, length in zip(accesses.starts, accesses.lengths, strict=True):
        for first in range(0, int(length) - window + 1, stride):
            last = min(first + stride + window - 1, int(length))
            uses = _uses(accesses, int(start) + first, int(start) + last)
            keys = (uses[window:] - uses[:-window]) + offsets
            total += np.bincount(keys.reshape(-1), minlength=len(total))
    return total.reshape(layers, accesses.experts, window + 1)


def _uses(accesses: Accesses, first: int, last: int) -> npt.NDArray[np.int32]:
    """Count uses before each of some tokens and after the last, int32 [tokens + 1, layers * experts]."""
    ids = accesses.ids[first:last]
    tokens, layers, _ = ids.shape
    used = np.zeros((tokens + 1, layers, accesses.experts), dtype=np.int32)
    np.put_along_axis(used[1:], ids.astype(np.int64), 1, axis=2)
    return np.cumsum(used.reshape(tokens + 1, -1), axis=0, dtype=np.int32)


def segment_scores(histogram: IntArray) -> Scores:
    """Return SRP of groups whose windows are counted by uses, int64 [..., window + 1].

    To pool experts into a group, add up their histograms.
    """
    window = histogram.shape[-1] - 1
    uses = np.arange(window + 1)
    kept = np.flip(np.flip(histogram, -1).cumsum(-1), -1)
    served = np.flip(np.flip(histogram * uses, -1).cumsum(-1), -1)
    everything, windows = served[..., :1], kept[..., :1]
    asked = window * kept + everything
    f1 = np.divide(2.0 * served, asked, out=np.zeros(asked.shape), where=asked > 0)
    best = np.argmax(f1, axis=-1)
    at = best[..., np.newaxis]
    none = np.full(everything.shape, np.nan)
    ratio = np.divide(
        window * np.take_along_axis(kept, at, -1), everything, out=none.copy(), where=everything > 0
    )
    activation = np.divide(everything, window * windows, out=none, where=windows > 0)
    return Scores(np.take_along_axis(f1, at, -1)[..., 0], ratio[..., 0], best, activation[..., 0])


def routing_consistency(accesses: Accesses, window: int) -> Consistency:
    """Return SRP per expert, per layer and of all layers, and the distinct experts per window.

    Args:
        accesses: the tokens, a cache per layer.
        window: tokens per window; published ones are 4, 16, 64 and 256.

    Raises:
        InputError: a window below 1, or longer than every sequence.
    """
    histogram = window_histogram(accesses, window)
    positions = int(histogram[0, 0].sum())
    return Consistency(
        window,
        positions,
        segment_scores(histogram),
        segment_scores(histogram.sum(axis=1)),
        segment_scores(histogram.sum(axis=(0, 1))),
        (positions - histogram[..., 0]).sum(axis=1) / positions,
    )
