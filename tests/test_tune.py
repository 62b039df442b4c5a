"""Searching a policy's parameters: the space, the search, what is kept, the command."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
import yaml
from click.testing import CliRunner
from pydantic import Field

from moesim import compare, load_scenario, tune
from moesim.cli import main
from moesim.errors import InputError
from moesim.policies.base import ClusterView, Parameters
from moesim.scenario.build import build_setup
from moesim.scenario.policy import build_policy
from moesim.tuning import search
from moesim.tuning.search import TuningInterrupted
from moesim.tuning.space import Dimension, space_of
from moesim.tuning.study import pareto
from moesim.tuning.trial import Measured, Trial

pytest.importorskip("optuna", reason="tuning needs the extra 'tune'")

PATH = Path(__file__).parent / "data" / "tiny.yaml"
TINY = str(PATH)
LLEP = "llep(planning_per_expert_s=1us)"


def tiny(*overrides):
    return load_scenario(PATH, overrides=overrides)


def moesim(*words, status=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result


def view_and(text):
    scenario = tiny()
    policy = build_policy(scenario, text)
    return policy, build_setup(scenario, policy).view


def test_ranges_come_from_hints_choices_and_the_machine():
    policy, view = view_and("eplb_llep")
    space = space_of(policy, view)
    found = {one.key: one for one in space.dimensions}
    assert set(found) == {
        "placement.redundant",
        "placement.mode",
        "dispatch.alpha",
        "dispatch.min_tokens_per_gemm",
        "dispatch.threshold",
    }
    assert (found["placement.redundant"].low, found["placement.redundant"].high) == (0, 8)
    assert found["placement.redundant"].whole
    assert found["placement.mode"].choices == ("auto", "global", "hierarchical")
    assert found["dispatch.alpha"].log
    assert "open" in space.left_out["dispatch.planning_per_expert_s"]


def test_ranges_may_be_given():
    policy, view = view_and("llep")
    space = space_of(policy, view, ["alpha = 0.5 : 3", "dispatch.min_tokens_per_gemm=1:64:log"])
    first, second = space.dimensions
    assert (first.low, first.high, first.log) == (0.5, 3.0, False)
    assert (second.low, second.high, second.log, second.whole) == (1, 64, True, True)


class Odd(Parameters):
    bounded: float = Field(default=2.0, ge=1, le=1000)
    narrow: int = Field(default=2, gt=0, lt=9)
    switch: bool = False
    kind: Literal["a", "b"] = "a"
    word: str = "x"


class OddDispatch:
    name = "odd"
    parameters = Odd()


class OddPlacement:
    name = "plain"
    parameters = Parameters()


class OddPolicy:
    name = "odd"
    placement = OddPlacement()
    dispatch = OddDispatch()
    refresh = offload = None


def test_bounds_of_fields_are_ranges_where_both_ends_are_closed():
    view = ClusterView(devices=2, node_of=[0, 0], experts=4, top_k=1, expert_bytes=1, token_bytes=1)
    space = space_of(OddPolicy(), view)
    bounded, narrow, switch, kind = space.dimensions
    assert (bounded.low, bounded.high, bounded.log) == (1, 1000, True)
    assert (narrow.low, narrow.high, narrow.whole, narrow.log) == (1, 8, True, False)
    assert (switch.choices, kind.choices) == ((False, True), ("a", "b"))
    assert "not a number" in space.left_out["dispatch.word"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["alpa"], "has no parameter 'alpa' (did you mean 'alpha'?)"),
        (["alpha=1"], "'alpha=1' is not a parameter with a range"),
        (["alpha=2:1"], "is not a parameter with a range"),
        (["alpha=1:nan"], "is not a parameter with a range"),
        (["alpha=1:2:lin"], "is not a parameter with a range"),
        (["alpha=-1:2"], "the range -1:2 does not fit 'alpha'"),
        (["threshold=0:2:log"], "begins above 0"),
        (["min_tokens_per_gemm=0.5:2"], "it takes whole numbers from 0"),
        (["planning_fixed_s"], "cannot be searched: its range is open"),
        (["alpha", "dispatch.alpha"], "'dispatch.alpha' is there twice"),
        (["=1:2"], "a parameter needs a name"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_parameters_that_cannot_be_searched_are_refused(asked, says):
    policy, view = view_and("llep")
    with pytest.raises(InputError) as caught:
        space_of(policy, view, asked)
    assert says in str(caught.value)


def test_a_search_begins_with_the_policys_own_settings_and_improves_on_them():
    found = tune(tiny(), LLEP, trials=12)
    assert len(found.trials) == 12
    assert found.default.settings == {
        "dispatch.alpha": 1.0,
        "dispatch.min_tokens_per_gemm": 1024,
        "dispatch.threshold": 1.3,
    }
    assert found.best is found.pareto[0]
    assert found.best.measured.latency_s == min(t.measured.latency_s for t in found.trials if t.feasible)
    assert found.speedup == found.default.measured.latency_s / found.best.measured.latency_s >= 1
    assert {one.parameter for one in found.sensitivity} == set(found.default.settings)


def test_trials_measure_what_a_comparison_does():
    found = tune(tiny(), LLEP, trials=4)
    (result,) = compare(tiny(), [found.tuned]).results
    assert found.best.measured.latency_s == result.latency_s["mean"]
    assert found.best.measured.latency_p99_s == result.latency_s["p99"]
    assert found.best.measured.peak_memory_bytes == result.peak_memory_bytes
    assert found.best.measured.bound_s == pytest.approx(result.bound_s)
    assert 0 < found.best.measured.floor_bytes < result.peak_memory_bytes


def test_given_parameters_are_fixed_unless_asked_for():
    found = tune(tiny(), "eplb_llep(redundant=4, mode=global)", trials=3)
    assert not any(key.startswith("placement") for key in found.default.settings)
    assert found.tuned.placement.parameters.redundant == 4
    asked = tune(tiny(), "eplb(redundant=2)", ["redundant"], trials=3)
    assert asked.default.settings == {"placement.redundant": 2}


def test_refreshing_is_searched_where_a_policy_has_it():
    found = tune(tiny("workload.steps=6"), "eplb(refresh={every: 3})", ["every=1:5"], trials=9)
    assert found.default.settings == {"refresh.every": 3}
    assert sorted(one.settings["refresh.every"] for one in found.trials) == [1, 2, 3, 4, 5]
    assert found.best_mapping["refresh"]["every"] == found.best.settings["refresh.every"]


def test_given_values_may_be_mappings():
    found = tune(tiny(), "prophet(predictor={kind: token_to_expert, accuracy: 0.8})", trials=4)
    assert found.tuned.dispatch.parameters.predictor.accuracy == 0.8
    assert found.best_mapping["dispatch"]["predictor"]["accuracy"] == 0.8


def test_a_scenarios_own_settings_are_where_the_search_begins():
    assert tune(tiny(), "eplb", trials=3).default.settings["placement.redundant"] == 4


def test_few_settings_are_all_tried_once():
    found = tune(tiny(), "eplb", ["redundant=0:6"], trials=30)
    tried = [trial.settings["placement.redundant"] for trial in found.trials]
    assert sorted(tried) == list(range(7))
    assert [trial.phase for trial in found.trials] == ["default"] + ["grid"] * 6


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(search, "BATCH", 3)


def test_a_seed_finds_the_same_with_any_number_of_workers():
    one, again, two = (tune(tiny(), "eplb_llep", trials=16, seed=5, workers=n) for n in (1, 1, 2))
    assert one.to_dict() == again.to_dict() == two.to_dict()
    assert one.table.equals(two.table)
    assert one.to_dict() != tune(tiny(), "eplb_llep", trials=16, seed=6).to_dict()


def interrupt_after(count):
    calls = []

    def progress(*told):
        calls.append(told)
        if len(calls) == count:
            raise KeyboardInterrupt

    return progress


def test_a_stopped_search_keeps_what_it_has_and_goes_on_as_if_it_had_not(tmp_path, small_batches):
    with pytest.raises(TuningInterrupted, match="7 of 14 trials") as caught:
        tune(tiny(), "eplb_llep", trials=14, out=tmp_path / "stopped", progress=interrupt_after(3))
    assert len(caught.value.done.trials) == 7
    kept = list(csv.DictReader((tmp_path / "stopped" / "trials.csv").read_text().splitlines()))
    assert len(kept) == 7
    with (tmp_path / "stopped" / "measured.jsonl").open("a") as file:
        file.write('{"settings": {"half a line')
    resumed = tune(tiny(), "eplb_llep", trials=14, out=tmp_path / "stopped", resume=True)
    whole = tune(tiny(), "eplb_llep", trials=14, out=tmp_path / "whole")
    assert resumed.to_dict() == whole.to_dict()
    for name in ("tune.json", "trials.csv", "best.yaml", "trials.svg"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_resumed_search_measures_nothing_twice(tmp_path, monkeypatch):
    tune(tiny(), LLEP, trials=10, out=tmp_path)
    monkeypatch.setattr(search, "measure", lambda *_: pytest.fail("measured again"))
    assert len(tune(tiny(), LLEP, trials=10, out=tmp_path, resume=True).trials) == 10


def test_the_front_is_searched_where_memory_varies(small_batches):
    found = tune(tiny(), "eplb_llep", trials=25)
    assert {trial.phase for trial in found.trials} == {"default", "latency", "front"}
    front = found.pareto
    for faster, slower in pairwise(front):
        assert faster.measured.latency_s < slower.measured.latency_s
        assert faster.measured.peak_memory_bytes > slower.measured.peak_memory_bytes


def trial(number, latency, memory, feasible=True):
    return Trial(number, "latency", {}, Measured(latency, latency, latency, memory), feasible)


def test_the_front_leaves_out_what_is_beaten():
    trials = [
        trial(0, 3.0, 10),
        trial(1, 2.0, 20),
        trial(2, 2.0, 30),
        trial(3, 1.0, 40, False),
        trial(4, 2.5, 20),
    ]
    assert [one.number for one in pareto(trials)] == [1, 0]


def test_a_memory_limit_is_kept():
    free = tune(tiny(), "eplb", ["redundant"], trials=20)
    peaks = sorted({one.measured.peak_memory_bytes for one in free.trials})
    limit = peaks[len(peaks) // 2]
    found = tune(tiny(), "eplb", ["redundant"], trials=20, memory_limit=limit)
    assert found.best.measured.peak_memory_bytes <= limit
    assert any(not one.feasible for one in found.trials)
    assert all(one.measured.peak_memory_bytes <= limit for one in found.pareto)


def test_a_limit_that_nothing_keeps_is_an_error_that_tells_the_least(tmp_path):
    with pytest.raises(InputError, match="no settings of 'eplb' can stay within 1 KiB"):
        tune(tiny(), "eplb", trials=4, memory_limit="1 KiB")
    peak = tune(tiny(), "eplb", trials=4).default.measured.peak_memory_bytes
    with pytest.raises(InputError, match="none of 9 settings of 'eplb' stays within"):
        tune(tiny(), "eplb", ["redundant=0:8"], trials=20, memory_limit=peak / 2, out=tmp_path / "kept")
    assert (tmp_path / "kept" / "trials.csv").is_file()


def test_settings_that_a_policy_refuses_are_noted():
    two_nodes = tiny("cluster.nodes=2", "cluster.inter={kind: ib, bandwidth: 400 Gb/s, nics_per_node: 4}")
    found = tune(two_nodes, "eplb(redundant=8)", ["mode"], trials=5)
    (failed,) = [one for one in found.trials if one.measured.failure]
    assert "hierarchical" in failed.measured.failure
    assert not failed.feasible
    assert found.best is not None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["lleep"], "did you mean 'llep'?"),
        (["llep", "--parameters", "alpa"], "did you mean 'alpha'?"),
        (["llep", "--parameters", ","], "nothing is named"),
        (["llep(alpa=1)"], "character 6"),
        (["llep", "--memory-limit", "3 apples"], "the memory limit is not a size"),
        (["llep", "--memory-limit", "0"], "must be above 0"),
        (["llep", "--memory-limit", "1KiB"], "no settings of 'llep' can stay within 1 KiB"),
        (["llep", "--trials", "1"], "'--trials'"),
        (["llep", "--resume"], "--resume needs --out"),
        (["ep(replica_choice=even)"], "has nothing to tune"),
        (["llep", "--set", "workload.stepz=1"], "did you mean 'steps'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_cannot_be_used(words, says):
    result = moesim("tune", words[0], TINY, *words[1:], status=2)
    assert says in result.stderr
    assert result.stdout == ""


def test_directories_of_others_are_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("mine")
    told = moesim("tune", "llep", TINY, "--out", tmp_path / "mine", status=2).stderr
    assert "not an earlier search" in told
    moesim("tune", LLEP, TINY, "--trials", 3, "--out", tmp_path / "run")
    told = moesim("tune", LLEP, TINY, "--trials", 3, "--out", tmp_path / "run", status=2).stderr
    assert "go on with it (--resume)" in told
    told = moesim("tune", LLEP, TINY, "--seed", 2, "--out", tmp_path / "run", "--resume", status=2).stderr
    assert "another seed: 0, not 2" in told


def test_the_command_prints_keeps_and_makes_a_policy_to_paste(tmp_path):
    out = tmp_path / "run"
    shown = moesim("tune", "eplb_llep", TINY, "--trials", 12, "--out", out)
    text = " ".join(shown.stdout.split())
    for words in ("own settings", "best settings", "what matters", "latency against memory", "as fast as"):
        assert words in text
    found = json.loads(moesim("tune", "eplb_llep", TINY, "--trials", 12, "--json").stdout)
    assert found == json.loads((out / "tune.json").read_text())
    assert list(found) == [
        *("scenario", "policy", "seed", "memory_limit_bytes", "searched", "left_out", "trials", "infeasible"),
        *("default", "best", "speedup", "sensitivity", "pareto"),
    ]
    best = yaml.safe_load((out / "best.yaml").read_text())["policies"]
    pasted = yaml.safe_load(PATH.read_text()) | {"policies": best}
    (tmp_path / "pasted.yaml").write_text(yaml.safe_dump(pasted))
    again = json.loads(moesim("simulate", tmp_path / "pasted.yaml", "--json").stdout)
    assert again["latency_s"]["mean"] == found["best"]["latency_s"]


def test_without_the_library_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr(search, "find_spec", lambda _: None)
    assert "pip install 'moesim[tune]'" in moesim("tune", "llep", TINY, status=2).stderr


def test_a_dimension_tells_its_range():
    assert Dimension("dispatch", "a", 1, (), 1, 64, True, True).text == "1 to 64, log"
    assert Dimension("dispatch", "a", "x", ("x", "y")).text == "x | y"
