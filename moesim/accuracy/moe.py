"""MoE layers: both grouped GEMMs with their activation on one device of an expert-parallel group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from moesim.accuracy.families import Family
from moesim.accuracy.fitting import Bounded, fit_constants
from moesim.accuracy.protocols import Array
from moesim.hardware.calibration import FORMATS, kernel_for
from moesim.hardware.catalogue import load_device
from moesim.hardware.grouped_gemm import ExpertShape, GroupedConstants, LayerWork, layer_work
from moesim.hardware.spec import Device
from moesim.measured.moe_loads import group_counts
from moesim.measured.moe_tables import moe_rows
from moesim.measured.rows import Measured, thin

CONSTANTS: Final = (
    Bounded("launch_s", 25e-6, 2e-6, 150e-6),
    Bounded("memory", 0.85, 0.05, 1.0),
    Bounded("compute", 0.6, 0.03, 1.0),
    Bounded("passes", 0.6, 0.05, 1.2),
    Bounded("tile_s", 3e-7, 1e-9, 1e-5),
    Bounded("depth_s", 1.5e-9, 1e-12, 2e-8),
)
"""Constants of ``GroupedConstants`` in their order, within what is physical."""

L2_BYTES: Final = {
    "A100-SXM-80GB": 40e6,
    "H100-SXM": 50e6,
    "H200-SXM": 50e6,
    "B200-SXM": 126e6,
    "B300-SXM": 126e6,
    "GB200": 126e6,
    "GB300": 126e6,
    "L40S": 96e6,
    "RTX-PRO-6000": 128e6,
}
"""Second-level caches as the vendor's architecture papers give them (bytes)."""

L2_USED: Final = 0.7
"""Share of the cache that a loop's weights can hold beside everything else."""

L2_SPEED: Final = 3.0
"""Bandwidth of the cache over that of the memory, roughly the same on all of these devices."""

FIT_ROWS: Final = 1500
"""Rows that one fit takes; more do not move six constants."""


@dataclass(frozen=True)
class MoeFamily:
    """Fused MoE layers of vLLM, SGLang and TensorRT-LLM."""

    name: str = "moe"
    curve: tuple[str, ...] = ("shape", "slots", "tp", "ep", "distribution")
    axis: str = "tokens"
    case: tuple[str, ...] = ("tokens", "tp", "ep", "distribution")
    fit_rows: int = 3000

    def measured(self, device: str) -> Measured:
        """Return all usable timings of a device."""
        return moe_rows(device)

    def predict(self, train: Measured, test: Measured) -> Array:
        """Predict with the six constants that fit ``train`` best."""
        return predict_layers(fit_layers(train), test)


def fit_layers(rows: Measured) -> GroupedConstants:
    """Fit the constants of one precision and kernel family, on one or several devices."""
    chosen = thin(rows, FIT_ROWS)
    works = [(places, work) for places, work in _works(chosen)]
    order = np.concatenate([places for places, _ in works])
    seconds = chosen["seconds"].to_numpy(dtype=np.float64)[order]

    def predict(values: Array) -> Array:
        constants = GroupedConstants(*values)
        return np.concatenate([work.seconds(constants) for _, work in works])

    return GroupedConstants(*(float(value) for value in fit_constants(predict, seconds, CONSTANTS)))


def predict_layers(constants: GroupedConstants, rows: Measured) -> Array:
    """Predict the seconds of rows of one precision and kernel family."""
    result = np.zeros(len(rows))
    for places, work in _works(rows):
        result[places] = work.seconds(constants)
    return result


def _works(rows: Measured) -> list[tuple[npt.NDArray[np.int64], LayerWork]]:
    """Return places and work of rows, device by device and apart for gated and plain experts."""
    labels = rows.groupby(["device", "dtype", "backend", "gated"], sort=True, observed=True).ngroup()
    found = []
    for label in range(int(labels.max()) + 1 if len(rows) else 0):
        places = np.flatnonzero(labels.to_numpy() == label)
        found.append((places, _work(rows.iloc[places])))
    return found


def _work(rows: pd.DataFrame) -> LayerWork:
    """Return the work of rows that share device, format, kernel family and whether experts are gated."""
    first = rows.iloc[0]
    device, dtype, backend = str(first["device"]), str(first["dtype"]), str(first["backend"])
    gated = bool(first["gated"])
    kernel = kernel_for(backend, dtype)
    arithmetic, weight_bytes = FORMATS[dtype]
    shape = ExpertShape(
        hidden=rows["hidden"].to_numpy(dtype=np.float64),
        intermediate=(rows["intermediate"] / rows["tp"]).to_numpy(dtype=np.float64),
        gated=gated,
        weight_bytes=weight_bytes,
        dtype=arithmetic,
    )
    part = load_device(device)
    work = layer_work(part, kernel, shape, group_counts(rows, kernel))
    return replace(work, weights=work.weights * from_memory(device, work.weights.sum(axis=0), part))


def from_memory(device: str, weights_s: Array, part: Device) -> Array:
    """Return the share of the weights' time that remains when a timing loop keeps them in the L2 cache.

    The tables were taken by calling the same layer again and again, so weights that fit the cache are read
    from there. A model's layers take turns, so nothing of this belongs into predictions of whole models.

    Args:
        device: catalogue name.
        weights_s: seconds in which the weights stream from memory at full bandwidth, [...].
        part: the device.
    """
    size = weights_s * part.memory.bandwidth
    kept = 1.0 / (1.0 + (size / (L2_BYTES.get(device, 50e6) * L2_USED)) ** 4)
    return np.asarray(1.0 - kept * (1.0 - 1.0 / L2_SPEED), dtype=np.float64)


FAMILIES: Sequence[Family] = (MoeFamily(),)
