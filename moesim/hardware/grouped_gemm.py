"""What the experts of one MoE layer cost on a device: two grouped GEMMs with an activation between them.

One fused call is priced as::

    launch + sum over both GEMMs of [ (weights^p + arithmetic^p)^(1/p) + tiles * tile + k * depth ] + passes

* ``weights``: weights of the experts with at least one row, read once from device memory;
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

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.hardware.grouped_kernels import GroupCounts, GroupedKernel, count_groups
from moesim.hardware.spec import Device

Array = npt.NDArray[np.float64]

DEPTH_STEP: Final = 64.0
"""Elements of the inner extent that kernels take per step; a rest counts as a whole step."""


@dataclass(frozen=True)
class GroupedConstants:
    """Constants of one device, number format and kernel family.

    Attributes:
        launch_s: a call without work: all its kernels replayed from a graph (s).
        memory: share of the memory's bandwidth at which weights stream.
        compute: share of peak FLOP/s that full tiles reach.
        passes: share of the memory's bandwidth at which rows pass between the kernels.
        tile_s: starting and ending one tile on one unit (s).
        depth_s: filling the pipeline, per element of the inner extent (s).
    """

    launch_s: float
    memory: float
    compute: float
    passes: float
    tile_s: float
    depth_s: float

    @classmethod
    def from_mapping(cls, values: Mapping[str, float], where: str = "constants") -> GroupedConstants:
        """Read constants.

        Raises:
            InputError: one is missing, not a finite number, or not positive.
        """
        known = [field.name for field in fields(cls)]
        for name in known:
            value = values.get(name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < np.inf:
                message = f"'{where}.{name}' must be a positive number, got {value!r}"
                raise InputError(message)
        return cls(**{name: float(values[name]) for name in known})


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


@dataclass(frozen=True, eq=False)
class LayerWork:
    """Ideal seconds of the parts of a layer, so that constants can be fitted without recounting.

    Attributes:
        weights: weights at full bandwidth, per GEMM [GEMMs, ...].
        arithmetic: padded arithmetic at full rate, per GEMM [GEMMs, ...].
        tiles: tiles per unit over all GEMMs, [...].
        depth: inner extents over all GEMMs, [...].
        passes: passes at full bandwidth, [...].
        launches: launches relative to that of an empty call; 0 where there is nothing to do, [...].
        overlap: exponent ``p``.
    """

    weights: Array
    arithmetic: Array
    tiles: Array
    depth: Array
    passes: Array
    launches: Array
    overlap: float

    def beside(self, other: LayerWork) -> LayerWork:
        """Join other experts to the same call, which is launched once."""
        return LayerWork(
            weights=np.concatenate([self.weights, other.weights]),
            arithmetic=np.concatenate([self.arithmetic, other.arithmetic]),
            tiles=self.tiles + other.tiles,
            depth=np.maximum(self.depth, other.depth),
            passes=self.passes + other.passes,
            launches=np.maximum(self.launches, other.launches),
            overlap=self.overlap,
        )

    def seconds(self, constants: GroupedConstants) -> Array:
        """Price the work."""
        weights = self.weights / constants.memory
        arithmetic = self.arithmetic / constants.compute
        core = ((weights**self.overlap + arithmetic**self.overlap) ** (1.0 / self.overlap)).sum(axis=0)
        fixed = self.launches * constants.launch_s + self.depth * constants.depth_s
        spread = self.tiles * constants.tile_s + self.passes / constants.passes
        return np.asarray(core + spread + fixed, dtype=np.float64)


def layer_work(device: Device, kernel: GroupedKernel, shape: ExpertShape, counts: GroupCounts) -> LayerWork:
    """Count a layer's work on a device."""
    halves = 2.0 if shape.gated else 1.0
    hidden = np.asarray(shape.hidden, dtype=np.float64)
    inner = np.asarray(shape.intermediate, dtype=np.float64)
    gemms = [(np.asarray(n, dtype=np.float64), np.asarray(k, dtype=np.float64)) for n, k in shape.gemms]
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
        launches=busy * (1.0 + kernel.growth * np.log2(1.0 + counts.pairs)),
        overlap=kernel.overlap,
    )


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
    waves = np.where(tiles > 0, np.hypot(tiles, device.compute_units), 0.0)
    tile_flops = 2.0 * counts.height * columns * np.ceil(k / DEPTH_STEP) * DEPTH_STEP
    arithmetic: Array = waves * tile_flops * slow / device.flops(shape.dtype)
    weights: Array = counts.active * n * k * slow * (shape.weight_bytes / device.memory.bandwidth)
    started: Array = (counts.all_blocks if kernel.all_pairs else counts.blocks) * across
    return weights, arithmetic, started
