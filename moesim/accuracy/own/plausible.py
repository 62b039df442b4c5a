"""Times that no device could reach, or that no kernel would need: most often a wrong unit.

A row is refused when it implies more than twice the datasheet's FLOP/s or bandwidth. A family is refused
when its typical row takes hundreds of times what the datasheet gives.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from moesim.accuracy.own.datasheet import Timed
from moesim.accuracy.own.loads import own_counts
from moesim.accuracy.protocols import Array
from moesim.errors import InputError
from moesim.hardware.calibration import FORMATS as GROUPED
from moesim.hardware.calibration import kernel_for
from moesim.hardware.dense_gemm import FORMATS as DENSE
from moesim.units import format_flops, format_rate

MARGIN: Final = 2.0
"""Times the datasheet's peak that no honest timing implies."""

SLOW: Final = 300.0
"""Times the datasheet's time (and a launch of 30 us) that is not a matter of efficiency any more."""

_UNIT: Final = 30.0
"""Times the peak from which on a wrong unit is the likely reason."""

_OTHERWISE: Final = "is the datasheet this device's, and were caches cold (else cache: warm)?"
_LAUNCH_S: Final = 30e-6
_HOST_RATE: Final = 1e12
"""Bytes/s beyond which no link between host and device goes (NVLink-C2C has 450 GB/s one way)."""


def check_times(rows: pd.DataFrame, timed: Timed, file: str) -> None:
    """Refuse times of one device that its datasheet rules out.

    Args:
        rows: rows of one device, of any families.
        timed: the device.
        file: where they stand, for messages.

    Raises:
        InputError: a format that the device has no rate for, or a time that cannot be; names the row.
    """
    for (family, dtype, backend), part in rows.groupby(["family", "dtype", "backend"], sort=False):
        line = int(part["line"].iloc[0])
        try:
            flops, amount, peak, rate = _work(part, str(family), str(dtype), str(backend), timed)
        except InputError as error:
            raise error.at(file, line) from error
        seconds = part["seconds"].to_numpy(dtype=float)
        _check_fast(part, seconds, flops, peak, file, compute=True)
        _check_fast(part, seconds, amount, rate, file, compute=False)
        ideal = np.maximum(flops / peak, amount / rate) + _LAUNCH_S
        if family in ("launch", "host_sync", "copy_h2d", "copy_d2h"):
            ideal = np.full(len(part), 1e-3) + ideal
        if np.median(seconds / ideal) > SLOW:
            message = (
                f"{family} rows of '{dtype}' take {np.median(seconds / ideal):.0f} times what the datasheet "
                f"of '{timed.name}' gives"
            )
            raise InputError(message, file, line, hint=_question(part, slower=True))


def _check_fast(
    part: pd.DataFrame, seconds: Array, work: Array, peak: float, file: str, *, compute: bool
) -> None:
    bad = np.flatnonzero(work / seconds > MARGIN * peak)
    if not len(bad):
        return
    show = format_flops if compute else format_rate
    row = part.iloc[bad[0]]
    message = (
        f"{row['family']} in {seconds[bad[0]] * 1e6:.4g} us would be {show(work[bad[0]] / seconds[bad[0]])}, "
        f"more than {MARGIN:g} times the datasheet's {show(peak)}"
    )
    far = (work / seconds)[bad].max() > _UNIT * peak
    hint = _question(part, slower=False) if far else _OTHERWISE
    raise InputError(message, file, int(row["line"]), hint=hint)


def _question(part: pd.DataFrame, *, slower: bool) -> str:
    unit = str(part["unit"].iloc[0]) if "unit" in part.columns else "latency_us"
    finer = {"latency_s": "milliseconds", "latency_ms": "microseconds", "latency_us": "nanoseconds"}
    coarser = {"latency_us": "milliseconds", "latency_ms": "seconds", "latency_s": "seconds"}
    return f"the column is {unit}; are these {(finer if slower else coarser)[unit]}?"


def _work(
    rows: pd.DataFrame, family: str, dtype: str, backend: str, timed: Timed
) -> tuple[Array, Array, float, float]:
    """Return FLOPs and bytes that rows cannot do without, and the datasheet's rates of both."""
    device = timed.device
    zero = np.zeros(len(rows))
    rate = device.memory.bandwidth
    cold = (rows["cache"] == "cold").to_numpy(dtype=float)

    def column(name: str) -> Array:
        return np.asarray(rows[name].to_numpy(dtype=float), dtype=np.float64)

    if family == "gemm":
        kind = DENSE[dtype]
        m, n, k = column("m"), column("n"), column("k")
        moved = m * k * kind.activation + k * n * kind.weight + m * n * 2.0
        return 2.0 * m * n * k, cold * moved, device.flops(kind.rate), rate
    if family == "moe":
        arithmetic, weight = GROUPED[dtype]
        counts = own_counts(rows, kernel_for("other", dtype))
        size = column("hidden") * column("inter") * np.where(rows["gated"] == "yes", 3.0, 2.0)
        return 2.0 * counts.rows * size, cold * counts.active * size * weight, device.flops(arithmetic), rate
    if family.startswith("attention"):
        return zero, cold * _cached(rows, dtype), device.flops("bf16"), rate
    if family in ("memory", "permute"):
        sizes = {"fp8": 1.0, "fp32": 4.0}
        moved = column("bytes") if family == "memory" else column("tokens") * column("hidden")
        width = 1.0 if family == "memory" else sizes.get(dtype, 2.0)
        return zero, cold * moved * width, 1.0, rate
    if family in ("copy_h2d", "copy_d2h"):
        return zero, column("bytes"), 1.0, _HOST_RATE
    if family in ("launch", "host_sync"):
        return zero, zero, 1.0, rate

    count = column("devices")
    return zero, column("bytes") * (count - 1.0) / count, 1.0, timed.require_links().rate


def _cached(rows: pd.DataFrame, dtype: str) -> Array:
    """Return bytes of the visible KV cache."""
    names = ("batch", "context", "queries", "kv_heads", "head_dim", "window")
    part = {name: rows[name].to_numpy(dtype=float) for name in names}
    seen = np.where(
        part["window"] > 0, np.minimum(part["context"], part["window"] + part["queries"]), part["context"]
    )
    latent = (rows["kind"] == "mla").to_numpy()
    width = np.where(latent, 576.0, 2.0 * part["kv_heads"] * part["head_dim"])
    return np.asarray(part["batch"] * seen * width * (2.0 if dtype == "bf16" else 1.0), dtype=np.float64)
