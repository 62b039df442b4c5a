"""What skew does to MoE layers, predicted and measured: stragglers, the sign of skew, and EPLB's gain.

All three are ratios of two timings of the same model, so that they test the shape of the model rather than
its scale. Constants never come from the rows of the model whose ratio is predicted.
"""

from __future__ import annotations

import pandas as pd

from moesim.accuracy.moe import MoeFamily
from moesim.measured.moe_tables import moe_rows
from moesim.measured.rows import Measured

_PAIRED = ["shape", "hidden", "intermediate", "slots", "tp", "ep", "tokens"]


def predicted_unseen(rows: Measured) -> Measured:
    """Add ``predicted`` to rows of one precision and kernel family, model by model left out."""
    known = rows.reset_index(drop=True)
    known = known.assign(predicted=MoeFamily().unseen(known))
    return known[known["predicted"].notna()]


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
