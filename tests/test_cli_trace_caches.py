"""``moesim trace caches`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from moesim.cli import main
from moesim.policies.cache import replay
from moesim.policies.registry import cache_names
from moesim.policies.table import cache_table
from moesim.routing.writer import TraceWriter

TRACE = str(Path(__file__).parents[1] / "traces" / "pystdlib-moe-6x32")
SHORT = ("--profile", "0.9")


def moesim(*words, status=0):
    result = CliRunner().invoke(main, ["trace", "caches", *words])
    assert result.exit_code == status, result.output
    return result


def test_json_holds_rates_and_bytes():
    words = ("--ratio", "0.25", "--policies", "lru, mrs(alpha=0.3), belady", "--model", "gpt-oss-20b")
    found = json.loads(moesim(TRACE, *SHORT, *words, "--json").stdout)
    assert found["capacity"] == 8
    lru, mrs, belady = found["policies"]
    assert mrs["policy"] == "mrs(alpha=0.3)"
    assert belady["hit_rate"] > max(lru["hit_rate"], mrs["hit_rate"])
    assert lru["below_belady"] == pytest.approx(belady["hit_rate"] - lru["hit_rate"])
    assert lru["misses_per_token"] == pytest.approx(6 * 4 * (1 - lru["hit_rate"]))
    assert lru["bytes_per_token"] > 0


def test_a_trace_without_weights_lists_what_cannot_run(tmp_path):
    ids = np.random.default_rng(0).random((40, 2, 8)).argsort(axis=2)[..., :2]
    with TraceWriter(tmp_path / "t", model="m", experts=8, top_k=2, layers=(0, 1)) as writer:
        writer.append(ids)
    out = moesim(str(tmp_path / "t"), "--capacity", "4", "--policies", "lru, mrs").stdout
    assert "not run: it needs gate" in " ".join(out.split())


def test_ctrl_c_shows_what_is_done(monkeypatch):
    whole = replay.replay
    asked = []

    def stopped(policy, *given):
        asked.append(policy.name)
        if policy.name == "belady":
            raise KeyboardInterrupt
        return whole(policy, *given)

    monkeypatch.setattr(replay, "replay", stopped)
    words = ("--ratio", "0.25", "--policies", "lru, belady, lfu", "--json")
    told = moesim(TRACE, *SHORT, *words, status=130)
    assert [row["policy"] for row in json.loads(told.stdout)["policies"]] == ["lru"]
    assert asked == ["lru", "belady"]
    assert "interrupted" in told.stderr


def test_cache_policies_are_listed():
    listed = json.loads(CliRunner().invoke(main, ["list", "policies", "--json"]).stdout)
    assert {row["name"] for row in listed["policies"] if row["kind"] == "cache"} == set(cache_names())


def test_the_table_of_the_page_is_fresh():
    page = (Path(__file__).parents[1] / "docs" / "caching.md").read_text(encoding="utf-8")
    assert cache_table() in page, "write it again, see the page"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--capacity", "3"), "smaller than top-4"),
        (("--capacity", "8", "--policies", "hobbit(t1=0.95)"), "t1 must not be above t2"),
        ((), "either --capacity or --ratio"),
        (("--capacity", "8", "--ratio", "0.5"), "either --capacity or --ratio"),
        (("--capacity", "8", "--policies", "lruu"), "did you mean 'lru'"),
        (("--capacity", "8", "--policies", "lru+lfu"), "no '+'"),
        (("--capacity", "8", "--policies", "mrs(alpha=2)"), "'alpha' is 2"),
        (("--capacity", "8", "--policies", ","), "no policy given"),
    ],
)
def test_bad_input_is_one_message(words, message):
    assert message in moesim(TRACE, *words, status=2).stderr
