"""Tables as files: Parquet where pyarrow is installed, else CSV that gives the same numbers back."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from moesim.errors import InputError
from moesim.results.columns import Kind, Table
from moesim.results.frames import build


def table_suffix() -> str:
    """Return the ending of the table files that this installation writes."""
    return ".parquet" if find_spec("pyarrow") is not None else ".csv"


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as its path's ending says; floats keep every bit."""
    if path.suffix == ".parquet":
        frame.to_parquet(path, engine="pyarrow", compression="zstd", index=False)
    else:
        frame.to_csv(path, index=False, lineterminator="\n")


def _parsed(texts: pd.Series, kind: Kind) -> pd.Series:
    """Turn the texts of one CSV column into values; an empty cell is a missing number."""
    if kind == "float64":
        return texts.mask(texts == "", "nan").astype(float)
    if kind == "bool":
        return texts == "True"
    return texts if kind == "str" else texts.astype("int64")


def read_table(table: Table, path: Path) -> pd.DataFrame:
    """Read a table that ``write_table`` wrote.

    Raises:
        InputError: the file is missing or damaged, lacks a column, or pyarrow is needed and absent.
    """
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        message = "this run's tables are Parquet files, which need pyarrow"
        raise InputError(message, str(path), hint="pip install 'moesim[parquet]'")
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path, engine="pyarrow")
        else:
            # Read as text first: not every pandas rounds a decimal to the nearest float.
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
            for column in table.columns:
                frame[column.name] = _parsed(frame[column.name], column.kind)
        return build(table, frame)
    except Exception as error:
        message = f"cannot read table '{table.name}': {error}"
        raise InputError(message, str(path)) from error
