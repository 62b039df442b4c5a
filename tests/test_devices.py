"""The device catalogue and devices described inline."""

from __future__ import annotations

import contextlib
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.hardware import device_names, load_device
from moesim.hardware.analytic import AnalyticCosts
from moesim.hardware.calibrations import Calibrations
from moesim.hardware.catalogue import catalogue_entry, device_from_mapping, source_texts
from moesim.hardware.describe import refreshed

ROOT = Path(__file__).resolve().parents[1]
SEEN = ROOT.parent / "shared" / "data" / "hardware.json"

SMALL = {
    "name": "mine",
    "peak_flops": {"bf16": "100 TFLOP/s"},
    "memory": {"capacity": "80 GB", "bandwidth": "3.35 TB/s"},
}


def test_catalogue_has_gpus_and_npus():
    assert len(device_names()) >= 35
    vendors = {load_device(name).vendor for name in device_names()}
    assert {"NVIDIA", "AMD", "Huawei", "Intel", "AWS", "Google"} <= vendors


@pytest.mark.parametrize("name", device_names())
def test_every_device_is_plausible_and_sourced(name):
    entry = catalogue_entry(name)
    device = entry.device
    assert device.name == name
    assert 1e12 < device.flops("fp16") < 1e16
    assert 8e9 <= device.memory.capacity < 4e11
    assert 5e10 < device.memory.bandwidth < 1e13
    assert 2 <= device.compute_units <= 400
    calibrations = Calibrations()
    assert 0.4 < calibrations.gemm(device, "bf16").mma < 1.0
    assert 0.5 < calibrations.gemm(device, "bf16").memory < 1.0
    assert device.sources
    assert entry.confidence in {"primary", "secondary", "mixed"}
    assert set(entry.unverified) <= {
        "peak_flops",
        "memory",
        "compute_units",
        "gemm_efficiency",
        "memory_efficiency",
    }
    # Every source is a known key, which spells itself out.
    assert all(text.split(":")[0] in source_texts() for text in device.sources)


def test_names_and_aliases_are_found_in_any_case_and_never_collide():
    words = [w.lower() for name in device_names() for w in (name, *catalogue_entry(name).aliases)]
    assert len(words) == len(set(words))
    assert load_device("h200") is load_device("H200-SXM")


def test_unknown_device_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'H100-SXM'"):
        load_device("H100-SMX")


def large_gemm(name: str, m: int, n: int, k: int) -> float:
    return float(AnalyticCosts(load_device(name)).gemm(m, n, k, "bf16"))


def test_a_published_gemm_of_h200_is_near():
    # arXiv 2601.17111, Fig. 8; no constant knows of it. The authors' device sustained 8 to 14 % less.
    assert large_gemm("H200-SXM", 65536, 8192, 8192) == pytest.approx(12.3e-3, rel=0.15)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("A100-SXM-80GB", 271.2), ("H100-SXM", 794.5), ("B200-SXM", 1745), ("GB200", 1822), ("MI300X", 668.4)],
)
def test_the_best_measured_matmul_rates_are_near(name, tflops):
    # Best of a search over shapes ("maximum achievable matmul FLOPS").
    best = max(2 * m * m * k / large_gemm(name, m, m, k) for m in (4096, 8192, 16384) for k in (4096, 8192))
    assert best / 1e12 == pytest.approx(tflops, rel=0.12)


def test_stated_efficiencies_count_and_kin_lend_their_constants():
    usual = large_gemm("H100-SXM", 8192, 8192, 8192)
    slower = device_from_mapping({"base": "H100-SXM", "gemm_efficiency": 0.4})
    assert float(AnalyticCosts(slower).gemm(8192, 8192, 8192, "bf16")) > 1.6 * usual
    assert large_gemm("H800-SXM", 8192, 8192, 8192) == usual
    nameless = device_from_mapping({**SMALL, "kin": "H100-SXM", "peak_flops": {"bf16": "989 TFLOP/s"}})
    assert Calibrations().gemm(nameless, "bf16") == Calibrations().gemm(load_device("H100-SXM"), "bf16")
    with pytest.raises(InputError, match="did you mean 'H100-SXM'"):
        device_from_mapping({**SMALL, "kin": "H100-SMX"})


