"""Frames of measured timings: what every family's table looks like, and how long ones are thinned.

A ``Measured`` frame is a pandas frame with the columns of ``KEYS`` and ``seconds``, and whatever columns
the family's model needs beside them. One row is one timing; keys that were timed more than once are
averaged by the family before it hands its frame out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

Measured: TypeAlias = pd.DataFrame

KEYS: Final = ("device", "family", "dtype", "backend", "source", "shape")
"""Columns that every frame has: catalogue name of the device; family; number format of the weights;
software that ran it; table that it was read from; name of the model or shape (what is left out)."""

GROUP: Final = ("dtype", "backend")
"""Columns of one device's frame within which constants are shared."""


def measured(
    table: pd.DataFrame, *, device: str, family: str, source: str | None = None, **constant: str
) -> Measured:
    """Complete a family's table into a measured frame.

    Rows without a finite, positive time are dropped: a timing of zero is a failed run.

    Args:
        table: at least ``seconds`` and the keys not given here.
        device: catalogue name.
        family: family name.
        source: table that the rows come from, unless the table has the column.
        constant: further keys that are the same in all rows.

    Raises:
        ValueError: a key is neither in the table nor given.
    """
    filled = {"device": device, "family": family, **constant}
    if source is not None:
        filled["source"] = source
    frame: pd.DataFrame = table.assign(**filled)
    missing = [key for key in (*KEYS, "seconds") if key not in frame.columns]
    if missing:
        message = f"measured rows lack {', '.join(missing)}"
        raise ValueError(message)
    seconds = frame["seconds"].to_numpy(dtype=float)
    kept: pd.DataFrame = frame.loc[np.isfinite(seconds) & (seconds > 0)].reset_index(drop=True)
    return kept


def thin(frame: Measured, limit: int, columns: Sequence[str] | None = None) -> Measured:
    """Keep at most ``limit`` rows, always the same ones, spread over everything that varies.

    Rows are ranked by a hash of their values, which depends neither on their order nor on a random
    state, so that two runs and two machines keep the same rows.

    Args:
        frame: any frame.
        limit: rows to keep.
        columns: columns that identify a row; all by default.
    """
    if len(frame) <= limit:
        return frame
    kept = np.sort(np.argsort(hash_ranks(frame, columns), kind="stable")[:limit])
    return frame.iloc[kept].reset_index(drop=True)


def hash_ranks(frame: Measured, columns: Sequence[str] | None = None) -> npt.NDArray[np.uint64]:
    """Return a hash per row by which ``thin`` keeps rows: the lowest ones stay."""
    ranks = pd.util.hash_pandas_object(frame[list(columns)] if columns else frame, index=False)
    return np.asarray(ranks.to_numpy(), dtype=np.uint64)


def thin_curves(frame: Measured, limit: int, curve: Sequence[str]) -> Measured:
    """Keep whole curves, always the same ones, of about ``limit`` rows together.

    Args:
        frame: any frame.
        limit: rows to keep; the last curve may exceed it.
        curve: columns that are constant along a curve.
    """
    if len(frame) <= limit:
        return frame
    ranks = pd.util.hash_pandas_object(frame[list(curve)], index=False).to_numpy()
    last = np.sort(ranks, kind="stable")[limit - 1]
    kept: pd.DataFrame = frame.loc[ranks <= last].reset_index(drop=True)
    return kept
