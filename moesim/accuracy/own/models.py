"""The package's cost models as problems of a fit: rows of one device, format and software each.

Every model is the one that predicts. Timings are of cold caches unless a row says
``warm``: then operands may be found in the L2, of which one copy is in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, Final, cast

import numpy as np
import pandas as pd

from moesim.accuracy.attention import BOUNDS as ATTENTION_BOUNDS
from moesim.accuracy.gemm import BOUNDS as GEMM_BOUNDS
from moesim.accuracy.moe import CONSTANTS as GROUPED_BOUNDS
from moesim.accuracy.moe import from_memory
from moesim.accuracy.own.datasheet import Timed
from moesim.accuracy.own.loads import own_counts
from moesim.accuracy.own.loops import LOOP, loop_problems
from moesim.accuracy.own.problem import Price, Problem
from moesim.accuracy.own.start import attention_start, collective_start, gemm_start, grouped_start
from moesim.accuracy.protocols import Array
from moesim.hardware.attention_choices import UNLIMITED, AttentionWork, attention_choices
from moesim.hardware.attention_cost import AttentionConstants
from moesim.hardware.attention_cost import choice_seconds as attention_seconds
from moesim.hardware.calibration import FORMATS, kernel_for
from moesim.hardware.dense_gemm import GemmConstants, choice_seconds, gemm_choices, gemm_format
from moesim.hardware.grouped_gemm import ExpertShape, layer_work
from moesim.hardware.grouped_work import GroupedConstants
from moesim.hardware.protocols import OPERATIONS, CollectiveConstants, Operation, collective_seconds

_FREE: Final[Mapping[str, tuple[str, ...]]] = {
    "gemm": ("launch_s", "mma", "memory", "tile_s", "step_s", "norm", "whole", "balance", "split_s"),
    "moe": ("launch_s", "memory", "compute", "passes", "tile_s", "depth_s"),
    "prefill": ("launch_s", "mma", "softmax", "tile_s", "whole", "passes", "norm", "memory"),
    "decode": ("launch_s", "memory", "streams", "tile_s", "split_s", "whole", "passes", "norm", "mma"),
    "collective": (
        "start_s",
        "through",
        "bulk_s",
        "step_s",
        "ends",
        "medium_s",
        "medium_waste",
    ),
}
"""Constants that own timings move; those that rows do not tell stay near where they were."""

_COLLECTIVE_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "start_s": (1e-7, 1e-2),
    "step_s": (1e-9, 1e-3),
    "medium_s": (1e-9, 1e-3),
    "bulk_s": (1e-9, 1e-2),
    "ends": (0.01, 20.0),
    "through": (0.5, 50.0),
    "medium_waste": (0.01, 20.0),
}
_ARITHMETIC: Final = {"bf16": "bf16", "bf16_kv8": "bf16", "fp8": "fp8"}
_LATENT: Final = {"rank": 512.0, "rope": 64.0, "head": 128.0}
_WARM_COPIES: Final = 1.0


def problems(rows: pd.DataFrame, timed: Timed) -> Iterator[Problem]:
    """Yield the problems of one device's rows, in the order of reports.

    Raises:
        InputError: kernels that no model knows, or links that the datasheet lacks.
    """
    yield from _each(rows, "gemm", ("dtype",), timed, gemm_problem)
    fused = rows[~rows["backend"].str.endswith(LOOP)]
    yield from _each(fused, "moe", ("dtype", "backend"), timed, moe_problem)
    yield from loop_problems(rows, timed)
    for phase in ("prefill", "decode"):
        yield from _each(rows, f"attention_{phase}", ("kind", "dtype"), timed, attention_problem)
    for operation in OPERATIONS:
        yield from _each(rows, operation, (), timed, collective_problem)


def _each(
    rows: pd.DataFrame,
    family: str,
    keys: tuple[str, ...],
    timed: Timed,
    make: Callable[[pd.DataFrame, Timed], Problem],
) -> Iterator[Problem]:
    part = rows[rows["family"] == family]
    if part.empty:
        return
    if not keys:
        yield make(part.reset_index(drop=True), timed)
        return
    for _, group in part.groupby(list(keys), sort=True):
        yield make(group.reset_index(drop=True), timed)


def gemm_problem(rows: pd.DataFrame, timed: Timed) -> Problem:
    """Return dense GEMMs of one kind."""
    kind = str(rows["dtype"].iloc[0])
    first, own = gemm_start(timed.device, kind)

    def build(part: pd.DataFrame) -> Price:
        # a cache of nothing and one of the device's L2 side by side, as every row says
        warm = _warm(part)
        choices = gemm_choices(
            timed.device, gemm_format(kind), *_columns(part, "m", "n", "k"), cache=1.0, copies=_WARM_COPIES
        )
        choices = replace(choices, cache=np.where(warm, timed.cache, 0.0)[:, None])
        return lambda values: choice_seconds(choices, GemmConstants(**values)).min(axis=1)

    return Problem(
        family="gemm",
        device=timed.name,
        label=kind,
        place=("gemm", timed.name, kind),
        rows=rows,
        build=build,
        start=asdict(first),
        free=_FREE["gemm"],
        bounds=GEMM_BOUNDS,
        spread=_spread(GEMM_BOUNDS),
        kept={},
        own=own,
    )


def moe_problem(rows: pd.DataFrame, timed: Timed) -> Problem:
    """Return fused expert layers of one format and kernel family."""
    dtype, backend = str(rows["dtype"].iloc[0]), str(rows["backend"].iloc[0])
    kernel = kernel_for(backend, dtype)
    first, own = grouped_start(timed.device, dtype, backend)
    bounds = {one.name: (one.low, one.high) for one in GROUPED_BOUNDS}

    def build(part: pd.DataFrame) -> Price:
        prices = []
        for gated in (True, False):
            places = np.flatnonzero((part["gated"] == "yes").to_numpy() == gated)
            if not len(places):
                continue
            chosen = part.iloc[places]
            arithmetic, weight = FORMATS[dtype]
            hidden, inner = _columns(chosen, "hidden", "inter")
            shape = ExpertShape(hidden, inner, gated, weight, arithmetic)
            work = layer_work(timed.device, kernel, shape, own_counts(chosen, kernel))
            found = from_memory(timed.name, work.weights.sum(axis=0), timed.device)
            prices.append((places, replace(work, weights=work.weights * np.where(_warm(chosen), found, 1.0))))

        def price(values: Mapping[str, float]) -> Array:
            seconds = np.empty(len(part))
            for places, work in prices:
                seconds[places] = work.seconds(GroupedConstants(**values))
            return seconds

        return price

    return Problem(
        family="moe",
        device=timed.name,
        label=f"{backend} {dtype}",
        place=("grouped_gemm", timed.name, f"{backend}/{dtype}"),
        rows=rows,
        build=build,
        start=asdict(first),
        free=_FREE["moe"],
        bounds=bounds,
        spread=_spread(bounds),
        kept={},
        own=own,
    )


def attention_problem(rows: pd.DataFrame, timed: Timed) -> Problem:
    """Return attention cores of one kind, phase and format."""
    kind, dtype = str(rows["kind"].iloc[0]), str(rows["dtype"].iloc[0])
    phase = str(rows["family"].iloc[0]).removeprefix("attention_")
    first, own = attention_start(timed.device, kind, phase, dtype)
    numbers: dict[str, Any] = asdict(first)
    kept = {name: numbers.pop(name) for name in ("packing", "absorbed")}

    def build(part: pd.DataFrame) -> Price:
        choices = attention_choices(
            timed.device,
            phase,
            attention_work(part, kind, phase, absorbed=first.absorbed, dtype=dtype),
            dtype=_ARITHMETIC[dtype],
            packing=first.packing,
            cache=1.0,
        )
        choices = replace(choices, cache=np.where(_warm(part), timed.cache, 0.0)[:, None])
        return lambda values: attention_seconds(
            choices, AttentionConstants(**values, packing=first.packing, absorbed=first.absorbed)
        ).min(axis=1)

    return Problem(
        family=f"attention_{phase}",
        device=timed.name,
        label=f"{kind} {dtype}",
        place=("attention", f"{kind}_{phase}", timed.name, dtype),
        rows=rows,
        build=build,
        start=numbers,
        free=_FREE[phase],
        bounds=ATTENTION_BOUNDS,
        spread=_spread(ATTENTION_BOUNDS),
        kept=kept,
        own=own,
    )


def attention_work(rows: pd.DataFrame, kind: str, phase: str, *, absorbed: bool, dtype: str) -> AttentionWork:
    """Spell own attention rows out; latent attention is DeepSeek's."""
    batch, queries, context, heads, kv_heads, width, window = _columns(
        rows, "batch", "queries", "context", "heads", "kv_heads", "head_dim", "window"
    )
    full = np.ones(len(rows))
    if kind == "gqa":
        shared, qk, v, cached = kv_heads, width, width, 2.0 * width
    elif absorbed or phase == "decode":
        wide = (_LATENT["rank"] + _LATENT["rope"]) * full
        shared, qk, v, cached = full, wide, _LATENT["rank"] * full, wide
    else:
        head, rope = _LATENT["head"] * full, _LATENT["rope"]
        shared, qk, v, cached = heads, head + rope, head, 2.0 * head + rope
    seen = np.where(window > 0, window, UNLIMITED)
    key_bytes = full * (2.0 if dtype == "bf16" else 1.0)
    return AttentionWork(batch, queries, context - queries, seen, heads, shared, qk, v, cached, key_bytes)


