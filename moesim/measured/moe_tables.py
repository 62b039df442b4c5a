"""Measured MoE layers: which tables, which kernels, which rows are left aside and why."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from moesim.hardware.calibration import tuned_experts
from moesim.measured.rows import Measured, measured
from moesim.measured.tables import find_tables, read_table, source_name, versions

DTYPES: Final = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "int4_wo": "int4",
    "w4a16_mxfp4": "mxfp4",
    "nvfp4": "nvfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4_fp8",
}
"""Number format in the tables -> ours."""

_KERNELS: Final = (
    ("oaitriton", "oai_triton"),
    ("marlin", "marlin"),
    ("deepgemm", "deepgemm"),
    ("nongated", "cutlass_plain"),
    ("expertsmodular", "trtllm_gen_modular"),
    ("flashinfer_trtllm", "trtllm_gen"),
    ("min_latency", "trtllm_gen"),
    ("cutlass", "cutlass"),
    ("triton", "triton"),
    ("fused_moe", "triton"),
    ("deepepmoe", "deepgemm"),
)
"""Part of a kernel's name -> family; the first that fits counts."""

_RENAMED: Final = {
    "num_tokens": "tokens",
    "hidden_size": "hidden",
    "inter_size": "intermediate",
    "topk": "top_k",
    "num_experts": "experts",
    "num_slots": "slots",
    "moe_tp_size": "tp",
    "moe_ep_size": "ep",
}

_COLUMNS: Final = ("kernel_source", "moe_dtype", "distribution", "latency", *_RENAMED)
"""What is read; only tables of layers with redundant experts have slots of their own."""

UNGATED: Final = frozenset({(2688, 1856), (2048, 5120), (1024, 2688), (8192, 5120), (2048, 2688)})
"""Hidden and intermediate widths of the Nemotron models, whose experts are two matrices (TensorRT-LLM's table
names their kernel so; the others' times fit two matrices as well, but for SGLang's Triton kernel, which was
timed with three)."""

CONTRADICTED: Final = 2.0
"""How many times slower than a call with more to do a timing may be."""

BROKEN: Final = 0.25
"""Share of contradicted timings from which on a whole curve is set aside."""

_MODELS: Final = {
    (7168, 2048, 8, 256): "deepseek-v3",
    (2880, 2880, 4, 128): "gpt-oss-120b",
    (2880, 2880, 4, 32): "gpt-oss-20b",
    (7168, 2048, 8, 384): "kimi-k2",
    (5120, 8192, 1, 128): "llama4-maverick",
    (5120, 8192, 1, 16): "llama4-scout",
    (6144, 16384, 2, 8): "mixtral-8x22b",
    (4096, 14336, 2, 8): "mixtral-8x7b",
    (4096, 1536, 8, 128): "qwen3-235b-a22b",
    (2048, 768, 8, 128): "qwen3-30b-a3b",
    (6144, 2560, 8, 160): "qwen3-coder-480b",
}

_IDENTITY: Final = ["dtype", "backend", *_RENAMED.values(), "distribution", "source", "shape", "gated"]


@lru_cache(maxsize=32)
def moe_rows(device: str) -> Measured:
    """Return all usable timings of MoE layers on a device; repeated measurements are averaged."""
    rows = all_moe_rows(device)
    if rows.empty:
        return rows
    kept: Measured = rows[~np.logical_or.reduce(list(set_aside(rows).values()))].reset_index(drop=True)
    return kept


@lru_cache(maxsize=2)
def all_moe_rows(device: str) -> Measured:
    """Return all timings of MoE layers on a device, also those that ``set_aside`` names."""
    parts = list(_parts(device))
    if not parts:
        return pd.DataFrame()
    rows = pd.concat(parts, ignore_index=True)
    rows = rows.loc[rows["seconds"] > 0]
    if rows.duplicated(_IDENTITY).any():
        rows = rows.groupby(_IDENTITY, sort=False)["seconds"].mean().reset_index()
    frame = measured(rows.assign(backend=_tuned(rows, device)), device=device, family="moe")
    texts = [name for name in frame.columns if frame[name].dtype == object]
    return frame.astype(dict.fromkeys(texts, "category"))


