"""Building the tables of a result: columns in order, types as declared, units attached, laws checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from moesim.causes import CAUSES
from moesim.errors import MoesimError
from moesim.results.columns import TABLES, Kind, Table

TOLERANCE = 1e-9
"""Relative rounding allowed between a total and its parts."""


class BrokenLawError(MoesimError):
    """Tables that contradict themselves: a defect of whatever produced them."""


def _typed(values: Any, kind: Kind) -> Any:
    """Return a column with its declared type; texts as plain objects so that pandas keeps its own type."""
    if kind == "str":
        return pd.Series(values, dtype="object").astype(str)
    return np.asarray(values).astype(kind, copy=False)


def build(table: Table, data: pd.DataFrame | Mapping[str, Any] | None) -> pd.DataFrame:
    """Make one table from columns in any order.

    Args:
        table: its dictionary entry.
        data: a frame or a mapping of column to values; None gives an empty table.

    Returns:
        A new frame with exactly the declared columns; ``attrs["units"]`` maps column to unit.

    Raises:
        BrokenLawError: a column is missing or unknown.
    """
    given = {column.name: [] for column in table.columns} if data is None else data
    missing = [name for name in table.names if name not in given]
    unknown = [str(name) for name in given if name not in table.units]
    if missing or unknown:
        message = f"table '{table.name}' lacks {missing or 'nothing'} and has unknown {unknown or 'nothing'}"
        raise BrokenLawError(message)
    frame = pd.DataFrame(
        {
            column.name: _typed(
                series.to_numpy() if isinstance(series := given[column.name], pd.Series) else series,
                column.kind,
            )
            for column in table.columns
        }
    )
    frame.attrs = {"table": table.name, "units": table.units}
    return frame


def build_all(tables: Mapping[str, pd.DataFrame | Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    """Make all tables and check the laws between them.

    Raises:
        BrokenLawError: a table is unknown or absent, or a law does not hold.
    """
    unknown = sorted(set(tables) - set(TABLES))
    absent = sorted(name for name, table in TABLES.items() if not table.optional and name not in tables)
    if unknown or absent:
        message = f"tables absent: {absent or 'none'}; unknown: {unknown or 'none'}"
        raise BrokenLawError(message)
    frames = {name: build(table, tables.get(name)) for name, table in TABLES.items()}
    check(frames)
    return frames


def _agree(total: Any, parts: Any, message: str, slack: float = 1e-15) -> None:
    """Compare two columns row by row; rows without a number (NaN) have nothing to compare."""
    wrong = np.abs(np.asarray(total) - np.asarray(parts)) > TOLERANCE * np.abs(total) + slack
    if bool(np.any(wrong)):
        row = int(np.argmax(wrong))
        detail = f"{message}: row {row}: {np.asarray(total)[row]!r} against {np.asarray(parts)[row]!r}"
        raise BrokenLawError(detail)


def check(frames: Mapping[str, pd.DataFrame]) -> None:
    """Check that seconds and bytes add up and that no bound lies above a time.

    Raises:
        BrokenLawError: the first law that does not hold, with its row and numbers.
    """
    if frames["steps"].empty:
        message = "a result needs at least one step"
        raise BrokenLawError(message)
    causes = [f"{cause}_s" for cause in CAUSES]
    for name in ("steps", "layers"):
        frame = frames[name]
        latency = frame["latency_s"].to_numpy()
        _agree(latency, frame[causes].to_numpy().sum(axis=1), f"{name}: causes do not sum to the latency")
        _agree(
            np.maximum(latency, frame["bound_s"].to_numpy()),
            latency,
            f"{name}: the lower bound is above the latency",
        )
    memory = frames["memory"]
    sums = memory.groupby(["device", "tier"])["bytes"].transform("sum")
    message = "memory: owners do not sum to the device's peak"
    whole_bytes = float(memory["owner"].nunique())  # each owner is rounded to whole bytes
    _agree(memory["peak_bytes"].to_numpy(), sums.to_numpy(), message, slack=whole_bytes)
