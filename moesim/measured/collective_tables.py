"""Reading the published timings of NCCL on one node: nccl-tests, out of place."""

from __future__ import annotations

from functools import cache
from typing import Final

import pandas as pd

from moesim.hardware.protocols import Operation
from moesim.measured.rows import Measured, measured
from moesim.measured.tables import find_tables, read_table, source_name

SMALLEST: Final = 1024
LARGEST: Final = 512 * 2**20
"""Bytes between which rows are scored."""

_TABLE_NAMES: Final[dict[Operation, str]] = {
    "all_to_all": "alltoall",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "all_reduce": "all_reduce",
}
_DTYPES: Final = {"half": ("fp16", 2), "int8": ("int8", 1)}


@cache
def collective_rows(operation: Operation, device: str) -> Measured:
    """Return the rows of the newest NCCL; keys that were timed more than once by their median."""
    found = find_tables(device, "comm", "nccl_perf", "nccl").get("nccl")
    if found is None:
        return pd.DataFrame(columns=["device", "dtype", "backend", "shape", "seconds"])
    table = read_table(found, ("op_name", "nccl_dtype", "num_gpus", "message_size", "latency"))
    table = table[(table["op_name"] == _TABLE_NAMES[operation]) & table["nccl_dtype"].isin(list(_DTYPES))]
    width = table["nccl_dtype"].map({name: size for name, (_, size) in _DTYPES.items()})
    table = table.assign(
        bytes=table["message_size"] * width,
        dtype=table["nccl_dtype"].map({name: dtype for name, (dtype, _) in _DTYPES.items()}),
        seconds=table["latency"] * 1e-3,
    )
    table = table[(table["bytes"] >= SMALLEST) & (table["bytes"] <= LARGEST)]
    table = table.groupby(["dtype", "num_gpus", "bytes"])[["seconds"]].median().reset_index()
    table["shape"] = table["num_gpus"].astype(str) + " devices"
    return measured(table, device=device, family=operation, source=source_name(found), backend="nccl")