def set_aside(rows: pd.DataFrame) -> dict[str, npt.NDArray[np.bool_]]:
    """Tell which rows do not show what they say, by reason.

    ``dealt``: balanced load of DeepSeek-V3. Its grouped top-k turns the dealt-out pairs away from half of
    the groups. With EP such rows are slower than skewed ones, without they would need more than the
    memory's peak bandwidth.

    ``contradicted``: the same table has the same call (model, format, kernel, load, tokens) with wider
    experts or more of them on the device in less than half the time, so the row timed something else,
    as a kernel whose tuning failed. Where that holds of a quarter of a curve over tokens, the rest of the
    curve goes too. No model's prediction takes part in this.
    """
    dealt = ((rows["shape"] == "deepseek-v3") & (rows["distribution"] == "balanced")).to_numpy()
    call = ["dtype", "backend", "shape", "slots", "distribution", "tokens"]
    label = rows.groupby(call, observed=True, sort=False).ngroup().to_numpy()
    widths, groups = (np.unique(rows[name], return_inverse=True)[1] for name in ("tp", "ep"))
    seconds = rows["seconds"].to_numpy(dtype=np.float64)
    best = np.full((label.max() + 1, widths.max() + 1, groups.max() + 1), np.inf)
    best[label, widths, groups] = seconds
    best = np.minimum.accumulate(np.minimum.accumulate(best, axis=1), axis=2)
    slower = seconds > CONTRADICTED * best[label, widths, groups]
    curve = [*(name for name in call if name != "tokens"), "tp", "ep"]
    line = rows.groupby(curve, observed=True, sort=False).ngroup().to_numpy()
    share = np.bincount(line, slower) / np.bincount(line)
    return {"dealt": dealt, "contradicted": ~dealt & (slower | (share[line] >= BROKEN))}


ASIDE: Final = {
    "dealt": "balanced load of DeepSeek-V3, whose grouped top-k turns half of the dealt pairs away",
    "contradicted": "slower than twice the time of a call in the same table with more to do, or so its curve",
}
"""Why timings are set aside."""


def set_aside_notes(device: str) -> list[str]:
    """Say how many timings of a device are set aside, and why."""
    rows = all_moe_rows(device)
    counts = {reason: int(aside.sum()) for reason, aside in set_aside(rows).items()} if len(rows) else {}
    return [
        f"{device}, moe: {count} of {len(rows)} timings set aside: {ASIDE[reason]}"
        for reason, count in counts.items()
        if count
    ]


def _tuned(rows: pd.DataFrame, device: str) -> list[str]:
    """Name the kernels that SGLang starts with a tuned configuration apart from those without one."""
    names = list(rows["backend"])
    tuned = {dtype: tuned_experts(device, dtype) for dtype in set(rows["dtype"])}
    keys = zip(
        names, rows["dtype"], rows["slots"] / rows["ep"], rows["intermediate"] / rows["tp"], strict=True
    )
    return [
        f"{name}_tuned" if name == "sglang/triton" and (experts, width) in tuned[dtype] else name
        for name, dtype, experts, width in keys
    ]


def _parts(device: str) -> Iterator[pd.DataFrame]:
    for software in find_tables(device, "moe", "moe_perf"):
        yield _read(_newest_full(versions(device, "moe", "moe_perf", software)), software)
    for software, path in find_tables(device, "moe", "wideep_moe_perf").items():
        yield _read(path, f"{software}-wideep")


def _newest_full(tables: dict[str, Path]) -> Path:
    """Return the newest version that is no mere supplement: some hold a few late models only."""
    sizes = {path: path.stat().st_size for path in tables.values()}
    return [path for path, size in sizes.items() if size >= max(sizes.values()) / 4][-1]


def _read(path: Path, software: str) -> pd.DataFrame:
    """Read one table into our columns."""
    placed = path.stem.startswith("wideep")
    table = read_table(path, tuple(name for name in _COLUMNS if placed or name != "num_slots"))
    table = table.rename(columns=_RENAMED)
    if not placed:
        table["slots"] = table["experts"]
    keys = ["kernel_source", "moe_dtype", "hidden", "intermediate", "top_k", "experts"]
    kinds = table[keys].drop_duplicates()  # few, so that naming them costs little
    families = {name: kernel_family(name) for name in kinds["kernel_source"].unique()}
    kernel = [
        "cutlass" if families[name] == "other" and dtype == "bfloat16" else families[name]
        for name, dtype in zip(kinds["kernel_source"], kinds["moe_dtype"], strict=True)
    ]
    pairs = zip(kinds["hidden"], kinds["intermediate"], kernel, strict=True)
    named = kinds.assign(
        dtype=kinds["moe_dtype"].map(lambda name: DTYPES.get(name, name)),
        backend=[f"{software}/{name}" for name in kernel],
        shape=shape_names(kinds),
        gated=[
            (*pair,) not in UNGATED or (software == "sglang" and name == "triton") for *pair, name in pairs
        ],
    )
    return table.merge(named, on=keys, how="left").assign(
        source=source_name(path),
        seconds=table["latency"] * 1e-3,
    )[[*_IDENTITY, "seconds"]]


def kernel_family(name: str) -> str:
    """Return the family of a kernel by its name in the tables."""
    return next((family for part, family in _KERNELS if part in name), "other")


def shape_names(table: pd.DataFrame) -> list[str]:
    """Name models by their widths; those without a name by the widths themselves."""
    keys = table[["hidden", "intermediate", "top_k", "experts"]].itertuples(index=False, name=None)
    return [_MODELS.get(key) or "{}x{}-top{}of{}".format(*key) for key in keys]
