from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.hardware import load_device
from moesim.hardware.calibration import FORMATS, kernel_for, tuned_experts
from moesim.hardware.calibrations import Calibrations
from moesim.hardware.catalogue import read_data
from moesim.hardware.grouped_gemm import (
    ExpertShape,
    expert_layer_seconds,
    grouped_gemm_seconds,
    layer_work,
)
from moesim.hardware.grouped_kernels import GroupedKernel, count_groups
from moesim.hardware.grouped_work import GroupedConstants
from moesim.hardware.spec import Device, MemoryTier

DEVICE = load_device("H200-SXM")
CONSTANTS = GroupedConstants(20e-6, 0.9, 0.7, 0.6, 3e-7, 1.5e-9)
KERNELS = [
    GroupedKernel("rows"),
    GroupedKernel("call", rule="call", all_pairs=True, growth=0.1),
    GroupedKernel("call_fp8", rule="call_fp8", overlap=3.0, token_passes=8.0),
    GroupedKernel("experts", rule="experts", all_pairs=True, unaligned=8.0),
    GroupedKernel("mean", rule="mean", low=8, high=64),
    GroupedKernel("local", rule="local", slack=0.5, reread=0.7, pad=128, waves="least", sorting=0.2),
    GroupedKernel("two", rule="call_two", streams=2.0, experts_growth=0.05, waves="whole"),
]
SHAPE = ExpertShape(hidden=4096, intermediate=1536)

loads = st.lists(st.integers(0, 5000), min_size=1, max_size=32)
kernels = st.sampled_from(KERNELS)


def seconds(device: Device, constants: GroupedConstants, kernel: GroupedKernel, load: list[int]) -> float:
    counts = count_groups(load, kernel, top_k=2)
    return float(expert_layer_seconds(device, constants, kernel, SHAPE, counts))


def scaled(device: Device, bandwidth: float = 1.0, flops: float = 1.0) -> Device:
    memory = MemoryTier("HBM", device.memory.capacity, device.memory.bandwidth * bandwidth)
    return replace(
        device, memory=memory, peak_flops={key: rate * flops for key, rate in device.peak_flops.items()}
    )


@given(loads, kernels)
@settings(max_examples=60)
def test_times_are_finite_and_nothing_to_do_costs_nothing(load: list[int], kernel: GroupedKernel) -> None:
    time = seconds(DEVICE, CONSTANTS, kernel, load)
    assert np.isfinite(time)
    assert (time == 0) == (sum(load) == 0)


@given(loads, kernels, st.floats(1.0, 8.0))
@settings(max_examples=60)
def test_faster_memory_or_arithmetic_is_never_slower(
    load: list[int], kernel: GroupedKernel, factor: float
) -> None:
    time = seconds(DEVICE, CONSTANTS, kernel, load)
    assert seconds(scaled(DEVICE, bandwidth=factor), CONSTANTS, kernel, load) <= time * (1 + 1e-12)
    assert seconds(scaled(DEVICE, flops=factor), CONSTANTS, kernel, load) <= time * (1 + 1e-12)


@given(loads, kernels)
@settings(max_examples=60)
def test_twice_the_rates_and_half_the_latencies_take_half_the_time(
    load: list[int], kernel: GroupedKernel
) -> None:
    quick = replace(
        CONSTANTS,
        launch_s=CONSTANTS.launch_s / 2,
        tile_s=CONSTANTS.tile_s / 2,
        depth_s=CONSTANTS.depth_s / 2,
    )
    time = seconds(DEVICE, CONSTANTS, kernel, load)
    assert seconds(scaled(DEVICE, 2.0, 2.0), quick, kernel, load) == pytest.approx(time / 2, rel=1e-12)


def test_many_calls_at_once_cost_what_each_costs_alone() -> None:
    kernel = KERNELS[1]
    batch = np.random.default_rng(0).integers(0, 300, size=(3, 4, 16))
    counts = count_groups(batch, kernel, top_k=2)
    together = expert_layer_seconds(DEVICE, CONSTANTS, kernel, SHAPE, counts)
    assert together.shape == (3, 4)
    for layer, device in np.ndindex(3, 4):
        alone = seconds(DEVICE, CONSTANTS, kernel, batch[layer, device].tolist())
        assert together[layer, device] == pytest.approx(alone, rel=1e-12)


def test_few_tokens_on_few_experts_are_faster_than_spread_out() -> None:
    kernel = kernel_for("vllm/triton", "bf16")
    spread, skewed = [1] * 64, [16] * 4 + [0] * 60
    assert seconds(DEVICE, CONSTANTS, kernel, skewed) < 0.5 * seconds(DEVICE, CONSTANTS, kernel, spread)


