"""Whole copies out of fractions of copies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def rounded(ideal: npt.NDArray[np.float64], totals: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Round amounts [..., items] so that they add up to whole totals, int64 [...].

    The largest fractional parts are rounded up, equal ones in order.
    """
    floor = np.floor(np.round(ideal, 6)).astype(np.int64)
    missing = totals - floor.sum(axis=-1)
    order = np.argsort(-np.round(ideal - floor, 6), axis=-1, kind="stable")
    up = (np.arange(ideal.shape[-1]) < missing[..., np.newaxis]).astype(np.int64)
    added = np.zeros_like(floor)
    np.put_along_axis(added, order, up, axis=-1)
    return np.asarray(floor + added)
