"""Dense GEMMs and attention: laws of the models, and their errors on timings that nobody here made."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.hardware import load_device
from moesim.hardware.attention_cost import AttentionConstants, attention_core_seconds
from moesim.hardware.dense_constants import attention_constants, cache_bytes, gemm_constants
from moesim.hardware.dense_gemm import FORMATS, GemmConstants, dense_gemm_seconds

H100 = load_device("H100-SXM")
SLICE = Path(__file__).resolve().parents[1].parent / "shared/data/kernels/aic_gemm.csv"
EXTENT = st.integers(1, 20_000)
needs_tables = pytest.mark.skipif(
    find_spec("aiconfigurator_core") is None or find_spec("pyarrow") is None or find_spec("scipy") is None,
    reason="needs pip install 'moesim[measured]'",
)


def faster(device, factor, flops=True, bandwidth=True):
    memory = replace(device.memory, bandwidth=device.memory.bandwidth * (factor if bandwidth else 1.0))
    rates = {name: rate * (factor if flops else 1.0) for name, rate in device.peak_flops.items()}
    return replace(device, memory=memory, peak_flops=rates)


def attend(device, constants, phase, batch, queries, context, kind="gqa", window=None, **more):
    return attention_core_seconds(
        device,
        constants,
        kind,
        phase,
        batch=batch,
        queries=queries,
        context=context,
        heads=32,
        kv_heads=8,
        rope_dim=64,
        kv_lora_rank=512,
        window=window,
        **more,
    )


@settings(max_examples=60, deadline=None)
@given(EXTENT, EXTENT, EXTENT, st.sampled_from(("bf16", "fp8_block")))
def test_gemm_time_obeys_rates_and_latencies(m, n, k, dtype):
    constants = gemm_constants(H100.name, dtype)
    time = float(dense_gemm_seconds(H100, constants, m, n, k, dtype))
    assert np.isfinite(time)
    assert time >= constants.launch_s
    half = dense_gemm_seconds(faster(H100, 2.0), constants.scaled(2.0), m, n, k, dtype)
    assert float(half) == pytest.approx(time / 2.0, rel=1e-12)
    for one in (faster(H100, 3.0, bandwidth=False), faster(H100, 3.0, flops=False)):
        assert float(dense_gemm_seconds(one, constants, m, n, k, dtype)) <= time * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 64),
    st.integers(1, 5000),
    st.integers(0, 60_000),
    st.sampled_from((None, 128, 4096)),
    st.sampled_from(("prefill", "decode")),
    st.sampled_from(("gqa", "mla")),
)
def test_attention_time_obeys_rates_and_latencies(batch, queries, past, window, phase, kind):
    queries = queries if phase == "prefill" else 1
    constants = attention_constants(H100.name, kind, phase)
    work = (phase, batch, queries, past + queries, kind, window)
    time = float(attend(H100, constants, *work))
    assert np.isfinite(time)
    assert time >= constants.launch_s
    half = float(attend(faster(H100, 2.0), constants.scaled(2.0), *work))
    assert half == pytest.approx(time / 2.0, rel=1e-12)
    for one in (faster(H100, 3.0, bandwidth=False), faster(H100, 3.0, flops=False)):
        assert float(attend(one, constants, *work)) <= time * (1 + 1e-12)


def test_no_work_takes_no_time():
    gemm = dense_gemm_seconds(H100, GemmConstants(), [0, 5, 5, 0], [8, 0, 8, 0], [8, 8, 0, 0], "bf16")
    assert gemm.tolist() == [0.0] * 4
    core = attend(H100, AttentionConstants(), "prefill", [0, 4], [7, 0], [7, 0])
    assert core.tolist() == [0.0, 0.0]


def test_many_rows_are_priced_as_one_by_one():
    m = np.arange(1, 6001)
    constants = gemm_constants(H100.name, "bf16")
    together = dense_gemm_seconds(H100, constants, m, 1024, 512, "bf16")
    some = [0, 63, 64, 4095, 4096, 5999]
    alone = [float(dense_gemm_seconds(H100, constants, m[one], 1024, 512, "bf16")) for one in some]
    assert together[some].tolist() == alone


def test_large_products_and_long_prompts_reach_their_share_of_the_peak():
    constants = gemm_constants(H100.name, "bf16")
    time = float(dense_gemm_seconds(H100, constants, 8192, 8192, 8192, "bf16"))
    assert 0.6 < 2 * 8192**3 / time / H100.flops("bf16") < 0.9
    core = attention_constants(H100.name, "gqa", "prefill")
    time = float(attend(H100, core, "prefill", 1, 16384, 16384))
    assert 0.5 < 2 * 32 * 256 * 16384**2 / 2 / time / H100.flops("bf16") < 0.85


def test_decoding_reads_its_cache_at_memory_speed_and_a_window_bounds_it():
    core = attention_constants(H100.name, "gqa", "decode")
    times = attend(H100, core, "decode", 64, 1, np.array([8192, 16384]))
    read = 64 * 8 * 256 * 2 * 8192
    assert 0.75 < read / (times[1] - times[0]) / H100.memory.bandwidth < 1.0
    near, far = attend(H100, core, "decode", 64, 1, np.array([8192, 65536]), window=1024)
    assert near == pytest.approx(far, rel=1e-9)


def test_a_cache_that_is_still_warm_is_read_faster():
    core = attention_constants(H100.name, "gqa", "decode")
    cold = float(attend(H100, core, "decode", 6, 1, 1024))
    warm = float(attend(H100, core, "decode", 6, 1, 1024, cache=cache_bytes(H100.name)))
    assert warm < cold


def test_latent_attention_reads_one_latent_for_all_heads():
    core = attention_constants(H100.name, "mla", "decode")
    grouped = attention_constants(H100.name, "gqa", "decode")
    latent = float(attend(H100, core, "decode", 64, 1, 16384, kind="mla"))
    assert latent < 0.5 * float(attend(H100, grouped, "decode", 64, 1, 16384))


def test_unknown_devices_and_kinds_have_constants_or_a_clear_error():
    assert gemm_constants("nobody's device", "bf16") == gemm_constants("another", "bf16")
    for dtype in FORMATS:
        assert gemm_constants("nobody's device", dtype).mma > 0
    assert cache_bytes("nobody's device") == 0.0
    with pytest.raises(InputError, match="fp8_blok"):
        dense_gemm_seconds(H100, GemmConstants(), 1, 1, 1, "fp8_blok")
    with pytest.raises(InputError, match="phase"):
        attend(H100, AttentionConstants(), "decoding", 1, 1, 1)


@needs_tables
@pytest.mark.parametrize("dtype", ["bf16", "fp8_block"])
def test_gemms_of_shapes_left_out_are_predicted(dtype):
    from moesim.accuracy.gemm import Gemm
    from moesim.measured.rows import thin

    rows = Gemm().measured("H100-SXM")
    group = thin(rows[(rows["dtype"] == dtype) & (rows["backend"] == "trtllm")], 3000)
    held = (group["shape"] == "n<=4096 k>4096").to_numpy()
    predicted = Gemm().predict(group[~held], group[held])
    error = np.abs(predicted / group["seconds"][held].to_numpy() - 1.0)
    assert held.sum() > 100
    assert np.median(error) < 0.09


@needs_tables
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_attention_of_heads_left_out_is_predicted(phase):
    from moesim.accuracy.attention import Attention
    from moesim.measured.rows import thin

    family = Attention(phase)
    rows = family.measured("H100-SXM")
    group = thin(rows[(rows["dtype"] == "bf16") & (rows["backend"] == "vllm")], 3000)
    held = (group["shape"] == "heads of 128, 2 to 8 to one").to_numpy()
    error = np.abs(family.predict(group[~held], group[held]) / group["seconds"][held].to_numpy() - 1.0)
    assert held.sum() > 100
    assert np.median(error) < 0.12


@needs_tables
@pytest.mark.skipif(not SLICE.is_file(), reason="needs ../shared/data/kernels/aic_gemm.csv")
def test_the_slices_in_the_shared_folder_are_timings_of_the_same_tables():
    import pandas as pd

    from moesim.accuracy.gemm import Gemm

    known = pd.read_csv(SLICE).query("system == 'h100_sxm' and gemm_dtype == 'bfloat16'")
    rows = Gemm().measured("H100-SXM").query("dtype == 'bf16'")
    pairs = known.reset_index().merge(rows, on=["m", "n", "k"])
    error = (pairs["latency_ms"] * 1e-3 / pairs["seconds"] - 1.0).abs()
    nearest = error.groupby(pairs["index"]).min()
    assert len(nearest) > 500
    assert nearest.median() < 0.02
