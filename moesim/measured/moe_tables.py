"""Measured MoE layers: which tables, which kernels, which rows are left aside and why."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

import pandas as pd

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
names their kernel so; the others' times fit two matrices as well)."""

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
    parts = list(_parts(device))
    if not parts:
        return pd.DataFrame()
    rows = pd.concat(parts, ignore_index=True)
    rows = rows.loc[(rows["seconds"] > 0) & ~set_aside(rows)]
    if rows.duplicated(_IDENTITY).any():
        rows = rows.groupby(_IDENTITY, sort=False)["seconds"].mean().reset_index()
    frame = measured(rows, device=device, family="moe")
    texts = [name for name in frame.columns if frame[name].dtype == object]
    return frame.astype(dict.fromkeys(texts, "category"))


def set_aside(rows: pd.DataFrame) -> pd.Series[bool]:
    """Tell which rows do not show what they say.

    Balanced load of DeepSeek-V3: its grouped top-k turns the dealt-out pairs away from half of the groups.
    With EP such rows are slower than skewed ones, without they would need more than the memory's peak
    bandwidth.
    """
    return (rows["shape"] == "deepseek-v3") & (rows["distribution"] == "balanced")


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
    pairs = zip(kinds["hidden"], kinds["intermediate"], strict=True)
    named = kinds.assign(
        dtype=kinds["moe_dtype"].map(lambda name: DTYPES.get(name, name)),
        backend=[f"{software}/{name}" for name in kernel],
        shape=shape_names(kinds),
        gated=[pair not in UNGATED for pair in pairs],
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
