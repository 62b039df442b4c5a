"""Rates and times of a device that need no model of kernels: memory, permutation, copies, launches.

Streams take ``start_s + bytes / (share * bandwidth)``, as simulations price them with the launch and the
memory of bf16 GEMMs; launches and reads by the host take the same time
each. What they find stands in a calibration file under ``source.device``, for people who describe the
device; nothing reads it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import pandas as pd

from moesim.accuracy.own.datasheet import Timed
from moesim.accuracy.own.problem import Price, Problem
from moesim.accuracy.own.start import gemm_start
from moesim.accuracy.protocols import Array

_COPY_START_S: Final = 10e-6
_COPY_RATE: Final = 25e9
"""Bytes/s of a copy over PCIe 4.0 x16; a guess to start from, nothing that would be predicted with."""

_PASSES: Final = 2.0
"""Times that a permutation touches every byte: read and written."""

_WIDTHS: Final = {"fp32": 4.0, "fp8": 1.0}


def plain_problems(rows: pd.DataFrame, timed: Timed) -> Iterator[Problem]:
    """Yield the problems of one device's rows, in the order of reports."""
    usual, _ = gemm_start(timed.device, "bf16")
    bandwidth = timed.device.memory.bandwidth
    for family in ("memory", "permute"):
        part = rows[rows["family"] == family]
        for backend, group in part.groupby("backend", sort=True):
            start = {"start_s": usual.launch_s, "share": usual.memory}
            yield _stream(group, timed, family, str(backend), start, bandwidth, predicts=True)
    for family in ("copy_h2d", "copy_d2h"):
        part = rows[rows["family"] == family]
        for pinned, group in part.groupby("pinned", sort=True):
            label = "pinned" if pinned == "yes" else "pageable"
            start = {"start_s": _COPY_START_S, "bytes_per_s": _COPY_RATE}
            yield _stream(group, timed, family, label, start, 1.0, predicts=False)
    launches = rows[rows["family"] == "launch"]
    for graph, group in launches.groupby("graph", sort=True):
        label = "in a graph" if graph == "yes" else "one by one"
        yield _repeated(group, timed, "launch", label, timed.device.launch_s, predicts=graph == "no")
    syncs = rows[rows["family"] == "host_sync"]
    if len(syncs):
        yield _repeated(syncs, timed, "host_sync", "", timed.device.host_sync_s, predicts=True)


def _bytes(rows: pd.DataFrame) -> Array:
    """Return the bytes that rows move."""
    if str(rows["family"].iloc[0]) != "permute":
        return rows["bytes"].to_numpy(dtype="float64")
    width = rows["dtype"].map(lambda name: _WIDTHS.get(str(name), 2.0)).to_numpy(dtype=float)
    copies = rows["tokens"].to_numpy(dtype=float) * rows["topk"].to_numpy(dtype=float)
    return np.asarray(_PASSES * copies * rows["hidden"].to_numpy(dtype=float) * width, dtype=np.float64)


def _stream(
    rows: pd.DataFrame,
    timed: Timed,
    family: str,
    label: str,
    start: Mapping[str, float],
    peak: float,
    *,
    predicts: bool,
) -> Problem:
    pace = "share" if "share" in start else "bytes_per_s"

    def build(part: pd.DataFrame) -> Price:
        amount = _bytes(part) / peak
        return lambda values: values["start_s"] + amount / values[pace]

    bounds = {"start_s": (1e-8, 1e-2), pace: (0.02, 1.2) if pace == "share" else (1e8, 1e12)}
    return Problem(
        family=family,
        device=timed.name,
        label=label,
        place=(),
        rows=rows.reset_index(drop=True),
        build=build,
        start=start,
        free=(pace, "start_s"),
        bounds=bounds,
        spread={"start_s": 2.0, pace: 1.0},
        kept={},
        predicts=predicts,
    )


def _repeated(
    rows: pd.DataFrame, timed: Timed, family: str, label: str, each_s: float, *, predicts: bool
) -> Problem:
    def build(part: pd.DataFrame) -> Price:
        count = part["kernels"].to_numpy(dtype="float64") if family == "launch" else np.ones(len(part))
        return lambda values: count * values["each_s"]

    return Problem(
        family=family,
        device=timed.name,
        label=label,
        place=(),
        rows=rows.reset_index(drop=True),
        build=build,
        start={"each_s": max(each_s, 1e-7)},
        free=("each_s",),
        bounds={"each_s": (1e-8, 1e-1)},
        spread={"each_s": 3.0},
        kept={},
        predicts=predicts,
    )
