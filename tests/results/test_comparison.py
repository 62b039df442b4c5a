from __future__ import annotations

import json
from itertools import pairwise

import pytest

from moesim.errors import InputError
from moesim.results import Comparison
from moesim.results.columns import CAUSES, POLICY_KEYS


def test_keys_and_order_are_as_promised(make_comparison):
    data = make_comparison().to_dict()
    assert list(data) == ["baseline", "policies"]
    assert [policy["name"] for policy in data["policies"]] == ["ep", "eplb", "llep"]
    assert all(list(policy) == list(POLICY_KEYS) for policy in data["policies"])
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_speedup_and_memory_ratio_are_against_the_baseline(make_comparison):
    comparison = make_comparison()
    base, eplb, _ = comparison.to_dict()["policies"]
    assert base["speedup"] == base["memory_ratio"] == 1.0
    assert eplb["speedup"] == pytest.approx(base["latency_s"]["mean"] / eplb["latency_s"]["mean"])
    assert eplb["memory_ratio"] == pytest.approx(eplb["peak_memory_bytes"] / base["peak_memory_bytes"])


def test_another_baseline_turns_the_speedup_around(make_comparison):
    comparison = make_comparison()
    turned = Comparison(comparison.results, "llep")
    assert turned.baseline.policy == "llep"
    assert turned.speedup(comparison["ep"]) == pytest.approx(1 / comparison.speedup(comparison["llep"]))


def test_table_agrees_with_the_plain_data(make_comparison):
    comparison = make_comparison()
    for policy in comparison.to_dict()["policies"]:
        row = comparison.table.loc[policy["name"]]
        assert row["latency_s"] == policy["latency_s"]["mean"]
        assert row["experts_s"] == policy["breakdown_s"]["experts"]
        assert row["speedup"] == policy["speedup"]


def test_changes_sum_to_the_difference_of_latencies(make_comparison):
    comparison = make_comparison()
    base = comparison.baseline.latency_s["mean"]
    for result in comparison.others:
        rows = comparison.changes[comparison.changes["policy"] == result.policy]
        assert sorted(rows["cause"]) == sorted(CAUSES)
        assert rows["change_s"].sum() == pytest.approx(result.latency_s["mean"] - base, rel=1e-9)
        assert all(abs(a) >= abs(b) for a, b in pairwise(rows["change_s"]))


def test_words_tell_speed_causes_largest_first_and_memory(make_comparison):
    text = "\n".join(make_comparison().explain())
    assert "ep is the baseline" in text
    llep = text[text.index("llep is ") :]
    assert "x as fast as ep" in llep
    assert llep.index("waiting shrank by") < llep.index("exposed weight moves grew by")
    assert "on the fullest device expert activations shrank by" in llep


def test_words_of_a_slower_policy_say_so(make_result):
    text = "\n".join(Comparison([make_result("even", 0.0), make_result("ep", 1.0)]).explain())
    assert "ep is " in text
    assert "x slower than even" in text
    assert "waiting grew by" in text


def test_words_of_the_same_run_under_another_name_find_no_difference(make_result):
    text = "\n".join(Comparison([make_result("ep"), make_result("again")]).explain())
    assert "again is as fast as ep" in text
    assert "no cause changes noticeably" in text
    assert "memory: the same peak" in text


def test_words_say_which_device_runs_out(make_comparison):
    lines = make_comparison(capacity=60 * 2**30).explain()
    alarms = [line for line in lines if "out of memory: device" in line]
    assert len(alarms) == 3
    assert all(
        "step 1, layer 4, stage experts" in line and "holding experts 42 GiB" in line for line in alarms
    )


def test_results_that_cannot_be_compared_are_refused(make_result):
    with pytest.raises(InputError, match="at least one"):
        Comparison([])
    with pytest.raises(InputError, match="'ep' is there twice"):
        Comparison([make_result("ep"), make_result("ep")])
    with pytest.raises(InputError, match="did you mean 'ep'"):
        Comparison([make_result("ep")], "epp")
    with pytest.raises(InputError, match="different tokens"):
        Comparison([make_result("ep"), make_result("other", devices=4)])
    with pytest.raises(InputError, match="no policy"):
        Comparison([make_result("ep")])["llep"]
