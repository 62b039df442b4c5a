"""What one dense GEMM costs on a device: tiles in waves against memory, as a tuned library would run it.

A product [m, k] x [k, n] is cut into tiles; a tile walks along k, and with a small result several tiles
share one k range each (split-K). Every tile shape and split of a fixed menu is priced and the cheapest
one counts, because libraries choose like that. For one choice

    walk   = depth * max(2 bm bn / (mma * peak / units), (bm a + bn w) * balance / (peak / units))
             + depth / 64 * step_s
    tiles  = waves * (walk + tile_s)            waves between tiles/units and its ceiling (``whole``)
    memory = bytes / (memory * bandwidth)       ``cache_ratio`` faster where the operands stay in L2
    time   = launch_s + passes * m k a / rate + (tiles^norm + memory^norm)^(1/norm) + split_s and sums

``passes`` prices what quantises or scales the activations before the product. All functions take and
return numpy arrays. Constants are shares of datasheet rates and times, fitted to published timings
(data/dense.yaml, moesim.accuracy.gemm).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from moesim.errors import unknown_name
from moesim.hardware.kernel_model import Choices, Constants
from moesim.hardware.spec import Device

Array = npt.NDArray[np.float64]

STEP: Final = 64
"""Elements of k that a tile multiplies between two synchronisations."""

TILES: Final = tuple(
    (rows, columns)
    for rows in (16, 32, 64, 128, 256)
    for columns in (32, 64, 128, 256)
    if rows * columns <= 256 * 128
)
"""Tile shapes [m, n] of the menu: a Hopper or Blackwell tile holds at most 256 x 128 sums (CUTLASS)."""

SPLITS: Final = (1, 2, 3, 4, 6, 8, 12, 16)
"""Numbers of tiles that may share the k extent of one result."""

BENCHMARK_COPIES: Final = 6.0
"""Sets of weights that the published timings rotate through: L40S timings leave its L2 at about 16 MB."""

_ROWS: Final = 4096
"""Products priced at once; bounds the memory of a call to about 100 MB."""


@dataclass(frozen=True)
class GemmFormat:
    """How one kind of GEMM stores its operands.

    Attributes:
        weight: bytes per weight, scales included.
        activation: bytes per input element as the product reads it.
        rate: number format whose peak rate counts.
    """

    weight: float
    activation: float
    rate: str


FORMATS: Final[Mapping[str, GemmFormat]] = MappingProxyType(
    {
        "fp32": GemmFormat(4.0, 4.0, "fp32"),
        "tf32": GemmFormat(4.0, 4.0, "tf32"),
        "bf16": GemmFormat(2.0, 2.0, "bf16"),
        "fp16": GemmFormat(2.0, 2.0, "fp16"),
        "fp8": GemmFormat(1.0, 1.0, "fp8"),
        "fp8_block": GemmFormat(1.0, 1.0 + 4.0 / 128.0, "fp8"),
        "int8": GemmFormat(1.0, 1.0, "int8"),
        "fp4": GemmFormat(0.5 + 1.0 / 16.0, 0.5 + 1.0 / 16.0, "fp4"),
        "int8_wo": GemmFormat(1.0, 2.0, "bf16"),
        "int4": GemmFormat(0.5, 2.0, "bf16"),
    }
)
"""Kinds of GEMM; ``_wo`` and ``int4`` convert weights on the fly, fp4 has a scale per 16 elements (NVFP4),
fp8_block one fp32 scale per 128 inputs."""


@dataclass(frozen=True)
class GemmConstants(Constants):
    """Constants of one device and kind of GEMM; shares of datasheet rates, and seconds.

    Attributes:
        launch_s: time of an empty kernel, as a stream of kernels sees it (s).
        tile_s: start and end of a tile: fill of the pipeline, epilogue (s).
        step_s: what each 64 elements of k cost a tile beside arithmetic and loads (s).
        split_s: second kernel or semaphore that adds up split sums (s).
        mma: share of the peak rate that large tiles reach.
        memory: share of the memory's bandwidth that streaming reaches.
        balance: FLOP that a unit can do in the time in which it loads one byte from L2.
        cache_ratio: rate of data found in L2 over that of memory.
        whole: 1 where a last, partly filled wave counts in full, 0 where work spreads evenly.
        norm: exponent that joins tiles and memory (large: the longer one alone).
        passes: passes over the activations that run before the product.
        host_s: time in which the host can issue one call (s); only matters without CUDA graphs.
    """

    launch_s: float = 2.0e-6
    tile_s: float = 8.0e-7
    step_s: float = 4.5e-8
    split_s: float = 2.3e-6
    mma: float = 0.85
    memory: float = 0.83
    balance: float = 42.0
    cache_ratio: float = 1.0
    whole: float = 0.3
    norm: float = 2.8
    passes: float = 0.0
    host_s: float = 0.0


@dataclass(frozen=True, eq=False)
class GemmChoices(Choices):
    """Products with every way to run them: arrays [products, choices] or [products, 1].

    Attributes:
        peak: FLOP/s of the device. bandwidth: bytes/s of its memory. cache: bytes of its L2.
        even: tiles / units, at least 1. waves: its ceiling.
        depth: elements of k per tile. splits: tiles along k.
        flops: FLOP per element of k if all units worked on such tiles. loads: bytes likewise.
        inputs, weights, outputs: bytes. sums: bytes of one set of fp32 sums.
        copies: sets of weights that compete for the L2 (infinite: never found there).
    """

    peak: Array
    bandwidth: Array
    cache: Array
    even: Array
    waves: Array
    depth: Array
    splits: Array
    flops: Array
    loads: Array
    inputs: Array
    weights: Array
    outputs: Array
    sums: Array
    copies: Array


def gemm_choices(
    device: Device, kind: GemmFormat, m: Array, n: Array, k: Array, *, cache: float, copies: float
) -> GemmChoices:
    """List the ways to run products [m, k] x [k, n]; arrays [products] of positive extents."""
    menu = np.array([(*tile, split) for tile in TILES for split in SPLITS], dtype=np.float64)
    high, wide, split = menu.T[:, None, :]
    rows, columns, inner = (np.asarray(part, dtype=np.float64)[:, None] for part in (m, n, k))
    units = float(device.compute_units)
    full = np.ones_like(rows)
    share = np.ceil(rows / high) * np.ceil(columns / wide) * split / units
    return GemmChoices(
        peak=full * device.flops(kind.rate),
        bandwidth=full * device.memory.bandwidth,
        cache=full * cache,
        even=np.maximum(share, 1.0),
        waves=np.ceil(share),
        depth=np.ceil(inner / split / STEP) * STEP,
        splits=full * split,
        flops=full * (2.0 * high * wide * units),
        loads=full * ((high * kind.activation + wide * kind.weight) * units),
        inputs=rows * inner * kind.activation,
        weights=columns * inner * kind.weight,
        outputs=rows * columns * 2.0,
        sums=rows * columns * 4.0,
        copies=full * copies,
    )


def choice_seconds(choices: GemmChoices, c: GemmConstants) -> Array:
    """Price every choice; the shape is that of the choices' arrays."""
    walk = choices.depth * (
        np.maximum(choices.flops / c.mma, choices.loads * c.balance) / choices.peak + c.step_s / STEP
    )
    tiles = (choices.even + c.whole * (choices.waves - choices.even)) * (walk + c.tile_s)
    rate = choices.bandwidth * c.memory
    footprint = choices.copies * choices.weights + choices.inputs + choices.outputs
    slow = miss_share(footprint, choices.cache)
    pace = (slow + (1.0 - slow) / c.cache_ratio) / rate
    memory = (choices.inputs + choices.weights + choices.outputs) * pace
    adding = c.split_s + (choices.splits + 1.0) * choices.sums / (rate * c.cache_ratio)
    kernel = (
        c.launch_s
        + c.passes * choices.inputs * pace
        + (tiles**c.norm + memory**c.norm) ** (1.0 / c.norm)
        + np.where(choices.splits > 1.0, adding, 0.0)
    )
    if c.host_s <= 0.0:
        return np.asarray(kernel, dtype=np.float64)
    return np.asarray((kernel**6 + c.host_s**6) ** (1.0 / 6.0), dtype=np.float64)


