"""Work of MoE expert layers and the constants that price it: see ``moesim.hardware.grouped_gemm``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError

Array = npt.NDArray[np.float64]


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
        core, spread = self._parts(constants)
        return np.asarray(core.sum(axis=0) + sum(spread.values()), dtype=np.float64)

    def slopes(self, constants: GroupedConstants) -> tuple[Array, Array]:
        """Return the price, and by how many percent it follows one percent of each constant.

        Returns:
            Seconds [...], and the slopes [constants, ...] in the order of ``GroupedConstants``.
        """
        core, spread = self._parts(constants)
        seconds = core.sum(axis=0) + sum(spread.values())
        weights = (self.weights / constants.memory) ** self.overlap
        arithmetic = (self.arithmetic / constants.compute) ** self.overlap
        share = core / np.maximum(weights + arithmetic, np.finfo(np.float64).tiny)
        parts = {
            **spread,
            "memory": -(share * weights).sum(axis=0),
            "compute": -(share * arithmetic).sum(axis=0),
            "passes": -spread["passes"],
        }
        slopes = np.stack([parts[field.name] for field in fields(GroupedConstants)])
        return np.asarray(seconds), np.asarray(slopes / np.maximum(seconds, np.finfo(np.float64).tiny))

    def _parts(self, constants: GroupedConstants) -> tuple[Array, dict[str, Array]]:
        """Return both GEMMs' times [2, ...] and what comes on top, by the constant that governs it."""
        weights = (self.weights / constants.memory) ** self.overlap
        arithmetic = (self.arithmetic / constants.compute) ** self.overlap
        return (weights + arithmetic) ** (1.0 / self.overlap), {
            "launch_s": self.launches * constants.launch_s,
            "passes": self.passes / constants.passes,
            "tile_s": self.tiles * constants.tile_s,
            "depth_s": self.depth * constants.depth_s,
        }
