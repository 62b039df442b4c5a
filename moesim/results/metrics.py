"""Small measures on arrays that tables, plots and policies' tests share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def imbalance(copies: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the largest over the mean amount per device; 1 is even.

    Args:
        copies: amounts per device, [..., devices].

    Returns:
        float64 [...]; 1 where nothing was to be done.
    """
    amounts = np.asarray(copies, dtype=np.float64)
    mean = amounts.mean(axis=-1)
    idle = mean == 0
    return np.asarray(np.where(idle, 1.0, amounts.max(axis=-1) / np.where(idle, 1.0, mean)))


def spread(values: npt.ArrayLike) -> dict[str, float]:
    """Return mean, p50, p95 and p99 (linear interpolation between samples).

    Args:
        values: samples, any unit; at least one.

    Raises:
        ValueError: no sample.
    """
    samples = np.asarray(values, dtype=np.float64)
    if samples.size == 0:
        message = "percentiles need at least one sample"
        raise ValueError(message)
    middle, high, highest = np.percentile(samples, (50.0, 95.0, 99.0))
    return {"mean": float(samples.mean()), "p50": float(middle), "p95": float(high), "p99": float(highest)}


def ratio(numerator: float, denominator: float) -> float:
    """Divide, taking nothing over nothing as 1 and something over nothing as infinite."""
    if denominator == 0:
        return 1.0 if numerator == 0 else math.inf
    return numerator / denominator


def bound_fraction(bound_s: float, latency_s: float) -> float:
    """Return the share of a latency that no policy can avoid (s over s); 1 cannot be beaten."""
    return ratio(bound_s, latency_s)


def plain(value: Any) -> Any:
    """Turn numpy scalars, mappings and sequences into what JSON knows.

    Numbers that JSON has no word for (NaN, infinities) become None, so that every reader accepts the
    text.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (Sequence, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [plain(item) for item in items]
    return str(value)
