"""MoE layers: both grouped GEMMs with their activation on one device of an expert-parallel group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from moesim.accuracy.families import Family
from moesim.accuracy.fitting import Bounded, fit_constants
from moesim.accuracy.protocols import Array, models
from moesim.hardware.calibration import FORMATS, kernel_for
from moesim.hardware.catalogue import load_device
from moesim.hardware.dense_constants import cache_bytes
from moesim.hardware.grouped_gemm import (
    CACHE,
    CACHED,
    ExpertShape,
    layer_work,
)
from moesim.hardware.grouped_work import GroupedConstants, LayerWork
from moesim.hardware.spec import Device
from moesim.measured.moe_loads import group_counts
from moesim.measured.moe_tables import moe_rows
from moesim.measured.rows import Measured, hash_ranks, thin

CONSTANTS: Final = (
    Bounded("launch_s", 25e-6, 2e-6, 150e-6),
    Bounded("memory", 0.85, 0.05, 1.0),
    Bounded("compute", 0.6, 0.03, 1.0),
    Bounded("passes", 0.6, 0.05, 1.2),
    Bounded("tile_s", 3e-7, 1e-9, 1e-5),
    Bounded("depth_s", 1.5e-9, 1e-12, 2e-8),
)
"""Constants of ``GroupedConstants`` in their order, within what is physical."""

L2_SPEED: Final = 3.0
"""Bandwidth of the cache over that of the memory, roughly the same on all of these devices."""

FIT_ROWS: Final = 1500
"""Rows that one fit takes; more do not move six constants."""

_ARRAYS: Final = ("weights", "arithmetic", "tiles", "depth", "passes", "launches")
"""Fields of ``LayerWork`` that have one entry per row."""


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

    def unseen(self, group: Measured) -> Array:
        """Predict every row with constants fitted to other models; the work of rows is counted once."""
        work, seconds = work_of(group), group["seconds"].to_numpy(dtype=np.float64)
        rank = hash_ranks(group)
        result = np.full(len(group), np.nan)
        for held in models(group):
            train = np.flatnonzero(~held)
            train = np.sort(train[np.argsort(rank[train], kind="stable")[:FIT_ROWS]])
            result[held] = _at(work, np.flatnonzero(held)).seconds(_fit(_at(work, train), seconds[train]))
        return result


def fit_layers(rows: Measured) -> GroupedConstants:
    """Fit the constants of one precision and kernel family, on one or several devices."""
    chosen = thin(rows, FIT_ROWS)
    return _fit(work_of(chosen), chosen["seconds"].to_numpy(dtype=np.float64))


def predict_layers(constants: GroupedConstants, rows: Measured) -> Array:
    """Predict the seconds of rows of one precision and kernel family."""
    return work_of(rows).seconds(constants)


def _fit(work: LayerWork, seconds: Array) -> GroupedConstants:
    """Fit the constants to the times that work took."""
    values = fit_constants(
        lambda values: work.seconds(GroupedConstants(*values)),
        seconds,
        CONSTANTS,
        slopes=lambda values: work.slopes(GroupedConstants(*values))[1].T,
    )
    return GroupedConstants(*(float(value) for value in values))


def _at(work: LayerWork, places: npt.NDArray[np.int64]) -> LayerWork:
    """Return the work of some rows."""
    parts: Any = {name: getattr(work, name)[..., places] for name in _ARRAYS}
    return replace(work, **parts)


def work_of(rows: Measured) -> LayerWork:
    """Return the work of rows of one precision and kernel family, in their order."""
    labels = rows.groupby(["device", "dtype", "backend", "gated"], sort=True, observed=True).ngroup()
    number = labels.to_numpy()
    places = [np.flatnonzero(number == label) for label in np.unique(number)]
    parts = [_work(rows.iloc[one]) for one in places]
    back = np.argsort(np.concatenate(places), kind="stable")
    whole: Any = {name: np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in _ARRAYS}
    return _at(replace(parts[0], **whole), back)


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
    kept = 1.0 / (1.0 + (size / ((cache_bytes(device) or CACHE) * CACHED)) ** 4)
    return np.asarray(1.0 - kept * (1.0 - 1.0 / L2_SPEED), dtype=np.float64)


FAMILIES: Sequence[Family] = (MoeFamily(),)
