from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.hardware import load_device
from moesim.hardware.dense_constants import gemm_constants
from moesim.hardware.dense_gemm import dense_gemm_seconds
from moesim.hardware.elementwise import (
    StreamConstants,
    operation_seconds,
    stream_constants,
    stream_operation,
    stream_seconds,
)
from moesim.hardware.spec import MemoryTier

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "kernels"
H100 = load_device("H100-SXM")
CONSTANTS = StreamConstants(2e-6, 0.5)

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the shared timings are not beside the repository"
)


@given(st.floats(0, 1e12), st.floats(0, 20))
def test_passes_are_finite_grow_with_bytes_and_cost_nothing_without(nbytes: float, starts: float) -> None:
    seconds = float(stream_seconds(H100, nbytes, starts, CONSTANTS))
    assert np.isfinite(seconds)
    assert float(stream_seconds(H100, 2 * nbytes, starts, CONSTANTS)) >= seconds
    assert float(stream_seconds(H100, 0, starts, CONSTANTS)) == 0


def test_twice_the_bandwidth_and_half_the_latency_take_half_the_time() -> None:
    quick = replace(H100, memory=MemoryTier("HBM", H100.memory.capacity, 2 * H100.memory.bandwidth))
    whole = operation_seconds(H100, "norm", 1e6, CONSTANTS)
    half = operation_seconds(quick, "norm", 1e6, StreamConstants(1e-6, 0.5))
    assert half == pytest.approx(whole / 2, rel=1e-12)


def test_operations_count_their_starts_and_passes() -> None:
    kind = stream_operation("activation")
    expected = 2 * kind.starts * 2e-6 + 1e6 * kind.passes * 2 / (0.5 * H100.memory.bandwidth)
    assert operation_seconds(H100, "activation", [0, 1e6], CONSTANTS, times=2) == pytest.approx([0, expected])


def test_wrong_input_is_told() -> None:
    with pytest.raises(InputError, match=r"named 'nrom'.*norm"):
        stream_operation("nrom")
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="finite and not negative"):
            stream_seconds(H100, bad, 1, CONSTANTS)


def test_devices_without_measurements_take_generic_constants() -> None:
    assert stream_constants("MI300X") == stream_constants("generic")
    assert stream_constants("H100-SXM") != stream_constants("generic")


def layer_passes() -> pd.DataFrame:
    """Return measured passes: gpu, operation, elements, seconds."""
    table = pd.read_csv(SHARED / "vidur_dense_layer_ops.csv")
    share = table["num_tokens"] / table["num_tensor_parallel_workers"]
    head = table["n_embd"] / table["n_head"]
    elements = {
        "norm": ("input_layernorm", table["num_tokens"] * table["n_embd"]),
        "rope": ("attn_rope", share * (table["n_head"] + table["n_kv_head"]) * head),
        "activation": ("mlp_act", share * table["n_expanded_embd"]),
        "embedding": ("emb", table["num_tokens"] * table["n_embd"]),
    }
    parts = [
        pd.DataFrame({"gpu": table["gpu"], "elements": count, "seconds": table[f"{name}_median_ms"] * 1e-3})
        .assign(operation=operation)
        .query("seconds > 0")
        for operation, (name, count) in elements.items()
    ]
    return pd.concat(parts, ignore_index=True)


@needs_shared
@pytest.mark.parametrize(
    ("gpu", "device", "constants"),
    [("a100", "A100-SXM-80GB", "A100-SXM-80GB"), ("h100", "H100-SXM", "H100-SXM"), ("a40", "A40", "generic")],
)
def test_passes_of_dense_layers_cost_what_was_measured(gpu: str, device: str, constants: str) -> None:
    rows = layer_passes()
    rows = rows[rows["gpu"] == gpu]
    if device == "A40":
        part = replace(H100, name="A40", memory=MemoryTier("GDDR6", 48e9, 696e9))
    else:
        part = load_device(device)
    if device == "A40":
        rows = rows[
            rows["operation"] != "embedding"
        ]  # its look-ups run twice as close to its small bandwidth
    for operation, group in rows.groupby("operation"):
        elements = group["elements"].to_numpy()
        seconds = operation_seconds(part, str(operation), elements, stream_constants(constants))
        errors = np.abs(seconds / group["seconds"].to_numpy() - 1)
        assert np.median(errors) <= 0.35, f"{operation}: {np.median(errors):.2f}"


@needs_shared
def test_routing_kernels_cost_what_was_measured_on_h800() -> None:
    rows = pd.read_csv(SHARED / "frontier_moe_ops.csv")
    rows = rows[(rows["gpu"] == "h800") & (rows["measurement"] == "kernel_only")]
    part, constants = load_device("H800-SXM"), stream_constants("H100-SXM")

    def error(column: str, seconds: np.ndarray) -> float:
        return float(np.median(np.abs(seconds / (rows[column].to_numpy() * 1e-3) - 1)))

    sizes = [rows[name].to_numpy(dtype=float) for name in ("tokens", "experts", "hidden")]
    linear = dense_gemm_seconds(part, gemm_constants("H100-SXM", "bf16"), *sizes, "bf16")
    choices = rows["topk"].to_numpy(dtype=float)
    chosen = choices * float(operation_seconds(part, "choice", 1.0, constants))
    align = np.full(len(rows), float(operation_seconds(part, "align", 1.0, constants)))
    assert error("moe_gating_linear_median_ms", linear) <= 0.3
    assert error("moe_gating_routing_topk_median_ms", chosen) <= 0.2
    assert error("moe_shuffling_median_ms", align) <= 0.3
