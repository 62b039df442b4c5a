"""Reading the published timings of attention cores."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import pandas as pd

from moesim.measured.rows import Measured, measured
from moesim.measured.tables import find_tables, read_table, source_name

_TABLES: Final = {
    ("gqa", "prefill"): ("attention", "context_attention_perf"),
    ("gqa", "decode"): ("attention", "generation_attention_perf"),
    ("mla", "prefill"): ("mla", "context_mla_perf"),
    ("mla", "decode"): ("mla", "generation_mla_perf"),
}

_PRECISIONS: Final = {
    ("bfloat16", "bfloat16"): ("bf16", 2.0),
    ("bfloat16", "fp8"): ("bf16_kv8", 1.0),
    ("fp8", "fp8"): ("fp8", 1.0),
}
"""Formats of products and cache in the tables -> name here, bytes per cached element."""

_SIZES: Final = ("batch", "heads", "kv_heads", "width", "window", "queries", "tokens")


@cache
def attention_rows(device: str, phase: str) -> Measured:
    """Return all timings of a phase on a device, empty if there are none; see ``kind_rows``."""
    parts = [kind_rows(device, phase, kind) for kind in ("gqa", "mla")]
    kept = [part for part in parts if len(part)]
    if not kept:
        return pd.DataFrame()
    labels = ("device", "family", "dtype", "backend", "source", "shape", "kind", "kernel")
    return pd.concat(kept, ignore_index=True).astype(dict.fromkeys(labels, "category"))


def kind_rows(device: str, phase: str, kind: str) -> Measured:
    """Return the timings of one kind of attention in one phase, empty if there are none.

    ``tokens`` is what the last query sees, ``queries`` the new tokens of a sequence; ``kernel`` names
    the implementation that the software chose.
    """
    operator, table = _TABLES[kind, phase]
    parts = []
    for software, path in find_tables(device, operator, table).items():
        parts.append(_rows(read_table(path), kind, phase).assign(backend=software, source=source_name(path)))
    if not parts:
        return pd.DataFrame()
    keys = ["dtype", "backend", "source", "kind", "kernel", "shape", *_SIZES, "key_bytes"]
    together = pd.concat(parts, ignore_index=True)
    averaged = together.groupby(keys, sort=False, observed=True)["seconds"].mean().reset_index()
    frame = measured(averaged, device=device, family=f"attention_{phase}")
    return frame.astype(dict.fromkeys(_SIZES, "int32"))


def _rows(table: pd.DataFrame, kind: str, phase: str) -> pd.DataFrame:
    """Translate one table; precisions that no model here covers are left out.

    TensorRT-LLM decodes with its masked multi-head kernels instead of XQA where a KV head serves one query
    head or more than 32; its tables call both ``torch_flow``.
    """
    products = table["attn_dtype" if kind == "gqa" else "mla_dtype"]
    formats = list(zip(products.astype(str), table["kv_cache_dtype"].astype(str), strict=True))
    known = np.array([one in _PRECISIONS for one in formats])
    rows = table[known]
    chosen = [_PRECISIONS[one] for one in formats if one in _PRECISIONS]
    latent = kind == "mla"
    window: Any = rows["window_size"] if "window_size" in rows.columns else 0
    result = pd.DataFrame(
        {
            "dtype": [name for name, _ in chosen],
            "key_bytes": [size for _, size in chosen],
            "kind": kind,
            "kernel": rows["kernel_source"].astype(str).to_numpy(),
            "batch": rows["batch_size"].to_numpy(),
            "heads": rows["num_heads"].to_numpy(),
            "kv_heads": 1 if latent else rows["num_key_value_heads"].to_numpy(),
            "width": 128 if latent else rows["head_dim"].to_numpy(),
            "window": np.maximum(window, 0) * np.ones(len(rows), dtype=int),
            "queries": rows["isl"].to_numpy() if phase == "prefill" else 1,
            "tokens": rows["isl"].to_numpy() + rows["step"].to_numpy(),
            "seconds": rows["latency"].to_numpy(dtype=float) * 1e-3,
        }
    )
    if phase == "decode" and not latent:
        group = result["heads"] // result["kv_heads"]
        scalar = (result["kernel"] == "torch_flow") & ((group == 1) | (group > 32))
        result.loc[scalar, "kernel"] = "torch_flow masked"
    result["shape"] = _head_family(result)
    return result[result["queries"] <= result["tokens"]]


def _head_family(rows: pd.DataFrame) -> list[str]:
    """Name what is left out together: latent attention by heads, other kinds by width and sharing."""
    if (rows["kind"] == "mla").all():
        some = np.array(["1 to 4 heads", "8 to 16 heads", "32 to 128 heads"])
        return [f"mla, {name}" for name in some[np.digitize(rows["heads"].to_numpy(), [5, 17])]]
    group = (rows["heads"] // rows["kv_heads"]).to_numpy()
    sharing = np.array(["one to one", "2 to 8 to one", "more to one", "one to one, over 12"])
    classes = np.digitize(group, [2, 9])
    names = sharing[np.where((classes == 0) & (rows["heads"].to_numpy() > 12), 3, classes)]
    return [f"heads of {width}, {name}" for width, name in zip(rows["width"], names, strict=True)]
