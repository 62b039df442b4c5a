"""Absolute percentage errors and their summaries, as fractions."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from moesim.accuracy.protocols import Array
from moesim.measured.rows import Measured

COLUMNS: Final = (
    "device",
    "family",
    "dtype",
    "backend",
    "source",
    "protocol",
    "count",
    "median_ape",
    "mean_ape",
    "p90_ape",
    "max_ape",
)
"""Columns of a summary; ``source`` is here the source of the prediction: ``analytic`` or ``measured``."""

POINT_COLUMNS: Final = (
    "device",
    "family",
    "dtype",
    "backend",
    "source",
    "protocol",
    "shape",
    "case",
    "measured_s",
    "predicted_s",
    "error",
)


def points(test: Measured, predicted: Array, *, source: str, protocol: str, case: list[str]) -> pd.DataFrame:
    """Put predictions beside measurements, one row each; rows without a prediction (NaN) are dropped.

    Args:
        test: measured rows.
        predicted: seconds per row.
        source: ``analytic`` or ``measured``.
        protocol: who was left out.
        case: columns that name a case beside its shape.

    Raises:
        ValueError: a prediction is negative or infinite; that is a broken model, not a bad fit.
    """
    if np.any(predicted < 0) or np.any(np.isinf(predicted)):
        message = "a cost model predicted a negative or infinite time"
        raise ValueError(message)
    kept = np.flatnonzero(np.isfinite(predicted))
    rows = test.iloc[kept]
    names = pd.Series([""] * len(rows), index=rows.index)
    for column in case:
        names = names + f" {column}=" + rows[column].astype(str)
    measured_s = rows["seconds"].to_numpy(dtype=float)
    return pd.DataFrame(
        {
            **{name: rows[name].to_numpy() for name in ("device", "family", "dtype", "backend")},
            "source": source,
            "protocol": protocol,
            "shape": rows["shape"].to_numpy(),
            "case": names.str.strip().to_numpy(),
            "measured_s": measured_s,
            "predicted_s": predicted[kept],
            "error": predicted[kept] / measured_s - 1.0,
        },
        columns=list(POINT_COLUMNS),
    )


def summarise(scored: pd.DataFrame) -> pd.DataFrame:
    """Sum points up to one row per device, family, dtype, backend, source and protocol."""
    rows: list[dict[str, Any]] = []
    for key, group in scored.groupby(list(COLUMNS[:6]), sort=True, observed=True):
        sizes = group["error"].abs().to_numpy(dtype=float)
        rows.append(
            {
                **dict(zip(COLUMNS[:6], key, strict=True)),
                "count": len(sizes),
                "median_ape": float(np.median(sizes)),
                "mean_ape": float(np.mean(sizes)),
                "p90_ape": float(np.percentile(sizes, 90.0)),
                "max_ape": float(np.max(sizes)),
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def worst_cases(scored: pd.DataFrame, count: int = 3) -> pd.DataFrame:
    """Return the points furthest off in each summary row, worst first."""
    if scored.empty:
        return scored
    order = scored["error"].abs().sort_values(ascending=False, kind="stable").index
    ranked = scored.loc[order].groupby(list(COLUMNS[:6]), sort=False, observed=True).head(count)
    return ranked.sort_values(list(COLUMNS[:6]), kind="stable").reset_index(drop=True)
