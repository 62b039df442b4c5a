"""Runs priced off measured tables: what was measured comes out, the rest is modelled and said."""

from __future__ import annotations

import json

import numpy as np
import pytest

import moesim
from moesim.errors import InputError
from moesim.hardware import load_device
from moesim.hardware.analytic import AnalyticCosts, AttentionShape, ExpertCall
from moesim.hardware.grouped_gemm import ExpertShape
from moesim.measured.tables import installed
from moesim.results import Result
from moesim.results.store import load_result
from moesim.scenario import loads_scenario

pytestmark = pytest.mark.skipif(
    not installed(), reason="the measured tables (extra 'measured') are not installed"
)

QWEN = {
    "model": "Qwen3-30B-A3B",
    "cluster": "HGX-H200",
    "routing": {"generator": "zipf", "exponent": 0.5},
    "workload": {"phase": "decode", "steps": 2, "tokens_per_device": 64, "context": 2000},
    "policies": ["ep"],
}


def run(**changes: object) -> Result:
    return moesim.simulate(loads_scenario(json.dumps({**QWEN, **changes})))


def test_both_sources_tell_nearly_the_same_time_of_a_step_that_was_measured() -> None:
    analytic, measured = run(), run(costs="measured")
    assert measured.latency_s["mean"] == pytest.approx(analytic.latency_s["mean"], rel=0.15)
    assert measured.latency_s["mean"] != analytic.latency_s["mean"]
    for cause in ("attention", "experts"):
        assert measured.breakdown_s[cause] == pytest.approx(analytic.breakdown_s[cause], rel=0.25)
    assert analytic.notes == ()


def test_what_was_not_measured_is_said() -> None:
    said = " ".join(run(costs="measured").notes)
    assert "[2048 x 151936]" in said
    assert "analytic model used" in said
    assert "not measured on H200-SXM" in said


def test_the_bound_stays_below_measured_prices() -> None:
    for tokens in (1, 64, 2048):
        workload = {**QWEN["workload"], "tokens_per_device": tokens}  # type: ignore[dict-item]
        result = run(costs="measured", workload=workload)
        assert (result.steps["bound_s"] <= result.steps["latency_s"] * (1 + 1e-9)).all()


def test_both_levels_of_detail_agree_on_measured_prices() -> None:
    array = run(costs="measured").latency_s["mean"]
    events = run(costs="measured", engine={"detail": "events"}).latency_s["mean"]
    assert events == pytest.approx(array, rel=1e-9)


def test_balanced_experts_cost_what_was_measured() -> None:
    from moesim.measured.costs import MeasuredCosts

    costs = MeasuredCosts(load_device("H200"))
    shape = ExpertShape(2048.0, 768.0, matrices=((1536.0, 2048.0), (2048.0, 768.0)))
    rows = np.full(128, 64.0)
    # All experts on one device, as in the tables without expert parallelism.
    call = ExpertCall(
        shape=shape,
        dtype="bf16",
        copies=rows,
        keys=np.zeros(128, dtype=np.int64),
        held=np.asarray([128.0]),
        tokens=np.asarray([1024.0]),
        pairs=None,
        top_k=8,
        experts=128,
    )
    told = costs.tables.experts(shape, 8192.0, top_k=8, experts=128, experts_here=128, dtype="bf16")
    assert told.inside
    assert costs.fused([call])[0] == pytest.approx(float(told.seconds), rel=1e-6)
    skewed = np.where(np.arange(128) < 8, 1024.0, 0.0)
    less = ExpertCall(**{**vars(call), "copies": skewed})
    ratio = (
        AnalyticCosts(load_device("H200")).fused([less])[0]
        / AnalyticCosts(load_device("H200")).fused([call])[0]
    )
    assert costs.fused([less])[0] / costs.fused([call])[0] == pytest.approx(ratio, rel=0.2)


def test_products_and_attention_inside_the_tables_are_read_off() -> None:
    from moesim.measured.costs import MeasuredCosts

    costs = MeasuredCosts(load_device("H100"))
    rows = np.asarray([0.0, 16.0, 100.0, 2048.0])
    told = costs.tables.gemm(rows, 4096, 4096, "bf16")
    assert told.inside.all()
    np.testing.assert_array_equal(costs.gemm(rows, 4096, 4096, "bf16"), told.seconds)
    shape = AttentionShape("gqa", 32, 8, 128)
    read = costs.tables.attention("gqa", "decode", 16, 1, 4096, heads=32, kv_heads=8, head_dim=128)
    assert read.inside
    assert float(costs.attention(shape, "decode", 16, 1, 4096)) == float(read.seconds)
    assert len(costs.notes) == 0


def test_kin_lend_the_tables_of_the_chip_but_not_of_the_links() -> None:
    h100, h800 = (run(costs="measured", cluster=name) for name in ("DGX-H100", "HGX-H800"))
    assert h800.breakdown_s["experts"] == pytest.approx(h100.breakdown_s["experts"], rel=1e-9)
    assert any("exchanges and collectives" in note for note in h800.notes)
    assert h800.breakdown_s["dispatch"] > h100.breakdown_s["dispatch"]


def test_devices_without_tables_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no measured tables of device 'MI300X' .*H200-SXM"):
        run(costs="measured", cluster="MI300X-8x")


def test_notes_are_saved_and_read_again(tmp_path) -> None:
    result = run(costs="measured")
    result.save(tmp_path / "run")
    again = load_result(tmp_path / "run")
    assert again.notes == result.notes
    assert list(result.notes) == result.summary()["notes"]
    assert "Notes on prices" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
