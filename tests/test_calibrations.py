"""Constants by device: who lends them to whom, and calibrations of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moesim
from moesim.errors import InputError
from moesim.hardware import load_device
from moesim.hardware.analytic import AnalyticCosts, AttentionShape
from moesim.hardware.calibration_file import read_calibration
from moesim.hardware.calibrations import Calibrations
from moesim.scenario import loads_scenario

SCENARIO = """
model: {num_layers: 1, hidden_size: 512, moe_intermediate_size: 256, num_routed_experts: 16, top_k: 2}
cluster: {device: H100-SXM, devices_per_node: 4, intra: {bandwidth: 450 GB/s, latency: 1 us}}
routing: {generator: uniform}
workload: {phase: prefill, steps: 1, tokens_per_device: 4096, moe_only: true}
policies: [ep]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_own_constants_come_before_those_of_the_package(tmp_path: Path) -> None:
    path = written(tmp_path, "gemm: {H100-SXM: {bf16: {mma: 0.25, launch_s: 2e-6}}}\n")
    mine = read_calibration(path)
    device = load_device("H100-SXM")
    assert mine.gemm(device, "bf16").mma == 0.25
    assert mine.gemm(load_device("H800-SXM"), "bf16").mma == 0.25
    assert mine.gemm(load_device("A100"), "bf16") == Calibrations().gemm(load_device("A100"), "bf16")


def test_a_scenario_uses_own_constants(tmp_path: Path) -> None:
    entry = "{launch_s: 1e-2, memory: 0.8, compute: 0.5, passes: 0.8, tile_s: 1e-7, depth_s: 1e-9}"
    written(tmp_path, f"grouped_gemm: {{H100-SXM: {{vllm/triton/bf16: {entry}}}}}\n")
    usual = moesim.simulate(loads_scenario(SCENARIO))
    slow = moesim.simulate(loads_scenario(SCENARIO + f"costs: {{calibration: {tmp_path}/mine.yaml}}\n"))
    assert slow.latency_s["mean"] > usual.latency_s["mean"] + 9e-3


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("gem: {H100-SXM: {}}", ":1:1:", "did you mean 'gemm'"),
        ("gemm: {H100-SXM: {bf16: {mm: 1}}}", ":1:26:", "did you mean 'mma'"),
        ("gemm: {H100-SXM: {bf16: {mma: -1}}}", ":1:31:", "'mma' must be a number above 0, got -1"),
        ("gemm: {H100-SXM: {bf16: {mma: .nan}}}", ":1:31:", "expected a finite number"),
        ("gemm: {H100-SXM: 3}", ":1:", "must be a mapping"),
        ("attention: {gqa_decod: {H100-SXM: {}}}", ":1:13:", "did you mean 'gqa_decode'"),
        ("attention: {gqa_decode: {X: {bf16: {packing: tight}}}}", ":1:", "'packing' must be one of free"),
        ("grouped_gemm: {X: {vllm/triton/bf16: {memory: 1}}}", ":1:", "lacks launch_s, compute"),
        ("collectives: {all_reduce: {X: {start_s: 1e-5}}}", ":1:", "lacks step_s"),
        ("[1, 2]", ":1:1:", "a calibration is a mapping"),
    ],
)
def test_faults_of_a_calibration_are_told_with_their_place(
    tmp_path: Path, text: str, place: str, message: str
) -> None:
    path = written(tmp_path, text + "\n")
    with pytest.raises(InputError) as caught:
        read_calibration(path)
    assert place in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_calibration_is_named() -> None:
    with pytest.raises(InputError, match="there is no calibration 'nowhere"):
        read_calibration("nowhere.yaml")


def test_kernels_that_nobody_timed_are_refused_with_the_nearest() -> None:
    costs = AnalyticCosts(load_device("H100"), backend="vllm/tritom")
    with pytest.raises(InputError, match="did you mean 'vllm/triton'"):
        costs.expert_layer("bf16")
    with pytest.raises(InputError, match="no constants of 'vllm/triton' kernels for 'int4'"):
        AnalyticCosts(load_device("H100"), backend="vllm/triton").expert_layer("int4")


@given(
    rows=st.lists(st.integers(0, 5000), min_size=1, max_size=30),
    more=st.lists(st.integers(0, 5000), min_size=1, max_size=30),
    name=st.sampled_from(["H200-SXM", "MI300X", "Ascend-910B", "TPU-v5e"]),
)
def test_remembered_prices_equal_fresh_ones(rows: list[int], more: list[int], name: str) -> None:
    used = AnalyticCosts(load_device(name))
    first = used.gemm(rows, 1024, 512, "bf16")
    used.gemm(more, 1024, 512, "bf16")
    np.testing.assert_array_equal(used.gemm(rows, 1024, 512, "bf16"), first)
    fresh = AnalyticCosts(load_device(name)).gemm(sorted(set(rows)), 1024, 512, "bf16")
    np.testing.assert_array_equal(np.sort(np.unique(first)), np.unique(fresh))


@pytest.mark.parametrize("kind", ["gqa", "mla", "linear", "none"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_attention_costs_nothing_without_tokens_and_grows_with_context(kind: str, phase: str) -> None:
    shape = AttentionShape(kind, 32, 8, 128, 128, 64, 512, flops=1e6 * (kind == "linear"), state_bytes=1e5)
    costs = AnalyticCosts(load_device("H100"))
    batch, new = np.asarray([0.0, 1.0, 64.0]), 1.0 if phase == "decode" else 512.0
    short, long = (costs.attention(shape, phase, batch, new, context) for context in (512.0, 8192.0))
    assert short[0] == long[0] == 0
    assert np.isfinite(long).all()
    assert (long >= short).all()
    if kind in ("gqa", "mla"):
        assert long[2] > 2 * short[2]
