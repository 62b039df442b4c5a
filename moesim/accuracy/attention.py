"""Attention cores: published timings of vLLM, SGLang and TensorRT-LLM against the tile model.

A timing is one call on one GPU: the core itself and writing the new keys and values to a paged cache.
Latent attention of DeepSeek (rank 512, rotary part 64, heads of 128) runs on full heads in prefill,
except where a software attends to the latent there too; which of both, and when heads are packed, is part
of what is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, Final

import numpy as np

from moesim.accuracy.alternating import Array, Fitted, fit
from moesim.hardware.attention_choices import (
    PACKINGS,
    UNLIMITED,
    AttentionChoices,
    AttentionWork,
    attention_choices,
)
from moesim.hardware.attention_cost import AttentionConstants, choice_seconds, work_seconds
from moesim.hardware.catalogue import load_device
from moesim.hardware.dense_constants import cache_bytes
from moesim.measured.attention_tables import attention_rows
from moesim.measured.rows import Measured, thin

BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "launch_s": (5e-7, 6e-5),
    "tile_s": (1e-8, 3e-5),
    "split_s": (1e-8, 3e-5),
    "mma": (0.05, 1.1),
    "memory": (0.2, 1.0),
    "streams": (0.3, 60.0),
    "softmax": (0.1, 1000.0),
    "cache_ratio": (1.0, 20.0),
    "cache_share": (0.05, 1.0),
    "whole": (0.01, 1.0),
    "norm": (1.0, 12.0),
    "passes": (1e-3, 20.0),
}
"""Range of each fitted constant."""

_RATES: Final = {"bf16": "bf16", "bf16_kv8": "bf16", "fp8": "fp8"}
"""Format of the products by the name of the precision (``_kv8``: the cache alone has 8 bits)."""

_FIT_ROWS: Final = 1000
_TRIAL_ROWS: Final = 400
_SCALE: Final = 0.08
_TIE: Final = 0.02
"""Share by which a packing has to fit better than a simpler one."""

_ENOUGH: Final = 80
"""Rows of a kernel below which it takes the constants of all kernels of its software."""

_LATENT: Final = {"rank": 512.0, "rope": 64.0, "head": 128.0}
"""DeepSeek-V2 and V3, the only latent attention in the tables."""


@dataclass(frozen=True)
class Attention:
    """The family of attention cores of one phase. Left out as one model: a family of head counts."""

    phase: str
    case: tuple[str, ...] = ("batch", "tokens", "heads", "kv_heads", "width", "window", "kernel")
    curve: tuple[str, ...] = ("kind", "kernel", "batch", "heads", "kv_heads", "width", "window")
    axis: str = "tokens"
    fit_rows: int = 4000

    @property
    def name(self) -> str:
        """Name of the family."""
        return f"attention_{self.phase}"

    def measured(self, device: str) -> Measured:
        """Return all timings of a device; of each software those of the newest version."""
        return attention_rows(device, self.phase)

    def predict(self, train: Measured, test: Measured) -> Array:
        """Fit constants per kind and kernel of ``test`` on ``train``, and price ``test``."""
        seconds = np.full(len(test), np.nan)
        for kind, kernel in sorted(set(zip(test["kind"], test["kernel"], strict=True))):
            same = train[train["kind"] == kind]
            own = same[same["kernel"] == kernel]
            source = own if len(own) >= _ENOUGH else same
            if len(source) < _ENOUGH:
                continue
            places = np.flatnonzero((test["kind"] == kind) & (test["kernel"] == kernel))
            constants = fit_constants(source, self.phase)
            seconds[places] = price_rows(test.iloc[places], constants, self.phase)
        return seconds


def fit_constants(train: Measured, phase: str) -> AttentionConstants:
    """Fit the constants of one kind of attention to timings of one or more devices.

    When heads are packed and whether prefill is absorbed are choices, not numbers; each is tried on few
    rows first.
    """
    first = AttentionConstants()
    latent = str(train["kind"].iloc[0]) == "mla"
    if latent:
        tried = (False, True) if phase == "prefill" else (True,)
        variants = [replace(first, absorbed=absorbed) for absorbed in tried]
    else:
        variants = [replace(first, packing=packing) for packing in PACKINGS]
    trial = thin(train, _TRIAL_ROWS)
    losses = [_fit(trial, phase, variant, 3).loss for variant in variants] if len(variants) > 1 else [0.0]
    tied = min(losses) * (1.0 + _TIE)  # the first of equally good ones: rows that tell them apart may lack
    best = next(variant for variant, loss in zip(variants, losses, strict=True) if loss <= tied)
    return _with(best, _fit(thin(train, _FIT_ROWS), phase, best, 4).constants)


def _fit(rows: Measured, phase: str, first: AttentionConstants, rounds: int) -> Fitted:
    ordered = rows.sort_values("device", kind="stable")
    parts = []
    for device, part in ordered.groupby("device", sort=True, observed=True):
        parts.append(
            attention_choices(
                load_device(str(device)),
                phase,
                _work(part, phase, first.absorbed),
                dtype=_RATES[str(part["dtype"].iloc[0])],
                packing=first.packing,
                cache=cache_bytes(str(device)),
            )
        )
    names = [f.name for f in fields(AttentionChoices)]
    choices = AttentionChoices(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
    start = {name: value for name, value in asdict(first).items() if name in BOUNDS}
    seconds = ordered["seconds"].to_numpy(dtype=float)
    return fit(choices, seconds, partial(_price, first), start, BOUNDS, scale=_SCALE, rounds=rounds)


def _price(first: AttentionConstants, choices: AttentionChoices, constants: Mapping[str, float]) -> Array:
    return choice_seconds(choices, _with(first, constants))


def _with(first: AttentionConstants, numbers: Mapping[str, Any]) -> AttentionConstants:
    return replace(first, **numbers)


def price_rows(rows: Measured, constants: AttentionConstants, phase: str) -> Array:
    """Price measured rows of one kind, of any devices, under constants."""
    seconds = np.empty(len(rows))
    for device, places in rows.groupby("device", sort=True, observed=True).indices.items():
        part = rows.iloc[places]
        seconds[places] = work_seconds(
            load_device(str(device)),
            constants,
            phase,
            _work(part, phase, constants.absorbed),
            dtype=_RATES[str(part["dtype"].iloc[0])],
            cache=cache_bytes(str(device)),
        )
    return seconds


def _work(rows: Measured, phase: str, absorbed: bool) -> AttentionWork:
    """Spell measured rows of one kind out as work."""

    def column(name: str) -> Array:
        return np.asarray(rows[name].to_numpy(dtype=np.float64), dtype=np.float64)

    heads, full = column("heads"), np.ones(len(rows))
    if str(rows["kind"].iloc[0]) == "gqa":
        shared, qk, v, cached = column("kv_heads"), column("width"), column("width"), 2.0 * column("width")
    elif absorbed or phase == "decode":
        wide = (_LATENT["rank"] + _LATENT["rope"]) * full
        shared, qk, v, cached = full, wide, _LATENT["rank"] * full, wide
    else:
        head, rope = _LATENT["head"], _LATENT["rope"]
        shared, qk, v, cached = heads, (head + rope) * full, head * full, (2.0 * head + rope) * full
    window = np.where(column("window") > 0, column("window"), UNLIMITED)
    queries = column("queries")
    past = column("tokens") - queries
    return AttentionWork(
        column("batch"), queries, past, window, heads, shared, qk, v, cached, column("key_bytes")
    )


FAMILIES: Final = (Attention("prefill"), Attention("decode"))