def test_a_single_gemm_costs_less_than_the_layer_and_nothing_when_empty() -> None:
    kernel, load = KERNELS[0], [100] * 8
    one = grouped_gemm_seconds(DEVICE, CONSTANTS, load, 1536, 4096, kernel=kernel)
    assert 0 < float(one) < seconds(DEVICE, CONSTANTS, kernel, load)
    assert float(grouped_gemm_seconds(DEVICE, CONSTANTS, [0] * 8, 1536, 4096, kernel=kernel)) == 0


def test_blocks_follow_each_rule() -> None:
    load = [40] * 4
    heights = {kernel.name: float(count_groups(load, kernel, top_k=1).height) for kernel in KERNELS}
    blind = {"call": 64, "call_fp8": 64, "experts": 64, "two": 128}
    assert heights == {"rows": 64, "mean": 64, "local": 32, **blind}
    counts = count_groups([1, 65, 0], GroupedKernel("x", low=16, high=64))
    assert (float(counts.active), float(counts.height), float(counts.blocks)) == (2, 64, 3)


def test_experts_beyond_the_cache_are_read_again_for_every_block() -> None:
    kernel = GroupedKernel("x", high=16)
    again = replace(kernel, reread=1.0)
    for shape, grows in ((ExpertShape(256, 256), False), (ExpertShape(8192, 16384), True)):
        one, two = (
            float(expert_layer_seconds(DEVICE, CONSTANTS, again, shape, count_groups([rows], again)))
            / float(expert_layer_seconds(DEVICE, CONSTANTS, kernel, shape, count_groups([rows], kernel)))
            for rows in (16, 32)
        )
        assert one == pytest.approx(1.0)
        assert (two > 1.5) == grows
        assert two < 2.0


def test_padded_widths_cost_what_the_wider_expert_costs() -> None:
    kernel = GroupedKernel("x", pad=128)
    counts = count_groups([32] * 8, kernel)
    odd, whole = (
        layer_work(DEVICE, kernel, ExpertShape(2688, inner), counts).weights for inner in (1856, 1920)
    )
    assert odd == pytest.approx(whole)


def test_tuned_kernels_are_known_by_experts_and_width() -> None:
    assert (8, 4096) in tuned_experts("H200-SXM", "bf16")
    assert (8, 8192) not in tuned_experts("H200-SXM", "bf16")
    assert tuned_experts("MI300X", "bf16") == frozenset()


@pytest.mark.parametrize("dtype", ["bf16", "fp8", "fp8_block"])
@pytest.mark.parametrize("name", ["H100-SXM", "H200-SXM"])
def test_measured_devices_have_constants_of_their_own(name: str, dtype: str) -> None:
    backend = "vllm/cutlass" if dtype == "fp8" else "vllm/triton"
    found = Calibrations().grouped(load_device(name), dtype, backend)
    assert found.measured
    assert "aiconfigurator-core" in found.source


def test_every_entry_of_the_calibration_can_be_used() -> None:
    entries = read_data("calibration")["grouped_gemm"]
    assert set(entries) > {"generic", "H100-SXM", "H200-SXM", "B200-SXM"}
    for device, kernels in entries.items():
        for name, values in kernels.items():
            backend, _, dtype = name.rpartition("/")
            kernel_for(backend, dtype)
            GroupedConstants.from_mapping(values, f"{device}.{name}")


def test_other_devices_get_generic_constants_and_unknown_names_are_told() -> None:
    assert not Calibrations().grouped(load_device("MI300X"), "bf16").measured
    assert set(FORMATS) >= {"bf16", "fp8", "fp8_block", "int4", "nvfp4"}
    with pytest.raises(InputError, match=r"number format named 'bf61'.*bf16"):
        kernel_for("vllm/triton", "bf61")
    with pytest.raises(InputError, match="family of grouped kernels"):
        kernel_for("vllm/tritan", "bf16")
    with pytest.raises(InputError, match="no constants"):
        Calibrations().grouped(DEVICE, "nvfp4", "vllm/triton")


@pytest.mark.parametrize("bad", [None, "1", True, 0.0, -1.0, float("nan"), float("inf")])
def test_constants_must_be_positive_numbers(bad: object) -> None:
    values = dict.fromkeys(("launch_s", "memory", "compute", "passes", "tile_s", "depth_s"), 1.0)
    with pytest.raises(InputError, match=r"here\.memory"):
        GroupedConstants.from_mapping({**values, "memory": bad}, "here")  # type: ignore[dict-item]
