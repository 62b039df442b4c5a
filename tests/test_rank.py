"""Rankings of policies over seeds and traces."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from moesim import compare, load_scenario, rank
from moesim.cli import main
from moesim.errors import InputError
from moesim.experiment import Interrupted
from moesim.results import load_comparison
from moesim.results.columns import POLICY_KEYS, RANKING_KEYS, STANDING_KEYS

PATH = Path(__file__).parent / "data" / "tiny.yaml"
TINY = str(PATH)


def moesim(*words, status=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result


def tiny(*overrides, seed=None):
    return load_scenario(PATH, overrides=overrides, seed=seed)


def test_a_ranking_has_the_documented_keys_and_agrees_with_the_comparison():
    found = json.loads(moesim("compare-policies", TINY, "--rank", "--json").stdout)
    plain = compare(tiny()).to_dict()
    assert list(found) == ["baseline", "policies", *RANKING_KEYS]
    for ranked, policy in zip(found["policies"], plain["policies"], strict=True):
        assert list(ranked) == [*POLICY_KEYS, *STANDING_KEYS]
        for key in POLICY_KEYS:
            exact = not isinstance(policy[key], float) and key not in ("latency_s", "breakdown_s")
            assert ranked[key] == (policy[key] if exact else pytest.approx(policy[key])), key
    assert found["interval"] == {
        "level": 0.95,
        "method": "Student t on paired differences",
        "over": "steps",
    }
    means = [policy["latency_s"]["mean"] for policy in found["policies"]]
    order = [found["policies"][place]["name"] for place in np.argsort(means)]
    assert found["ranking"] == order
    assert [policy["rank"] for policy in found["policies"]] == [
        1 + order.index(p["name"]) for p in plain["policies"]
    ]


def test_intervals_contain_what_they_are_about():
    found = rank([tiny("workload.steps=6", seed=seed) for seed in range(3)])
    assert found.over == "seeds"
    for one in found.standings:
        for estimate in (one.latency, one.speedup, one.difference):
            assert estimate.low <= estimate.mean <= estimate.high
        assert one.latency.mean == pytest.approx(np.mean([r.latency_s["mean"] for r in one.results]))
        assert sum(one.changes_s.values()) == pytest.approx(one.difference.mean, abs=1e-12)
    base = found.standings[0]
    assert base.speedup.interval == [1.0, 1.0]
    assert base.difference.interval == [0.0, 0.0]


def test_any_number_of_workers_ranks_the_same():
    scenarios = [tiny(seed=seed) for seed in (3, 4)]
    seen = []
    alone = rank(scenarios, ["ep", "llep(alpha=1.3)"])
    beside = rank(scenarios, ["ep", "llep(alpha=1.3)"], workers=2, progress=lambda *told: seen.append(told))
    assert alone.to_dict() == beside.to_dict()
    assert seen[-1] == ("runs", 4, 4)


def test_all_runs_every_policy_and_tells_what_does_not_fit():
    settings = ["--set", "model.num_routed_experts=9", "--set", "parallelism.ep=4"]
    settings += ["--set", "policies.eplb.placement.redundant=3"]
    found = json.loads(moesim("compare-policies", TINY, "--all", "--json", *settings).stdout)
    names = [policy["name"] for policy in found["policies"]]
    unfit = {one["name"]: one["reason"] for one in found["unfit"]}
    assert "eplb" in names
    assert "ep" in unfit
    assert "cannot spread 9 experts evenly" in unfit["ep"]
    assert not set(names) & set(unfit)
    assert found["baseline"] == "eplb", "the first that can run"
    shown = moesim("compare-policies", TINY, "--all", "--no-timing", *settings).stdout
    assert "do not fit this scenario" in shown
    assert "cannot spread 9 experts evenly" in " ".join(shown.split())


def test_all_needs_a_policy_that_can_run():
    told = moesim("compare-policies", TINY, "--all", "--set", "routing.exponent=-1", status=2).stderr
    assert "exponent" in told
    told = moesim("compare-policies", TINY, "--all", "--set", "model.num_routed_experts=9",
                  "--set", "parallelism.ep=4", "--baseline", "ep", status=2).stderr  # fmt: skip
    assert "cannot spread 9 experts evenly" in told


def test_traces_are_repeated_and_seeds_that_change_nothing_are_no_evidence(tmp_path):
    for name in ("one", "two"):
        seed = 3 if name == "one" else 4
        shape = ("--experts", 8, "--top-k", 2, "--layers", 2, "--seed", seed)
        moesim("trace", "generate", "zipf", tmp_path / name, *shape, "--set", "exponent=0.7")
    found = json.loads(
        moesim(
            *("compare-policies", TINY, "--traces", f"{tmp_path / 'one'},{tmp_path / 'two'}"),
            *("--seeds", "1,2", "--set", "routing.profile=0.5", "--json"),
        ).stdout
    )
    assert [(Path(run["trace"]).name, run["seed"]) for run in found["runs"]] == [
        ("one", 1), ("one", 2), ("two", 1), ("two", 2),
    ]  # fmt: skip
    assert found["interval"]["over"] == "steps"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--seeds", "1,x"], "--seeds 1,x: 'x' is not a seed"),
        (["--seeds", "3-1"], "'3-1' is not a seed"),
        (["--seeds", "1,0-2"], "'1' is there twice"),
        (["--seeds", ","], "nothing is named"),
        (["--seeds", "1", "--seed", "2"], "exclude each other"),
        (["--all", "--policies", "ep"], "exclude each other"),
        (["--traces", "nowhere"], "there is no trace"),
        (
            ["--policies", "ep, llep(alpa=1)"],
            "--policies: character 10: policy 'llep' has no parameter 'alpa'",
        ),
        (["--rank", "--baseline", "lep"], "did you mean 'llep'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_cannot_be_used(words, says):
    result = moesim("compare-policies", TINY, *words, status=2)
    assert says in result.stderr
    assert result.stdout == ""


def test_a_ranking_of_one_run_is_stored_as_a_comparison_with_more(tmp_path):
    moesim("compare-policies", TINY, "--rank", "--out", tmp_path / "run", "--no-timing")
    assert load_comparison(tmp_path / "run").to_dict() == compare(tiny()).to_dict()
    assert "ranking" in json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (tmp_path / "run" / "plots" / "ranking.png").stat().st_size > 10_000
    rows = list(csv.DictReader((tmp_path / "run" / "ranking.csv").read_text().splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    moesim("compare-policies", TINY, "--rank", "--out", tmp_path / "run")  # replaces it


def test_a_ranking_of_several_runs_holds_each_of_them(tmp_path):
    moesim("compare-policies", TINY, "--seeds", "1-2", "--policies", "ep,llep", "--out", tmp_path / "run")
    folders = sorted((tmp_path / "run" / "runs").iterdir())
    assert [load_comparison(folder).baseline.seed for folder in folders] == [1, 2]
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(f"runs/{folder.name}/report.html" in page for folder in folders)


def interrupt_after(count):
    calls = []

    def progress(*told):
        calls.append(told)
        if len(calls) == count:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_ranking_keeps_whole_runs_or_policies():
    scenarios = [tiny(seed=seed) for seed in (1, 2)]
    with pytest.raises(Interrupted, match="1 of 2 runs") as caught:
        rank(scenarios, progress=interrupt_after(7))
    assert len(caught.value.done.runs) == 1
    with pytest.raises(Interrupted, match="2 of 3 policies") as caught:
        rank(scenarios, progress=interrupt_after(5))
    assert [one.name for one in caught.value.done.standings] == ["ep", "eplb"]
    with pytest.raises(KeyboardInterrupt) as nothing:
        rank(scenarios, progress=interrupt_after(1))
    assert not isinstance(nothing.value, Interrupted)


def test_policies_beyond_memory_rank_last():
    found = rank(tiny("memory.reserve=141 GiB"), ["ep", "llep"])
    assert not any(one.fits for one in found.standings)
    shown = "\n".join(found.explain())
    assert "out of memory: device" in shown


def test_a_ranking_needs_a_scenario():
    with pytest.raises(InputError, match="at least one scenario"):
        rank([])
