"""What the experts of one MoE layer cost on a device: two grouped GEMMs with an activation between them.

One fused call is priced as::

    launch + sum over both GEMMs of [ (weights^p + arithmetic^p)^(1/p) + tiles * tile + k * depth ] + passes

* ``weights``: weights of the experts with at least one row, read from device memory once, and of experts
  beyond the cache in part again for every further block of their rows;
* ``arithmetic``: rows padded to whole blocks, at least one whole wave over the device's units;
* ``tile``: what starting and ending one tile costs the unit that runs it (also of tiles whose expert is
  elsewhere, where the kernel starts those: see ``GroupedKernel.all_pairs``);
* ``depth``: filling the pipeline along the inner extent, which a GEMM of few tiles cannot hide;
* ``passes``: rows and intermediate results written, read back and summed up.

``p`` says how well loading and arithmetic overlap (1 not at all, infinity fully). All rates are shares of
the datasheet's, all other constants are seconds, so that a device twice as fast in everything takes half
the time. Everything is an array over any leading axes (layers, devices).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from moesim.hardware.dense_constants import cache_bytes
from moesim.hardware.grouped_kernels import (
    CHOICES_AT_ONCE,
    SORTED_AT_ONCE,
    GroupCounts,
    GroupedKernel,
    count_groups,
)
from moesim.hardware.grouped_work import GroupedConstants, LayerWork
from moesim.hardware.spec import Device

Array = npt.NDArray[np.float64]

DEPTH_STEP: Final = 64.0
"""Elements of the inner extent that kernels take per step; a rest counts as a whole step."""


CACHE: Final = 50e6
"""Second-level cache of devices whose cache is not known (bytes)."""

CACHED: Final = 0.7
"""Share of the cache that weights can hold beside everything else."""


@dataclass(frozen=True)
class ExpertShape:
    """One expert and its number formats.

    Attributes:
        hidden: width of a token.
        intermediate: width between the two GEMMs on this device.
        gated: the first GEMM gives two halves, one gating the other.
        weight_bytes: bytes per weight, scales included.
        dtype: format of the arithmetic, a key of ``Device.peak_flops``.
        activation_bytes: bytes per element of rows passed between kernels.
        matrices: (n, k) of each GEMM in the order they run; by default those of a gated or plain MLP.
    """

    hidden: float | Array
    intermediate: float | Array
    gated: bool = True
    weight_bytes: float = 2.0
    dtype: str = "bf16"
    activation_bytes: float = 2.0
    matrices: tuple[tuple[float, float], ...] = ()

    @property
    def gemms(self) -> tuple[tuple[float | Array, float | Array], ...]:
        """(n, k) of each GEMM."""
        if self.matrices:
            return self.matrices
        wide = (2.0 if self.gated else 1.0) * self.intermediate
        return ((wide, self.hidden), (self.hidden, self.intermediate))


def expert_layer_seconds(
    device: Device,
    constants: GroupedConstants,
    kernel: GroupedKernel,
    shape: ExpertShape,
    counts: GroupCounts,
) -> Array:
    """Price one fused expert layer per entry of ``counts``, [...] seconds; nothing to do costs nothing."""
    work = layer_work(device, kernel, shape, counts)
    return work.seconds(constants)


def layer_work(device: Device, kernel: GroupedKernel, shape: ExpertShape, counts: GroupCounts) -> LayerWork:
    """Count a layer's work on a device."""
    halves = 2.0 if shape.gated else 1.0
    hidden, inner = (_padded(width, kernel) for width in (shape.hidden, shape.intermediate))
    joined = halves * np.asarray(shape.intermediate, dtype=np.float64)  # both halves are padded
    gemms = [
        (np.where(n == joined, halves * inner, _padded(n, kernel)), _padded(k, kernel))
        for n, k in shape.gemms
    ]
    works = [
        _gemm_work(device, kernel, shape, counts, n, k, np.where(k % 16 == 0, 1.0, kernel.unaligned))
        for n, k in gemms
    ]
    rows = counts.pairs if kernel.all_pairs else counts.rows
    between = rows * (inner * (2.0 * halves + 1.0) + 2.0 * hidden)
    around = (counts.rows + kernel.token_passes * counts.tokens) * hidden
    busy = np.minimum(counts.rows, 1.0)
    return LayerWork(
        weights=np.stack([work[0] for work in works]),
        arithmetic=np.stack([work[1] for work in works]),
        tiles=sum((work[2] for work in works), np.zeros(busy.shape)) / device.compute_units,
        depth=busy * sum((k for _, k in gemms), np.zeros(())),
        passes=(between + around) * (shape.activation_bytes / device.memory.bandwidth),
        launches=busy * _launches(kernel, counts),
        overlap=kernel.overlap,
    )


