from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moesim.accuracy.moe import MoeFamily
from moesim.accuracy.moe_effects import eplb_gain, skew, straggler
from moesim.accuracy.protocols import leave_model_out
from moesim.hardware.grouped_kernels import GroupedKernel
from moesim.measured import tables
from moesim.measured.moe_loads import dealt, draw, group_counts, load_counts
from moesim.measured.moe_tables import all_moe_rows, kernel_family, moe_rows, set_aside
from moesim.measured.rows import thin

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "kernels"

needs_tables = pytest.mark.skipif(
    not tables.installed(), reason="measured tables are not installed: pip install 'moesim[measured]'"
)


@pytest.mark.parametrize("exponent", [0.6, 1.01, 1.2])
@pytest.mark.parametrize(("tokens", "top_k", "experts"), [(1, 8, 128), (64, 8, 256), (4096, 2, 8)])
def test_draws_hold_all_pairs_and_no_expert_more_than_the_tokens(
    tokens: int, top_k: int, experts: int, exponent: float
) -> None:
    counts = draw(tokens, top_k, experts, exponent, 12, seed=3)
    assert (counts.sum(axis=1) == tokens * top_k).all()
    assert counts.min() >= 0
    assert counts.max() <= tokens + 1
    assert (counts == np.round(counts)).all()


def test_dealt_pairs_differ_by_at_most_one() -> None:
    counts = dealt(5, 6, 8)
    assert counts.sum() == 30
    assert np.ptp(counts) == 1


def test_the_straggler_carries_more_than_its_share_and_eplb_takes_it_away() -> None:
    plain = load_counts(4096, 8, 256, 256, 8, "power_law_1.01")
    packed = load_counts(4096, 8, 256, 288, 8, "power_law_1.01_eplb")
    even = 4096 * 8 / 8
    assert plain[0] > 1.25 * even
    assert even <= packed[0] < 1.05 * even


def test_expected_blocks_follow_the_kernel() -> None:
    rows = pd.DataFrame(
        [
            {"tokens": 128, "top_k": 8, "experts": 64, "slots": 64, "ep": ep, "distribution": "balanced"}
            for ep in (1, 4)
        ]
    )
    counts = group_counts(rows, GroupedKernel("x", low=16, high=128))
    assert counts.rows.tolist() == [1024, 256]
    assert counts.active.tolist() == [64, 16]
    assert counts.blocks.tolist() == [64, 16]
    assert counts.all_blocks.tolist() == [64, 64]


def test_kernel_names_map_to_families() -> None:
    assert kernel_family("vllm_unquantizedfusedmoe_triton_tritonexperts") == "triton"
    assert kernel_family("vllm_fp8moe_flashinfer_cutlass_flashinferexperts") == "cutlass"
    assert kernel_family("vllm_gptossmxfp4moe_triton_oaitritonmxfp4expertsmonolithic") == "oai_triton"
    assert kernel_family("moe_torch_flow_min_latency") == "trtllm_gen"
    assert kernel_family("something new") == "other"


@needs_tables
def test_rows_that_show_something_else_are_set_aside() -> None:
    rows = moe_rows("H200-SXM")
    assert not ((rows["shape"] == "deepseek-v3") & (rows["distribution"] == "balanced")).any()
    assert (rows["seconds"] > 0).all()
    assert not rows.duplicated([name for name in rows.columns if name != "seconds"]).any()


def test_calls_slower_than_calls_with_more_to_do_are_set_aside_with_their_curve() -> None:
    def curve(tp: int, slow: dict[int, float]) -> list[dict[str, object]]:
        call = {
            "dtype": "bf16",
            "backend": "b",
            "shape": "s",
            "slots": 8,
            "ep": 1,
            "distribution": "balanced",
        }
        sizes = (1, 2, 4, 8, 16, 32)
        return [{**call, "tp": tp, "tokens": n, "seconds": n * slow.get(n, 1.0) / tp} for n in sizes]

    rows = pd.DataFrame([*curve(1, {}), *curve(2, {1: 9.0}), *curve(4, {1: 9.0, 2: 9.0})])
    aside = set_aside(rows)
    assert not aside["dealt"].any()
    assert rows[aside["contradicted"]].groupby("tp").size().to_dict() == {2: 1, 4: 6}


@needs_tables
@pytest.mark.skipif(
    not SHARED.is_dir(), reason="the shared slices of the tables are not beside the repository"
)
def test_tables_agree_with_the_shared_slices() -> None:
    slices = pd.read_csv(SHARED / "aic_moe_h200_sxm_vllm.csv")
    slices = slices[(slices["model"] == "qwen3-30b-a3b") & (slices["dtype"] == "bfloat16")]
    rows = all_moe_rows("H200-SXM")
    rows = rows[(rows["shape"] == "qwen3-30b-a3b") & (rows["backend"] == "vllm/triton")]
    rows = rows[rows["dtype"] == "bf16"]
    rows = rows.assign(dist=rows["distribution"].astype(str).str.replace("power_law_", "pl"))
    both = slices.merge(rows, on=["tp", "ep", "dist", "tokens"], suffixes=("_slice", ""))
    assert len(both) == len(slices) > 100
    assert both["seconds"].to_numpy() == pytest.approx(both["latency_ms"].to_numpy() * 1e-3, rel=1e-6)


@needs_tables
@pytest.mark.parametrize(
    ("device", "dtype", "backend", "median", "p90"),
    [
        ("H200-SXM", "bf16", "vllm/triton", 0.06, 0.18),
        ("H200-SXM", "fp8_block", "vllm/triton", 0.05, 0.16),
        ("H200-SXM", "bf16", "sglang/triton_tuned", 0.065, 0.18),
        ("B200-SXM", "bf16", "vllm/trtllm_gen", 0.06, 0.18),
    ],
)
def test_models_left_out_are_predicted(
    device: str, dtype: str, backend: str, median: float, p90: float
) -> None:
    rows = moe_rows(device)
    rows = thin(rows[(rows["dtype"] == dtype) & (rows["backend"] == backend)], 1500)
    errors = np.concatenate(
        [
            np.abs(MoeFamily().predict(train, test) / test["seconds"].to_numpy() - 1)
            for train, test in leave_model_out(rows)
        ]
    )
    assert np.median(errors) <= median
    assert np.percentile(errors, 90) <= p90


@needs_tables
def test_stragglers_and_the_sign_of_skew_come_out() -> None:
    ratios = straggler("H200-SXM", "bf16", "vllm/triton")
    errors = (ratios["predicted_ratio"] / ratios["measured_ratio"] - 1).abs()
    assert errors.median() <= 0.1
    by_tokens = skew("H200-SXM", "bf16", "vllm/triton")["predicted_ratio"]
    assert by_tokens.loc[16:64].max() < 0.95
    assert by_tokens.loc[2048:4096].min() > 1.03


@needs_tables
def test_eplb_gain_follows_the_measured_curve() -> None:
    curve = eplb_gain("H200-SXM")
    assert list(curve.index) == [2, 4, 8, 16, 32, 64, 128, 256]
    published = [0.93, 0.86, 0.79, 0.77, 0.64, 0.63, 0.80, 1.00]
    assert curve["measured_ratio"].to_numpy() == pytest.approx(published, abs=0.02)
    assert curve["predicted_ratio"].to_numpy() == pytest.approx(published, abs=0.1)
