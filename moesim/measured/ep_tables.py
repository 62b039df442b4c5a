"""Measured times of expert-parallel dispatch and combine, from three kinds of tables, in one form.

Columns beside the common ones: kernel (low_latency, normal, rack), tokens per device, top_k, experts, row
(bytes of a token on the way), nodes, per_node, sms, node_pairs and device_pairs (per token).

Known of the tables: the multi-node DeepEP rows of H200 are those of H100 filed twice, so H200 keeps only its
own (newer, single-node) ones. The multi-node test routes a token to at most four nodes. vLLM's rows of DeepEP
V2 differ by factors of two between neighbouring sizes and are left out.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import pandas as pd

from moesim.hardware.distinct import pairs_per_token
from moesim.hardware.network_constants import node_links
from moesim.measured.tables import find_tables, read_table, source_name, versions

GROUP_LIMIT: Final = 4
"""Nodes that a token of DeepEP's test reaches at most."""

_TWICE: Final = {("H200-SXM", "0.5.6.post2")}
_NO_SMS: Final = 20
"""SMs of DeepEP's normal kernels where the table does not say (its default)."""

_FP8_BLOCK, _FP8_SCALE, _HEADER = 128, 4, 16
_WIDTHS: Final = {
    "bf16": 2.0,
    "fp8": 1.0 + _FP8_SCALE / _FP8_BLOCK,
    "nvfp4": 0.5 + 1 / 16,
    "fp4": 0.5 + 1 / 16,
}
_NAMES: Final = {"bfloat16": "bf16", "fp8": "fp8", "nvfp4": "nvfp4", "fp4": "fp4"}


@cache
def exchanges(direction: str, device: str) -> pd.DataFrame:
    """Return all usable rows of ``dispatch`` or ``combine`` on a device (perhaps none)."""
    parts = [*_deepep(direction, device), *_framework(direction, device), *_rack(direction, device)]
    if not parts:
        return pd.DataFrame(columns=["device", "dtype", "backend", "shape", "seconds"])
    table = pd.concat(parts, ignore_index=True)
    pairs = [
        _pairs(str(kernel), int(nodes), int(per_node), int(experts), int(top_k))
        for kernel, nodes, per_node, experts, top_k in zip(
            *(table[name] for name in ("kernel", "nodes", "per_node", "experts", "top_k")), strict=True
        )
    ]
    table["node_pairs"], table["device_pairs"] = np.array(pairs).T
    keys = [name for name in table.columns if name != "seconds"]
    middle: pd.DataFrame = table.groupby(keys, sort=False)[["seconds"]].median()
    return middle.reset_index()


def _pairs(kernel: str, nodes: int, per_node: int, experts: int, top_k: int) -> tuple[float, float]:
    if kernel == "rack":
        # The test spreads a token's experts as evenly as they go.
        return 1.0, float(min(top_k, per_node))
    if kernel == "low_latency":
        return float(min(top_k, nodes)), float(top_k)
    return pairs_per_token(nodes, per_node, experts, top_k, GROUP_LIMIT)


def _deepep(direction: str, device: str) -> list[pd.DataFrame]:
    """Return DeepEP's own tests (run from SGLang's images)."""
    parts = []
    for kernel, name in (("low_latency", "ll"), ("normal", "normal")):
        for version, path in versions(device, "comm", f"wideep_deepep_{name}_perf", "sglang").items():
            if (device, version) in _TWICE:
                continue
            table = read_table(path)
            column = f"{direction}_{'avg_t' if name == 'll' else 'transmit'}_us"
            dtype = "fp8" if direction == "dispatch" else "bf16"
            part = _common(table, kernel, dtype, device).assign(
                tokens=table["num_token"],
                top_k=table["num_topk"],
                nodes=table["node_num"],
                sms=table[f"{direction}_sms"] if kernel == "normal" else _NO_SMS,
                seconds=table[column] * 1e-6,
                backend=f"deepep_{kernel} (sglang {version.removesuffix('.post2')})",
                source=source_name(path),
            )
            if table["node_num"].nunique() > 1:
                part["shape"] = table["node_num"].astype(str) + " nodes"
            parts.append(part)
    return parts


def _framework(direction: str, device: str) -> list[pd.DataFrame]:
    """Return the tests through vLLM and TensorRT-LLM, which include what the framework adds."""
    parts = []
    for software, path in find_tables(device, "comm", "moe_a2a_perf").items():
        table = read_table(path)
        table = table[table["phase"] == direction]
        for (backend, dtype), rows in table.groupby(["comm_backend", "comm_dtype"]):
            kernel = {"ht": "normal", "ll": "low_latency"}.get(str(backend).rsplit("_", 1)[-1])
            if kernel is None:
                continue
            default = "fp8" if direction == "dispatch" and kernel == "low_latency" else "bf16"
            part = _common(rows, kernel, _NAMES.get(str(dtype), default), device).assign(
                tokens=rows["num_tokens"],
                top_k=rows["topk"],
                nodes=rows["node_num"],
                sms=rows["sms"].where(rows["sms"] > 0, _NO_SMS),
                seconds=rows["latency"] * 1e-6,
                backend=f"deepep_{kernel} ({software})",
                source=source_name(path),
            )
            parts.append(part)
    return parts


def _rack(direction: str, device: str) -> list[pd.DataFrame]:
    """Return TensorRT-LLM's all-to-all over NVLink between nodes of a rack."""
    parts = []
    for path in find_tables(device, "comm", "trtllm_alltoall_perf", "trtllm").values():
        table = read_table(path)
        for suffix in ("", "_low_precision"):
            rows = table[table["op_name"] == f"alltoall_{direction}{suffix}"]
            for (kind, dtype), same in rows.groupby(["kernel_source", "moe_dtype"]):
                sent = _NAMES[str(dtype)] if direction == "dispatch" else "fp8" if suffix else "bf16"
                part = _common(same, "rack", sent, device).assign(
                    tokens=same["num_tokens"],
                    top_k=same["topk"],
                    nodes=1,
                    per_node=same["moe_ep_size"],
                    sms=_NO_SMS,
                    seconds=same["latency"] * 1e-3,
                    backend=f"trtllm_{kind}{suffix}",
                    source=source_name(path),
                    shape="EP" + same["moe_ep_size"].astype(str),
                )
                parts.append(part)
    return parts


def row_bytes(kernel: str, dtype: str, hidden: Any) -> Any:
    """Return the bytes of a token on the way (a number or a column, as ``hidden`` is)."""
    return hidden * _WIDTHS[dtype] + (_HEADER if (kernel, dtype) == ("low_latency", "fp8") else 0)


def _common(table: pd.DataFrame, kernel: str, dtype: str, device: str) -> pd.DataFrame:
    """Return the columns that all tables share."""
    top_k = table["num_topk" if "num_topk" in table else "topk"].astype(str)
    return pd.DataFrame(
        {
            "dtype": dtype,
            "kernel": kernel,
            "row": row_bytes(kernel, dtype, table["hidden_size"]),
            "experts": table["num_experts"],
            "per_node": node_links(device).domain,
            "shape": table["hidden_size"].astype(str)
            + "/top-"
            + top_k
            + "/"
            + table["num_experts"].astype(str),
        },
        index=table.index,
    )
