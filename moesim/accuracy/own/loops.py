"""Expert layers that launch a GEMM per expert, priced as simulations do: dense GEMMs, or launches if longer.

What is fitted is the time of one launch; the GEMMs keep the package's constants.
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
from moesim.hardware.dense_gemm import dense_gemm_seconds

LOOP: Final = "/loop"
"""End of the backends that run experts one by one."""

_HIDDEN_PASSES: Final = 9.0
_INNER_PASSES: Final = 7.0
"""Rows of either width that pass through memory beside the GEMMs, per pair: gathered (2), joined (2 and 4),
activated (3), scaled (2) and summed up (3)."""

_PASS_BYTES: Final = 2.0


def loop_problems(rows: pd.DataFrame, timed: Timed) -> Iterator[Problem]:
    """Yield the problems of one device's rows: one per format and software."""
    part = rows[(rows["family"] == "moe") & rows["backend"].str.endswith(LOOP)]
    for (backend, dtype), group in part.groupby(["backend", "dtype"], sort=True):
        yield _problem(group.reset_index(drop=True), timed, str(backend), str(dtype))


def _problem(rows: pd.DataFrame, timed: Timed, backend: str, dtype: str) -> Problem:
    constants, own = gemm_start(timed.device, dtype)

    def build(part: pd.DataFrame) -> Price:
        counts = [np.array([float(one) for one in str(told).split(";")]) for told in part["counts"]]
        row = np.repeat(np.arange(len(part)), [len(one) for one in counts])
        here = np.concatenate(counts)
        hidden, inner = (part[name].to_numpy(dtype=float)[row] for name in ("hidden", "inter"))
        wide = np.where((part["gated"] == "yes").to_numpy()[row], 2.0, 1.0) * inner
        pairs = [(wide, hidden), (hidden, inner)]
        gemms = [dense_gemm_seconds(timed.device, constants, here, n, k, dtype) for n, k in pairs]
        rate = timed.device.memory.bandwidth * constants.memory
        passed = here * (_HIDDEN_PASSES * hidden + _INNER_PASSES * inner) * (_PASS_BYTES / rate)

        def price(values: Mapping[str, float]) -> Array:
            launch = np.where(here > 0, values["launch_s"], 0.0)
            time = passed + sum(np.maximum(seconds, launch) for seconds in gemms)
            return np.asarray(np.bincount(row, weights=time, minlength=len(part)), dtype=np.float64)

        return price

    return Problem(
        family="moe",
        device=timed.name,
        label=f"{backend} {dtype}",
        place=(),
        rows=rows,
        build=build,
        start={"launch_s": timed.device.launch_s},
        free=("launch_s",),
        bounds={"launch_s": (1e-7, 1e-3)},
        spread={"launch_s": 1.0},
        kept={},
        own=own,
    )
