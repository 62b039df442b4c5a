"""What skew does to MoE layers, predicted and measured: stragglers, the sign of skew, and EPLB's gain.

All three are ratios of two timings of the same model, so that they test the shape of the model rather than
its scale. Constants never come from the rows of the model whose ratio is predicted.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from moesim.accuracy.moe import MoeFamily
from moesim.measured.moe_tables import all_moe_rows, moe_rows, set_aside
from moesim.measured.rows import GROUP, Measured, thin_curves

_PAIRED = ["shape", "hidden", "intermediate", "slots", "tp", "ep", "tokens"]


def predicted_unseen(rows: Measured) -> Measured:
    """Add ``predicted`` to rows of one precision and kernel family, model by model left out."""
    known = rows.reset_index(drop=True)
    known = known.assign(predicted=MoeFamily().unseen(known))
    return known[known["predicted"].notna()]


def pooled(device: str, *, everything: bool = False) -> pd.DataFrame:
    """Return errors with models left out, by software and over all of them.

    Args:
        device: catalogue name.
        everything: score the contradicted timings too, which then also take part in the fits.

    Returns:
        By software: count, median and p90 of absolute relative errors.
    """
    rows = all_moe_rows(device)
    if len(rows):
        aside = set_aside(rows)
        rows = rows[~aside["dealt"] & (everything | ~aside["contradicted"])]
    family = MoeFamily()
    parts = []
    for _, whole in rows.groupby(list(GROUP), sort=True, observed=True) if len(rows) else ():
        group = thin_curves(whole.reset_index(drop=True), family.fit_rows, family.curve)
        errors = np.abs(family.unseen(group) / group["seconds"].to_numpy() - 1.0)
        software = group["backend"].astype(str).str.partition("/")[0]
        parts.append(pd.DataFrame({"software": software, "error": errors}).dropna())
    found = pd.concat(parts, ignore_index=True)
    found = pd.concat([found, found.assign(software="all")], ignore_index=True)
    by = found.groupby("software")["error"]
    return pd.DataFrame({"count": by.size(), "median": by.median(), "p90": by.quantile(0.9)})


def load_ratios(rows: Measured, upper: str, lower: str) -> pd.DataFrame:
    """Pair timings of two distributions of the same call.

    Args:
        rows: rows with ``predicted``.
        upper: distribution in the numerator.
        lower: distribution in the denominator.

    Returns:
        The pairs' keys with ``measured_ratio`` and ``predicted_ratio``.
    """
    sides = [
        rows.loc[rows["distribution"] == name, [*_PAIRED, "seconds", "predicted"]] for name in (upper, lower)
    ]
    both = sides[0].merge(sides[1], on=_PAIRED, suffixes=("_upper", "_lower"))
    return both[_PAIRED].assign(
        measured_ratio=both["seconds_upper"] / both["seconds_lower"],
        predicted_ratio=both["predicted_upper"] / both["predicted_lower"],
    )


def straggler(device: str, dtype: str, backend: str) -> pd.DataFrame:
    """Return pl1.2 over balanced with EP, where the skewed timing is that of the fullest device."""
    rows = moe_rows(device)
    rows = rows[(rows["dtype"] == dtype) & (rows["backend"] == backend)]
    ratios = load_ratios(predicted_unseen(rows), "power_law_1.2", "balanced")
    return ratios[ratios["ep"] > 1]


def skew(device: str, dtype: str, backend: str) -> pd.DataFrame:
    """Return pl1.2 over balanced without EP: median ratios by tokens, measured and predicted."""
    rows = moe_rows(device)
    rows = rows[(rows["dtype"] == dtype) & (rows["backend"] == backend) & (rows["ep"] == 1)]
    ratios = load_ratios(predicted_unseen(rows), "power_law_1.2", "balanced")
    return ratios.groupby("tokens")[["measured_ratio", "predicted_ratio"]].median()


def eplb_gain(device: str) -> pd.DataFrame:
    """Return EPLB over no EPLB of TensorRT-LLM's wide EP: median ratios by EP, measured and predicted."""
    rows = moe_rows(device)
    rows = predicted_unseen(rows[rows["backend"].str.startswith("trtllm-wideep/")])
    pairs = pd.concat(load_ratios(rows, f"{name}_eplb", name) for name in ("power_law_1.01", "power_law_1.2"))
    return pairs.groupby("ep")[["measured_ratio", "predicted_ratio"]].median()