def _padded(width: float | Array, kernel: GroupedKernel) -> Array:
    """Return what a width is padded to."""
    return np.asarray(np.ceil(np.asarray(width, dtype=np.float64) / kernel.pad) * kernel.pad)


def _launches(kernel: GroupedKernel, counts: GroupCounts) -> Array:
    """Return launches of a call relative to one without work."""
    choices = np.round(counts.pairs / np.maximum(counts.tokens, 1.0))
    apart = (counts.tokens > SORTED_AT_ONCE) | ~np.isin(choices, CHOICES_AT_ONCE)
    experts = np.maximum(counts.experts, 1.0)  # a device may hold none
    growth = kernel.growth * np.log2(1.0 + counts.pairs) + kernel.experts_growth * np.log2(experts)
    return np.asarray(1.0 + growth + kernel.sorting * apart)


def grouped_gemm_seconds(
    device: Device,
    constants: GroupedConstants,
    tokens_per_group: npt.ArrayLike,
    n: float,
    k: float,
    *,
    kernel: GroupedKernel,
    weight_bytes: float = 2.0,
    dtype: str = "bf16",
    activation_bytes: float = 2.0,
    top_k: int = 1,
    tokens: npt.ArrayLike | None = None,
) -> Array:
    """Price one grouped GEMM [rows, k] x [k, n] per call; whole layers are ``expert_layer_seconds``.

    Args:
        device: where it runs.
        constants: its constants for this format and kernel family.
        tokens_per_group: rows of every expert, [..., experts].
        n: columns of the result.
        k: inner extent.
        kernel: how the family cuts the work.
        weight_bytes: bytes per weight, scales included.
        dtype: format of the arithmetic.
        activation_bytes: bytes per element of rows read and written.
        top_k: experts per token, to tell tokens from pairs.
        tokens: tokens of the call, [...]; by default what makes all its pairs local.

    Returns:
        Seconds, [...]; zero where there are no rows.
    """
    counts = count_groups(tokens_per_group, kernel, top_k=top_k, tokens=tokens)
    shape = ExpertShape(k, n, False, weight_bytes, dtype, activation_bytes)
    weights, arithmetic, tiles = _gemm_work(
        device, kernel, shape, counts, np.asarray(n, dtype=np.float64), np.asarray(k, dtype=np.float64)
    )
    busy = np.minimum(counts.rows, 1.0)
    work = LayerWork(
        weights=weights[np.newaxis],
        arithmetic=arithmetic[np.newaxis],
        tiles=tiles / device.compute_units,
        depth=busy * k,
        passes=counts.rows * (n + k) * (activation_bytes / device.memory.bandwidth),
        launches=busy,
        overlap=kernel.overlap,
    )
    return work.seconds(constants)


def _paid(kernel: GroupedKernel, tiles: Array, units: int) -> Array:
    """Return tiles whose time passes on every unit, summed over units; 0 without any."""
    if kernel.waves == "whole":
        return np.asarray(np.ceil(tiles / units) * units)
    least = np.maximum(tiles, units) if kernel.waves == "least" else np.hypot(tiles, units)
    return np.where(tiles > 0, least, 0.0)


def _gemm_work(
    device: Device,
    kernel: GroupedKernel,
    shape: ExpertShape,
    counts: GroupCounts,
    n: Array,
    k: Array,
    slow: Array | float = 1.0,
) -> tuple[Array, Array, Array]:
    """Return ideal seconds of weights and arithmetic, and tiles, of one grouped GEMM [rows, k] x [k, n]."""
    narrow = (counts.tokens <= 64) if kernel.rule == "call" else np.zeros(counts.tokens.shape, dtype=bool)
    columns = np.where(narrow, 64.0, float(kernel.columns))
    across = np.ceil(n / columns)
    tiles = counts.blocks * across
    paid = _paid(kernel, tiles, device.compute_units)
    tile_flops = 2.0 * counts.height * columns * np.ceil(k / DEPTH_STEP) * DEPTH_STEP
    arithmetic: Array = paid * tile_flops * slow / device.flops(shape.dtype)
    size = n * k * shape.weight_bytes
    again = np.maximum(counts.blocks / np.maximum(counts.active, 1.0) - 1.0, 0.0)
    missed = kernel.reread / (
        1.0 + ((cache_bytes(device.name) or CACHE) * CACHED / np.maximum(size, 1.0)) ** 2
    )
    weights: Array = counts.active * size * slow * (1.0 + again * missed) / device.memory.bandwidth
    if kernel.streams:
        weights = weights * np.hypot(1.0, device.compute_units / (kernel.streams * np.maximum(tiles, 1.0)))
    started: Array = (counts.all_blocks if kernel.all_pairs else counts.blocks) * across
    return weights, arithmetic, started
