"""Dense GEMMs: published timings of PyTorch, CUTLASS, DeepGEMM and TensorRT-LLM against the tile model.

Timings are of one linear layer on one GPU in a stream of them (CUDA graphs, except where noted); those of
8 and 4 bit formats contain what quantises the activations before the product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final

import numpy as np

from moesim.accuracy.alternating import Array, fit
from moesim.hardware.catalogue import load_device
from moesim.hardware.dense_constants import cache_bytes
from moesim.hardware.dense_gemm import (
    BENCHMARK_COPIES,
    FORMATS,
    GemmChoices,
    GemmConstants,
    choice_seconds,
    dense_gemm_seconds,
    gemm_choices,
)
from moesim.measured.gemm_tables import gemm_rows
from moesim.measured.rows import Measured, thin

BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "launch_s": (3e-7, 3e-5),
    "tile_s": (1e-9, 2e-5),
    "step_s": (1e-10, 3e-7),
    "split_s": (1e-7, 1e-3),
    "mma": (0.1, 1.1),
    "memory": (0.3, 1.0),
    "balance": (5.0, 1000.0),
    "cache_ratio": (1.0, 20.0),
    "whole": (0.01, 1.0),
    "norm": (1.0, 12.0),
    "passes": (1e-3, 20.0),
}
"""Range of each fitted constant; mma may exceed 1 because some boards clock above their datasheet's rate."""

_FIT_ROWS: Final = 1500
"""Rows that one fit sees; more change the median error by less than its last digit."""

_SCALE: Final = 0.05

_HOST_BOUND: Final = 2e-5
"""Where even the quickest 5 % of calls take longer (s), the host's calls were timed, not kernels."""


@dataclass(frozen=True)
class Gemm:
    """The family of dense GEMMs. Left out as one model: a class of weight shapes [n, k]."""

    name: str = "gemm"
    curve: tuple[str, ...] = ("n", "k")
    axis: str = "m"
    case: tuple[str, ...] = ("m", "n", "k")
    fit_rows: int = 4000

    def measured(self, device: str) -> Measured:
        """Return all timings of a device; of each software and kind those of the newest version."""
        return gemm_rows(device)

    def predict(self, train: Measured, test: Measured) -> Array:
        """Fit constants on ``train`` and price ``test``; both hold one kind of GEMM."""
        return price_rows(test, fit_constants(train))


def fit_constants(train: Measured) -> GemmConstants:
    """Fit the constants of one kind of GEMM to timings of one or more devices."""
    rows = thin(train, _FIT_ROWS, ["device", "m", "n", "k"])
    ordered = rows.sort_values("device", kind="stable")
    seconds = ordered["seconds"].to_numpy(dtype=float)
    kind = FORMATS[str(ordered["dtype"].iloc[0])]
    parts = [
        gemm_choices(
            load_device(str(device)),
            kind,
            *_extents(part),
            cache=cache_bytes(str(device)),
            copies=BENCHMARK_COPIES,
        )
        for device, part in ordered.groupby("device", sort=True, observed=True)
    ]
    names = [f.name for f in fields(GemmChoices)]
    choices = GemmChoices(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
    start, bounds = asdict(GemmConstants()), dict(BOUNDS)
    floor = float(np.quantile(seconds, 0.05))
    if floor > _HOST_BOUND:
        start["host_s"], bounds["host_s"] = floor, (floor / 4.0, floor * 4.0)
    start["passes"] = 0.3
    return GemmConstants(**fit(choices, seconds, _price, start, bounds, scale=_SCALE).constants)


def price_rows(rows: Measured, constants: GemmConstants) -> Array:
    """Price measured rows, of any devices, under constants."""
    seconds = np.empty(len(rows))
    for device, places in rows.groupby("device", sort=True, observed=True).indices.items():
        part = rows.iloc[places]
        seconds[places] = dense_gemm_seconds(
            load_device(str(device)),
            constants,
            *_extents(part),
            str(part["dtype"].iloc[0]),
            cache=cache_bytes(str(device)),
            copies=BENCHMARK_COPIES,
        )
    return seconds


def _price(choices: GemmChoices, constants: Mapping[str, float]) -> Array:
    return choice_seconds(choices, GemmConstants(**constants))


def _extents(rows: Measured) -> tuple[Array, Array, Array]:
    m, n, k = (rows[name].to_numpy(dtype=np.float64) for name in ("m", "n", "k"))
    return m, n, k


FAMILIES: Final = (Gemm(),)
