"""Tuning, comparing, ranking and interrupting offloading runs, through the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from offload_runs import described

import moesim
from moesim.cli import main
from moesim.scenario import loads_scenario
from moesim.tuning.given import given_settings
from moesim.tuning.space import space_of
from moesim.tuning.trial import with_settings

Mapping = dict[str, Any]


def scenario(folder: Path, **changes: Any) -> str:
    made = described({"slots": 3, "cache": "mrs"}, **changes)
    made["workload"] = {"tokens_per_device": 1, "requests": {"count": 2, "prompt": 4, "output": 3}}
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump(made), encoding="utf-8")
    return str(path)


def asked(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_tuning_searches_the_parts_of_an_offloading_policy(tmp_path: Path) -> None:
    path, out = scenario(tmp_path), tmp_path / "out"
    done = asked("tune", "a", path, "--trials", "6", "--json", "--out", str(out))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {"cache.alpha", "offload.slots", "offload.chunks", "offload.compute"} <= set(found["searched"])
    assert "offload.ratio" in found["left_out"]
    assert "offload.pinned" in found["left_out"]
    assert found["default"]["latency_s"] > 0
    best = found["best"]["policy"]
    assert best["offload"]["cache"]["kind"] == "mrs"
    assert best["offload"]["slots"] >= 2
    # What was tuned is what runs.
    base = yaml.safe_load((tmp_path / "s.yaml").read_text(encoding="utf-8"))
    again = moesim.simulate(loads_scenario(json.dumps({**base, "policies": [best]})))
    assert again.latency_s["mean"] == pytest.approx(found["best"]["latency_s"], rel=1e-12)
    assert again.offload is not None


def test_tuning_takes_one_parameter_and_a_range(tmp_path: Path) -> None:
    path = scenario(tmp_path)
    done = asked("tune", "on_demand(slots=3)", path, "--trials", "4", "--json", "--parameters", "slots=2:8")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["searched"] == {"offload.slots": "2 to 8"}
    # Of several sizes only one is given; a tuned one takes the place of another.
    sized = asked(
        "tune", "on_demand(ratio=0.5)", path, "--trials", "3", "--json", "--parameters", "slots=2:8"
    )
    assert sized.exit_code == 0, sized.output
    assert json.loads(sized.stdout)["infeasible"] == 0


def test_tuning_leaves_what_is_given_and_names_the_unknown(tmp_path: Path) -> None:
    path = scenario(tmp_path)
    found = asked("tune", "hobbit(slots=4, low_share=0.5)", path, "--trials", "2", "--json")
    assert found.exit_code == 0, found.output
    left = json.loads(found.stdout)["left_out"]
    assert left["offload.slots"] == left["cache.low_share"] == "has the value that was given"
    unknown = asked("tune", "a", path, "--parameters", "slotz")
    assert unknown.exit_code == 2
    assert "did you mean 'slots'" in unknown.output


def test_settings_change_only_what_they_name() -> None:
    from moesim.scenario.policy_named import policy_from_text

    loaded = loads_scenario(json.dumps(described({"slots": 3})))
    policy = policy_from_text(loaded, "hobbit(slots=4, t1=0.5)")
    changed = with_settings(policy, {"cache.low_share": 0.5, "offload.compute": "arrival"})
    assert policy.offload is not None
    assert changed.offload is not None
    before, after = policy.offload.described(), changed.offload.described()
    assert after["cache"] == {**before["cache"], "low_share": 0.5}
    assert after["prefetch"] == before["prefetch"]
    assert {**after, "cache": 0} == {**before, "cache": 0, "compute": "arrival"}
    given = given_settings(loaded, "hobbit(slots=4, t1=0.5)", policy)
    assert {"offload.slots", "cache.t1"} <= given
    assert "placement.seed" not in given
    from moesim.scenario.build import build_setup

    space = space_of(policy, build_setup(loaded, policy).view, fixed=given)
    assert "offload.slots" not in [one.key for one in space.dimensions]


def test_all_systems_are_compared(tmp_path: Path) -> None:
    done = asked("compare-policies", scenario(tmp_path), "--all", "--json", "--no-timing")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    text = json.dumps(found)
    for name in ("a", "hobbit", "hybrimoe", "fiddler", "layer_streaming", "edgemoe", "promoe"):
        assert f'"{name}"' in text, name


@pytest.mark.parametrize("more", [("--rank",), ("--seeds", "0-2"), ("--rank", "--seeds", "0-1")])
def test_ranking_and_seeds_work_or_are_refused_in_one_line(tmp_path: Path, more: tuple[str, ...]) -> None:
    arguments = ("--policies", "a, on_demand(slots=4), hobbit(slots=4)", *more)
    done = asked("compare-policies", scenario(tmp_path), *arguments, "--no-timing")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    if done.exit_code:
        assert done.exit_code == 2
        assert len(done.output.strip().splitlines()) == 1
    else:
        assert "hobbit" in done.output


def test_policies_that_do_not_offload_are_refused_requests(tmp_path: Path) -> None:
    done = asked("compare-policies", scenario(tmp_path), "--policies", "a, ep")
    assert done.exit_code == 2
    assert "keeps all experts on the devices" in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_stopping_half_way_keeps_what_is_done(tmp_path: Path) -> None:
    from moesim.experiment import Interrupted

    path = scenario(tmp_path)
    whole = moesim.simulate(loads_scenario(Path(path).read_text(encoding="utf-8")))

    def stop(_: str, done: int, __: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        moesim.simulate(loads_scenario(Path(path).read_text(encoding="utf-8")), progress=stop)
    kept = caught.value.done
    assert caught.value.told == "these are 4 of 6 steps"
    assert len(kept.steps) == 4
    assert kept.steps["latency_s"].tolist() == whole.steps["latency_s"].tolist()[:4]
    # The result says how to run just that again.
    assert kept.scenario["workload"]["requests"]["most"] == 4
    again = moesim.simulate(loads_scenario(json.dumps(kept.scenario)))
    assert again.steps["latency_s"].tolist() == kept.steps["latency_s"].tolist()


def test_one_process_or_two_give_the_same_bits(tmp_path: Path) -> None:
    text = Path(scenario(tmp_path)).read_text(encoding="utf-8")
    names = ["a", "hobbit", "promoe"]
    one, two = (moesim.compare(loads_scenario(text), names, workers=count) for count in (1, 2))
    for mine, theirs in zip(one.results, two.results, strict=True):
        for name, table in mine.tables.items():
            assert table.equals(theirs.tables[name]), name


def test_a_ranking_has_the_figures_of_its_runs(tmp_path: Path) -> None:
    arguments = ("--policies", "a, hobbit(slots=4)", "--seeds", "0-1", "--json", "--no-timing")
    found = json.loads(asked("compare-policies", scenario(tmp_path), *arguments).stdout)
    text = Path(tmp_path / "s.yaml").read_text(encoding="utf-8")
    runs = [moesim.simulate(loads_scenario(text, overrides=(f"seed={seed}",))) for seed in range(2)]
    offload = [run.offload for run in runs]
    for key in ("hit_rate", "tpot_s", "loaded_bytes_per_pass"):
        mean = sum(one[key] for one in offload if one is not None) / 2
        assert found["policies"][0]["offload"][key] == pytest.approx(mean), key
