"""Reading the published timings of dense GEMMs."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import pandas as pd

from moesim.hardware.dense_gemm import FORMATS
from moesim.measured.rows import Measured, measured
from moesim.measured.tables import find_tables, read_table, source_name, versions

_NAMES: Final = {"bfloat16": "bf16", "nvfp4": "fp4", "sq": "int8", "int4_wo": "int4"}
"""Kinds of the tables that are called otherwise here."""


@cache
def gemm_rows(device: str) -> Measured:
    """Return all timings of a device; of each software and kind those of the newest version."""
    parts: list[pd.DataFrame] = []
    for software in find_tables(device, "gemm", "gemm_perf"):
        seen: set[str] = set()
        for path in reversed(versions(device, "gemm", "gemm_perf", software).values()):
            table = read_table(path, ("gemm_dtype", "m", "n", "k", "latency"))
            table["dtype"] = table["gemm_dtype"].astype(str).replace(_NAMES)
            kinds = set(table["dtype"]) & set(FORMATS) - seen
            seen |= kinds
            part = table[table["dtype"].isin(kinds)].assign(backend=software, source=source_name(path))
            parts.append(part)
    if not parts:
        return pd.DataFrame()
    return _frame(device, pd.concat(parts, ignore_index=True))


def _frame(device: str, table: pd.DataFrame) -> Measured:
    """Average repeated keys, drop what no fp8_block kernel covers, and name the class of weight shapes."""
    table = table[(table["dtype"] != "fp8_block") | ((table["n"] >= 128) & (table["k"] >= 128))]
    keys = ["dtype", "backend", "source", "m", "n", "k"]
    averaged = table.assign(seconds=table["latency"] * 1e-3).groupby(keys, sort=False)["seconds"].mean()
    rows = averaged.reset_index()
    rows["shape"] = _size_class(rows["n"], "n") + " " + _size_class(rows["k"], "k")
    frame = measured(rows, device=device, family="gemm")
    labels = ("device", "family", "dtype", "backend", "source", "shape")
    return frame.astype({**dict.fromkeys(labels, "category"), "m": "int32", "n": "int32", "k": "int32"})


def _size_class(extent: pd.Series[Any], name: str) -> pd.Series[str]:
    """Return one of three names per extent; a class spans what one generation of models uses."""
    names = np.array([f"{name}<=512", f"{name}<=4096", f"{name}>4096"])
    return pd.Series(names[np.digitize(extent.to_numpy(), [513, 4097])], index=extent.index)
