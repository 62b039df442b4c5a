"""Prices read off the published tables, against the tables themselves and against slices kept elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moesim.accuracy.protocols import read_off_neighbours
from moesim.errors import InputError
from moesim.hardware.catalogue import load_device
from moesim.hardware.grouped_gemm import ExpertShape
from moesim.measured import tables
from moesim.measured.between import Reading
from moesim.measured.collective_tables import collective_rows
from moesim.measured.moe_tables import moe_rows
from moesim.measured.source import MeasuredTables, measured_tables

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "kernels"
pytestmark = pytest.mark.skipif(
    not tables.installed(), reason="measured tables are not installed: pip install 'moesim[measured]'"
)
needs_slices = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the shared slices of the tables are not beside the repository"
)

QWEN = ExpertShape(hidden=2048, intermediate=768)
DEEPSEEK = ExpertShape(hidden=7168, intermediate=2048)


@pytest.fixture(scope="module")
def h200() -> MeasuredTables:
    return measured_tables(load_device("H200-SXM"))


def agree(read: Reading, milliseconds: pd.Series[float]) -> None:
    assert read.inside.all()
    assert read.seconds == pytest.approx(milliseconds.to_numpy() * 1e-3, rel=1e-6)


@needs_slices
def test_gemms_are_those_of_the_slices(h200: MeasuredTables) -> None:
    slices = pd.read_csv(SHARED / "aic_gemm.csv")
    slices = slices[(slices["system"] == "h200_sxm") & (slices["gemm_dtype"] == "bfloat16")]
    assert len(slices) > 500
    agree(h200.gemm(*(slices[name].to_numpy() for name in "mnk"), "bf16"), slices["latency_ms"])


@needs_slices
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_attention_is_that_of_the_slices(h200: MeasuredTables, phase: str) -> None:
    name = "context" if phase == "prefill" else "generation"
    slices = pd.read_csv(SHARED / f"aic_attention_{name}.csv")
    slices = slices[slices["system"] == "h200_sxm"]
    keys = ["num_heads", "num_key_value_heads", "head_dim"]
    for (heads, kv_heads, width), same in slices.groupby(keys):
        context = (same["isl"] + same["step"]).to_numpy()
        queries = context if phase == "prefill" else 1
        sizes = (same["batch_size"].to_numpy(), queries, context)
        shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": width}
        agree(h200.attention("gqa", phase, *sizes, **shape), same["latency_ms"])


@needs_slices
def test_collectives_are_those_of_the_newest_slice(h200: MeasuredTables) -> None:
    slices = pd.read_csv(SHARED / "aic_nccl.csv")
    slices = slices[(slices["system"] == "h200_sxm") & (slices["dtype"] == "half")]
    slices = slices[(slices["src_version"] == "nccl/2.29.2") & slices["message_bytes"].between(1024, 2**29)]
    names = {"alltoall": "all_to_all"}
    assert set(slices["op"]) == {"alltoall", "all_gather", "reduce_scatter", "all_reduce"}
    for name, same in slices.groupby("op"):
        # Two runs stand in the table; both places are the median of the two.
        middle = same.groupby(["num_gpus", "message_bytes"], as_index=False)["latency_ms"].median()
        sizes = (middle["num_gpus"].to_numpy(), middle["message_bytes"].to_numpy())
        agree(h200.collective(names.get(str(name), name), *sizes), middle["latency_ms"])


@needs_slices
def test_experts_are_those_of_the_slices(h200: MeasuredTables) -> None:
    slices = pd.read_csv(SHARED / "aic_moe_h200_sxm_vllm.csv")
    slices = slices[(slices["model"] == "qwen3-30b-a3b") & (slices["dtype"] == "bfloat16")]
    slices = slices[(slices["dist"] == "balanced") & (slices["tp"] == 1) & (slices["tokens"] >= 32)]
    for ep, same in slices.groupby("ep"):
        rows = (same["tokens"] * 8 / ep).to_numpy()
        asked = {"top_k": 8, "experts": 128, "experts_here": 128 // ep, "dtype": "bf16", "backend": "vllm"}
        if rows.min() >= 1:
            agree(h200.experts(QWEN, rows, **asked), same["latency_ms"])


def test_left_out_tokens_of_experts_are_read_within_a_few_percent(h200: MeasuredTables) -> None:
    rows = moe_rows("H200-SXM")
    for dtype in ("bf16", "fp8_block"):
        same = rows[(rows["dtype"] == dtype) & (rows["backend"] == "vllm/triton")]
        read = read_off_neighbours(same, ("shape", "slots", "tp", "ep", "distribution"), "tokens")
        error = np.abs(read / same["seconds"] - 1).dropna()
        assert len(error) > 3000
        assert error.median() < 0.02


def test_reading_left_out_collectives_beats_lines_of_logarithms() -> None:
    rows = collective_rows("all_gather", "H200-SXM")
    ours, lines = [], []
    for _, curve in rows.groupby(["dtype", "num_gpus"]):
        size, seconds = (curve.sort_values("bytes")[name].to_numpy() for name in ("bytes", "seconds"))
        ours.append(read_off_neighbours(curve.assign(one=1).sort_values("bytes"), ["one"], "bytes")[1:-1])
        lines.append(np.sqrt(seconds[:-2] * seconds[2:]))  # sizes double, so the middle is the mean of logs
        ours[-1], lines[-1] = (np.abs(read / seconds[1:-1] - 1) for read in (ours[-1], lines[-1]))
        assert (size[1:] == 2 * size[:-1]).all()
    assert np.median(np.concatenate(ours)) < 0.75 * np.median(np.concatenate(lines))


def test_deepseek_has_no_balanced_level_and_says_which_load_it_stands_for(h200: MeasuredTables) -> None:
    found = h200.expert_curves(DEEPSEEK, top_k=8, experts=256, dtype="fp8_block")
    assert found is not None
    assert found.load == "power_law_1.01"
    counts = found.counts(np.array([2000]), 32)[0]
    assert counts.sum() == 2000
    assert counts[0] > 2 * counts.mean()  # the fullest device of a power law
    even = h200.expert_curves(QWEN, top_k=8, experts=128, dtype="bf16")
    assert even is not None
    assert even.load == "balanced"
    assert set(even.backends.values()) == {"vllm/triton"}


def test_what_nobody_measured_is_outside(h200: MeasuredTables) -> None:
    ones = np.ones(3)
    gqa = {"heads": 32, "kv_heads": 8}
    readings = [
        h200.gemm(ones, 4096, 4096, "int8"),
        h200.gemm(ones, 4096, 70_000, "bf16"),
        h200.gemm(ones * 1e6, 4096, 4096, "bf16"),
        h200.attention("gqa", "prefill", ones, 128, 256, **gqa),
        h200.attention("gqa", "decode", ones, 2, 256, **gqa),
        h200.attention("gqa", "decode", ones, 1, 5000, window=4096, **gqa),
        h200.attention("gqa", "decode", ones, 1, 256, head_dim=80, **gqa),
        h200.attention("mamba", "decode", ones, 1, 256, **gqa),
        h200.experts(ExpertShape(7, 7), ones, top_k=8, experts=128, experts_here=8, dtype="bf16"),
        h200.collective("all_reduce", 16, ones * 1e6),
        h200.expert_exchange(
            "dispatch", "rack", ones, hidden=7168, dtype="fp8", top_k=8, experts=256, devices=8
        ),
    ]
    for reading in readings:
        assert reading.seconds.shape == reading.inside.shape == (3,)
        assert not reading.inside.any()
        assert (reading.seconds == 0).all()


def test_a_window_that_reaches_over_the_context_is_none(h200: MeasuredTables) -> None:
    gqa = {"heads": 32, "kv_heads": 8}
    contexts = np.array([100, 900])
    narrow = h200.attention("gqa", "decode", 8, 1, contexts, window=4096, **gqa)
    assert narrow.inside.all()
    assert narrow.seconds.tolist() == h200.attention("gqa", "decode", 8, 1, contexts, **gqa).seconds.tolist()
    oss = {"heads": 64, "kv_heads": 8, "head_dim": 64}
    contexts = np.array([64, 128, 16_384])
    slid = h200.attention("gqa", "decode", 16, 1, contexts, window=128, **oss)
    full = h200.attention("gqa", "decode", 16, 1, contexts, **oss)
    assert slid.inside.all()
    assert slid.seconds[:2].tolist() == full.seconds[:2].tolist()
    assert slid.seconds[2] < 0.3 * full.seconds[2]


def test_nothing_to_do_costs_nothing(h200: MeasuredTables) -> None:
    none = np.zeros(2)
    asked = {"top_k": 8, "experts": 128, "experts_here": 16, "dtype": "bf16"}
    for reading in (
        h200.gemm(none, 4096, 4096, "bf16"),
        h200.attention("gqa", "decode", none, 1, 256, heads=32, kv_heads=8),
        h200.experts(QWEN, none, **asked),
        h200.collective("all_to_all", 8, none),
    ):
        assert reading.inside.all()
        assert (reading.seconds == 0).all()


def test_host_bound_timings_do_not_stand_for_kernels(h200: MeasuredTables) -> None:
    # vLLM's fp8_block GEMMs of H200 take 56 us however small they are.
    assert h200.gemm(1, 4096, 7168, "fp8_block").seconds < 2e-5


def test_exchanges_and_racks_are_read(h200: MeasuredTables) -> None:
    deepseek = {"hidden": 7168, "dtype": "fp8", "top_k": 8, "experts": 256}
    read = h200.expert_exchange("dispatch", "low_latency", np.array([1, 100, 128]), devices=8, **deepseek)
    assert read.inside.all()
    assert (np.diff(read.seconds) > 0).all()
    rack = measured_tables(load_device("GB200"))
    wide = [
        float(rack.expert_exchange("dispatch", "rack", 128, devices=devices, **deepseek).seconds)
        for devices in (8, 32)
    ]
    assert 0 < wide[0] < wide[1]


@pytest.mark.parametrize("kind", ["gemm", "decode", "prefill", "experts", "collective"])
def test_a_thousand_points_take_about_a_millisecond(h200: MeasuredTables, kind: str) -> None:
    rows = np.random.default_rng(1).integers(1, 4000, 1000)
    asked = {"top_k": 8, "experts": 128, "experts_here": 16, "dtype": "bf16"}
    calls: dict[str, Callable[[], Reading]] = {
        "gemm": lambda: h200.gemm(rows, 5120, 2048, "bf16"),
        "decode": lambda: h200.attention("gqa", "decode", rows % 200 + 1, 1, rows + 1, heads=32, kv_heads=8),
        "prefill": lambda: h200.attention("gqa", "prefill", 4, rows, rows, heads=32, kv_heads=8),
        "experts": lambda: h200.experts(QWEN, rows, **asked),
        "collective": lambda: h200.collective("all_reduce", 8, rows * 1e4),
    }
    assert calls[kind]().inside.mean() > 0.5
    taken = []
    for _ in range(20):
        start = time.perf_counter()
        calls[kind]()
        taken.append(time.perf_counter() - start)
    assert min(taken) < 1e-3


def test_devices_whose_folder_is_empty_are_not_measured() -> None:
    with pytest.raises(InputError, match="no measured tables of device 'H100-PCIe'") as caught:
        MeasuredTables(load_device("H100-PCIe"))
    assert caught.value.hint is not None
    assert "H100-SXM" in caught.value.hint