def collective_problem(rows: pd.DataFrame, timed: Timed) -> Problem:
    """Return one collective on one node."""
    operation = cast("Operation", str(rows["family"].iloc[0]))
    links = timed.require_links()
    first, own = collective_start(timed.device, links, operation)

    def build(part: pd.DataFrame) -> Price:
        count, size = _columns(part, "devices", "bytes")
        return lambda values: collective_seconds(
            operation, count, size, links.rate, CollectiveConstants(**values), links.island
        )

    return Problem(
        family=operation,
        device=timed.name,
        label=str(rows["backend"].iloc[0]),
        place=("collectives", operation, timed.name),
        rows=rows,
        build=build,
        start=first.values(),
        free=_FREE["collective"],
        bounds=_COLLECTIVE_BOUNDS,
        spread=_spread(_COLLECTIVE_BOUNDS),
        kept={},
        own=own,
    )


def _columns(rows: pd.DataFrame, *names: str) -> tuple[Array, ...]:
    return tuple(np.asarray(rows[name].to_numpy(dtype=float), dtype=np.float64) for name in names)


def _warm(rows: pd.DataFrame) -> Any:
    return (rows["cache"] == "warm").to_numpy()


def _spread(bounds: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return how far constants differ between devices: times by a factor of e, shares by half."""
    return {name: 1.0 if name.endswith("_s") else 0.5 for name in bounds}