@pytest.mark.skipif(not SEEN.exists(), reason="the collected hardware facts are not beside the repository")
def test_peaks_and_memory_agree_with_the_collected_facts():
    facts = json.loads(SEEN.read_text(encoding="utf-8"))["accelerators"]
    compared = 0
    for name in device_names():
        fact = facts.get(name)
        if fact is None:
            continue
        device = load_device(name)
        for key, value in fact["peak_dense_flops"].items():
            if value is not None and key in device.peak_flops:
                assert device.peak_flops[key] == pytest.approx(value, rel=1e-6), (name, key)
                compared += 1
        if fact["memory"]["bytes"] is not None:
            assert device.memory.capacity == pytest.approx(fact["memory"]["bytes"], rel=0.07), name
            assert device.memory.bandwidth == pytest.approx(fact["memory"]["bandwidth_Bps"], rel=0.01), name
    assert compared > 60


def test_inline_device_reads_human_units():
    device = device_from_mapping(SMALL | {"launch": "2 us", "compute_units": 10})
    assert device.flops("bf16") == 100e12
    assert device.memory.capacity == 80_000_000_000
    assert device.launch_s == pytest.approx(2e-6)
    assert device.compute_units == 10


def test_base_needs_only_what_differs():
    device = device_from_mapping({"base": "h100", "memory": {"capacity": "160 GB"}})
    assert device.memory.capacity == 160_000_000_000
    assert device.memory.bandwidth == load_device("H100-SXM").memory.bandwidth
    assert device.peak_flops == load_device("H100-SXM").peak_flops


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peak_flop": 1}, "did you mean 'peak_flops'"),
        ({"peak_flops": {"bf61": "1 TFLOP/s"}}, "did you mean 'bf16'"),
        ({"peak_flops": {"bf16": "-1 TFLOP/s"}}, "'peak_flops.bf16'.*not negative"),
        ({"peak_flops": {"bf16": 0}}, "'peak_flops.bf16' must be from 1"),
        ({"peak_flops": {}}, "at least one number format"),
        ({"peak_flops": [1]}, "'peak_flops' must be a mapping"),
        ({"memory": {"capacity": "80 GB"}}, "'memory' needs 'bandwidth'"),
        ({"memory": {"capacity": "80 GB", "bandwidth": float("nan")}}, "'memory.bandwidth'.*finite"),
        ({"memory": {"capacity": "80 XB", "bandwidth": 1e12}}, "'memory.capacity'.*unknown unit 'XB'"),
        ({"gemm_efficiency": 1.5}, "'gemm_efficiency' must be a number from 0.001 to 1"),
        ({"compute_units": 0}, "'compute_units' must be a whole number"),
        ({"compute_units": True}, "'compute_units' must be a whole number"),
        ({"sources": "me"}, "'sources' must be a list"),
        ({"base": "H1OO"}, "no device named"),
    ],
)
def test_impossible_devices_are_refused_naming_the_key(change, message):
    with pytest.raises(InputError, match=message):
        device_from_mapping(SMALL | change)


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    key=st.sampled_from(["peak_flops", "memory", "base", "name", "launch", "sources", "power_w"]), junk=_JUNK
)
def test_junk_never_ends_in_anything_but_an_input_error(key, junk):
    with contextlib.suppress(InputError):
        assert device_from_mapping(SMALL | {key: junk}).memory.bandwidth > 0


def test_devices_survive_pickling():
    device = load_device("H100-SXM")
    assert pickle.loads(pickle.dumps(device)) == device


def test_hardware_page_is_fresh():
    page = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    assert refreshed(page) == page, "run: python -m moesim.hardware.describe docs/hardware.md"
    assert all(f"| {name}" in page for name in device_names())