def miss_share(footprint: Array, cache: Array) -> Array:
    """Return the share of bytes that do not stay in a cache between uses; all once 35 % too large.

    A cache that is run through in a cycle loses everything soon after it is too small.
    """
    room = np.maximum(cache, 1.0)
    return np.clip((footprint / room - 1.0) / 0.35, 0.0, 1.0)


def gemm_format(dtype: str) -> GemmFormat:
    """Return a kind of GEMM by name.

    Raises:
        InputError: no such kind; names the nearest one.
    """
    if dtype not in FORMATS:
        raise unknown_name("kind of GEMM", dtype[:60], FORMATS)
    return FORMATS[dtype]


def dense_gemm_seconds(
    device: Device,
    constants: GemmConstants,
    m: npt.ArrayLike,
    n: npt.ArrayLike,
    k: npt.ArrayLike,
    dtype: str,
    *,
    cache: float = 0.0,
    copies: float = np.inf,
) -> Array:
    """Price products [m, k] x [k, n], one kernel each, launch included.

    Args:
        device: where they run.
        constants: of this device and kind.
        m: rows (tokens); any shape that broadcasts with ``n`` and ``k``.
        n: columns of the result.
        k: inner extent.
        dtype: kind of GEMM, see ``FORMATS``.
        cache: bytes of L2; 0 (default): nothing stays in it.
        copies: sets of weights that are used in turn; infinite (default): other layers' weights evict
            these between two uses, as in a model.

    Returns:
        Seconds; 0 where any extent is 0.

    Raises:
        InputError: unknown kind, or one that the device has no rate for.
    """
    kind = gemm_format(dtype)
    parts = np.broadcast_arrays(*(np.asarray(part, dtype=np.float64) for part in (m, n, k)))
    flat = np.stack([part.ravel() for part in parts])
    result = np.zeros(flat.shape[1])
    busy = np.flatnonzero((flat > 0).all(axis=0))
    # an infinite number of copies would make 0 * inf of missing weights; any huge one means the same
    many = float(min(copies, 1e12))
    for start in range(0, len(busy), _ROWS):
        part = busy[start : start + _ROWS]
        choices = gemm_choices(device, kind, *flat[:, part], cache=cache, copies=many)
        result[part] = choice_seconds(choices, constants).min(axis=1)
    return result.reshape(parts[0].shape)
