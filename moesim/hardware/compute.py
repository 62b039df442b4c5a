"""What computing costs on a device: roofline times of GEMMs, attention and memory passes.

One rule prices everything: a kernel takes the longer of its arithmetic and its memory traffic, plus
its launch. Arithmetic runs at ``peak * gemm_efficiency`` (the share that a large GEMM reaches) on
whole tiles in whole waves over the compute units; traffic runs at ``bandwidth * memory_efficiency``.
All functions take and return numpy arrays, so that one call prices every device of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.hardware.spec import DTYPE_BYTES, Device

Array = npt.NDArray[np.float64]

TILE_SMALL = 64
"""Rows of the smallest tile (tokens): the M extent of a Hopper warp-group MMA (CUDA PTX ISA, wgmma)."""
TILE_LARGE = 2 * TILE_SMALL
"""Rows and columns of a usual tile (CUTLASS default 128 x 128 for bf16 and fp8 GEMMs)."""


@dataclass(frozen=True, eq=False)
class RowCounts:
    """Rows of GEMMs after cutting them into tiles, summed over whatever one kernel groups.

    Attributes:
        rows: rows (tokens), [...].
        large: tiles of 128 rows, [...].
        small: tiles of 64 rows, [...].
        active: GEMMs with at least one row, [...].
    """

    rows: Array
    large: Array
    small: Array
    active: Array

    @classmethod
    def of(cls, tokens: npt.ArrayLike) -> RowCounts:
        """Count one GEMM per entry of ``tokens``.

        Up to 64 rows a kernel picks tiles of 64, beyond that of 128.
        """
        rows = np.asarray(tokens, dtype=np.float64)
        large = np.where(rows > TILE_SMALL, np.ceil(rows / TILE_LARGE), 0.0)
        active = (rows > 0).astype(np.float64)
        return cls(rows, large, np.where(rows <= TILE_SMALL, active, 0.0), active)

    def take(self, entries: npt.NDArray[np.int64]) -> RowCounts:
        """Return some of the entries."""
        return RowCounts(self.rows[entries], self.large[entries], self.small[entries], self.active[entries])

    def grouped(self, keys: npt.NDArray[np.int64], size: int) -> RowCounts:
        """Sum over entries with the same key, giving arrays [size]."""

        def total(values: Array) -> Array:
            return np.asarray(np.bincount(keys, weights=values, minlength=size), dtype=np.float64)

        return RowCounts(total(self.rows), total(self.large), total(self.small), total(self.active))


@dataclass(frozen=True, eq=False)
class GemmWork:
    """Work of one kernel per entry.

    Attributes:
        flops: arithmetic on whole tiles (FLOP), [...].
        large: number of tiles of 128 rows, [...].
        small: number of tiles of 64 rows, [...].
        bytes: memory traffic, [...].
    """

    flops: Array
    large: Array
    small: Array
    bytes: Array

    def __add__(self, other: GemmWork) -> GemmWork:
        """Join two pieces of work into one kernel."""
        return GemmWork(
            self.flops + other.flops,
            self.large + other.large,
            self.small + other.small,
            self.bytes + other.bytes,
        )


def gemm_work(
    counts: RowCounts, n: float, k: float, *, weight_bytes: float, activation_bytes: float
) -> GemmWork:
    """Count arithmetic and traffic of GEMMs [rows, k] x [k, n].

    Weights are read once per active GEMM; inputs are read and outputs written once.

    Args:
        counts: rows of the GEMMs.
        n: columns of the result.
        k: inner extent.
        weight_bytes: bytes per weight element.
        activation_bytes: bytes per element of input and output.
    """
    columns = math.ceil(n / TILE_LARGE)
    return GemmWork(
        flops=(counts.large * TILE_LARGE + counts.small * TILE_SMALL) * (2.0 * columns * TILE_LARGE * k),
        large=counts.large * columns,
        small=counts.small * columns,
        bytes=counts.active * (n * k * weight_bytes) + counts.rows * ((n + k) * activation_bytes),
    )


def gemm_seconds(device: Device, work: GemmWork, dtype: str) -> Array:
    """Price kernels: whole waves of tiles against memory traffic, without launch.

    The last wave counts in full: with ``u`` units and ``t`` tiles of one size the arithmetic takes
    ``ceil(t/u) * u / t`` of the ideal time. Of mixed sizes the large ones run first and the small ones, half
    as long, fill what their last wave leaves idle; no order is faster, and one more row never saves time.
    """
    units = float(device.compute_units)
    waves = np.ceil(work.large / units)
    beside = 2.0 * (waves * units - work.large)
    # Counted in the time of a small tile.
    spent = 2.0 * waves + np.ceil(np.maximum(work.small - beside, 0.0) / units)
    filled = spent * units / np.maximum(2.0 * work.large + work.small, 1.0)
    arithmetic = work.flops * filled / (device.flops(dtype) * device.gemm_efficiency)
    return np.maximum(arithmetic, memory_seconds(device, work.bytes))


def memory_seconds(device: Device, traffic: npt.ArrayLike) -> Array:
    """Price bytes that only stream through memory."""
    rate = device.memory.bandwidth * device.memory_efficiency
    return np.asarray(np.asarray(traffic, float) / rate, dtype=np.float64)


def dense_seconds(
    device: Device, tokens: npt.ArrayLike, n: float, k: float, weight_dtype: str, activation_dtype: str
) -> Array:
    """Price dense GEMMs [tokens, k] x [k, n], one kernel per entry of ``tokens``, without launch."""
    work = gemm_work(
        RowCounts.of(tokens),
        n,
        k,
        weight_bytes=DTYPE_BYTES[weight_dtype],
        activation_bytes=DTYPE_BYTES[activation_dtype],
    )
    return gemm_seconds(device, work, weight_dtype)


def attention_seconds(
    device: Device,
    tokens: npt.ArrayLike,
    score_flops_per_token: float,
    kv_bytes_per_token: float,
    dtype: str,
) -> Array:
    """Price the attention core: scores and weighted values against reading the KV cache.

    Args:
        device: where it runs.
        tokens: query tokens.
        score_flops_per_token: FLOPs of one query over its context.
        kv_bytes_per_token: cache bytes read per query (per sequence in decode; a prefill reads its
            cache once per tile of queries, which the caller divides out).
        dtype: number format of the arithmetic.
    """
    queries = np.asarray(tokens, float)
    arithmetic = queries * score_flops_per_token / (device.flops(dtype) * device.gemm_efficiency)
    return np.maximum(arithmetic, memory_seconds(device, queries * kv_bytes_per_token))
