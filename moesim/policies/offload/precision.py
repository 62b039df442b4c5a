"""HOBBIT's choice of precision for an expert that is not in GPU memory (arXiv 2411.01433, section 3.2)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

HIGH: Final = 0
LOW: Final = 1
SKIP: Final = 2

# A score that equals a threshold up to the rounding of a running sum of float32 weights stays below it.
_ROUNDING: Final = 1e-6


def unimportance(weights: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Return the normalised gate weight that ranks before each expert of a token; 0 for the first.

    Args:
        weights: gate weights, [..., k], in any order; need not sum to one.
    """
    values = np.asarray(weights, dtype=np.float64)
    total = values.sum(axis=-1, keepdims=True)
    share = values / np.where(total > 0, total, 1.0)
    order = np.argsort(-share, axis=-1, kind="stable")
    falling = np.take_along_axis(share, order, axis=-1)
    scores = np.zeros_like(share)
    np.put_along_axis(scores, order, np.cumsum(falling, axis=-1) - falling, axis=-1)
    return scores


def precision_of(
    weights: npt.NDArray[np.floating[Any]], t1: float = 0.6, t2: float = 0.9
) -> npt.NDArray[np.int8]:
    """Return ``HIGH`` up to unimportance ``t1``, ``LOW`` up to ``t2``, ``SKIP`` beyond, [..., k].

    The most important expert is always high: its score is 0.
    """
    scores = unimportance(weights)
    low = scores > t1 + _ROUNDING
    skipped = scores > t2 + _ROUNDING
    return (low.astype(np.int8) + skipped).astype(np.int8)
