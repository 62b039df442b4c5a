from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import pytest

from moesim.results import Result
from moesim.results.columns import CAUSES, SUMMARY_KEYS, TABLES
from moesim.results.frames import BrokenLawError


def test_tables_have_the_declared_columns_types_and_units(make_result):
    result = make_result()
    for name, table in TABLES.items():
        frame = result.tables[name]
        assert list(frame.columns) == table.names
        assert frame.attrs["units"] == table.units
        for column in table.columns:
            if column.kind == "str":
                assert all(isinstance(text, str) for text in frame[column.name])
            else:
                assert frame[column.name].dtype == column.kind


def test_summary_has_the_promised_keys_and_is_strict_json(make_result):
    summary = make_result().summary()
    assert list(summary) == list(SUMMARY_KEYS)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["scenario"] == "toy"
    assert summary["seed"] == 7
    assert summary["wall_s"] == 0.25
    assert summary["events"] == 39


def test_summary_without_timing_tells_no_wall_clock(make_result):
    assert make_result().summary(timing=False)["wall_s"] is None


def test_breakdown_is_in_fixed_order_and_sums_to_the_mean_latency(make_result):
    result = make_result(moved=2)
    assert tuple(result.breakdown_s) == CAUSES
    assert sum(result.breakdown_s.values()) == pytest.approx(result.latency_s["mean"], rel=1e-12)


def test_throughput_is_all_tokens_over_all_time(make_result):
    result = make_result()
    expected = result.steps["tokens"].sum() / result.steps["latency_s"].sum()
    assert result.throughput_tokens_per_s == pytest.approx(expected)


def test_no_tokens_in_no_time_are_no_throughput(make_tables):
    tables = make_tables(1.0)
    steps = tables["steps"]
    nothing = {key: [0] * len(values) for key, values in steps.items() if key != "step"}
    tables["steps"] = {**steps, **nothing}
    assert Result.from_tables(tables, name="toy", policy="ep").throughput_tokens_per_s == 0


def test_a_run_within_capacity_is_not_out_of_memory(make_result):
    assert make_result().summary()["out_of_memory"] is False


def test_running_out_names_device_moment_and_owners(make_result):
    result = make_result(capacity=62 * 2**30)
    entries = result.summary()["out_of_memory"]
    assert entries
    table = result.memory
    assert [entry["device"] for entry in entries] == sorted(table[table["out_of_memory"]]["device"].unique())
    for entry in entries:
        assert entry["when"] == {"step": 1, "layer": 4, "stage": "experts"}
        assert entry["needed_bytes"] > entry["capacity_bytes"] == 62 * 2**30
        held = list(entry["holding"].values())
        assert sum(held) == pytest.approx(entry["needed_bytes"], abs=10)
        assert held == sorted(held, reverse=True)


def test_peak_memory_ignores_other_tiers(make_tables):
    tables = make_tables(1.0)
    memory = pd.DataFrame(tables["memory"])
    host = memory[memory["device"] == 0].assign(tier="DRAM", capacity_bytes=2**50)
    host = host.assign(bytes=host["bytes"] * 1000, peak_bytes=host["peak_bytes"] * 1000)
    tables["memory"] = pd.concat([memory, host], ignore_index=True)
    with_host = Result.from_tables(tables, name="toy", policy="ep")
    assert with_host.peak_memory_bytes == int(memory["peak_bytes"].max())


def test_seconds_that_do_not_add_up_are_refused(make_tables):
    tables = make_tables(1.0)
    tables["steps"]["experts_s"] = tables["steps"]["experts_s"] * 1.0001
    with pytest.raises(BrokenLawError, match="steps: causes do not sum to the latency"):
        Result.from_tables(tables, name="toy", policy="ep")


def test_a_bound_above_the_latency_is_refused(make_tables):
    tables = make_tables(1.0)
    tables["layers"]["bound_s"] = tables["layers"]["latency_s"] * 1.001
    with pytest.raises(BrokenLawError, match="layers: the lower bound is above the latency"):
        Result.from_tables(tables, name="toy", policy="ep")


def test_bytes_without_an_owner_are_refused(make_tables):
    tables = make_tables(1.0)
    tables["memory"]["peak_bytes"] = np.asarray(tables["memory"]["peak_bytes"]) + 1e6
    with pytest.raises(BrokenLawError, match="owners do not sum"):
        Result.from_tables(tables, name="toy", policy="ep")


def test_dense_layers_may_lack_a_bound(make_tables):
    tables = make_tables(1.0)
    bound = np.array(tables["layers"]["bound_s"])
    bound[0] = np.nan
    tables["layers"]["bound_s"] = bound
    assert np.isnan(Result.from_tables(tables, name="toy", policy="ep").layers["bound_s"][0])


@pytest.mark.parametrize("damage", ["absent", "unknown", "no column", "extra column", "no steps"])
def test_tables_that_are_not_as_declared_are_refused(make_tables, damage):
    tables = make_tables(1.0)
    if damage == "absent":
        del tables["links"]
    elif damage == "unknown":
        tables["colours"] = {}
    elif damage == "no column":
        del tables["steps"]["tokens"]
    elif damage == "extra column":
        tables["steps"]["colour"] = tables["steps"]["tokens"]
    else:
        tables["steps"] = {name: values[:0] for name, values in tables["steps"].items()}
    with pytest.raises(BrokenLawError):
        Result.from_tables(tables, name="toy", policy="ep")


def test_spans_may_be_left_out(make_tables):
    tables = make_tables(1.0)
    del tables["spans"], tables["critical_path"]
    result = Result.from_tables(tables, name="toy", policy="ep")
    assert result.spans.empty
    assert list(result.spans.columns) == TABLES["spans"].names


def test_a_result_survives_the_way_to_another_process(make_result):
    result = make_result()
    copy = pickle.loads(pickle.dumps(result))
    assert copy.summary() == result.summary()
    assert copy.steps.attrs == result.steps.attrs


def test_a_notebook_shows_escaped_names(make_tables):
    result = Result.from_tables(make_tables(1.0), name="<b>toy</b>", policy="ep")
    assert "&lt;b&gt;toy" in result._repr_html_()
    assert "<b>" not in result._repr_html_()
