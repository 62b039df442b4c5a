"""A scenario file becomes frozen, typed, complete data."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from moesim.errors import InputError
from moesim.scenario import load_scenario, loads_scenario

SCENARIO = """\
description: a test
model: gpt-oss-20b
cluster: {name: HGX-H200, nodes: 2}
routing: {generator: zipf, exponent: 0.5}
workload: {tokens_per_device: 16k, context: 4Ki}
policies:
  - ep
  - {name: eplb, placement: {redundant: 16}}
  - {name: mine, placement: round_robin, dispatch: {kind: llep, alpha: 1.1}}
memory: {reserve: 2 GiB}
"""


def test_units_become_plain_numbers() -> None:
    spec = loads_scenario(SCENARIO).spec
    assert spec.workload.tokens_per_device == 16_000
    assert spec.workload.context == 4096
    assert spec.memory.reserve == 2 << 30


def test_short_forms_and_long_forms_are_the_same() -> None:
    long = SCENARIO.replace("model: gpt-oss-20b", "model: {name: gpt-oss-20b}").replace(
        "- ep", "- {name: ep}"
    )
    assert loads_scenario(long).resolved() == loads_scenario(SCENARIO).resolved()
    assert loads_scenario(long).hash == loads_scenario(SCENARIO).hash


def test_resolved_is_complete_and_reads_back_as_itself() -> None:
    resolved = loads_scenario(SCENARIO).resolved()
    assert resolved["seed"] == 0
    assert resolved["engine"] == {"detail": "array", "spans": 1}
    assert resolved["policies"][1]["placement"]["redundant"] == 16
    assert resolved["policies"][1]["dispatch"]["kind"] == "standard"
    assert resolved["policies"][2]["dispatch"]["alpha"] == 1.1
    again = loads_scenario(json.dumps(resolved))
    assert json.dumps(again.resolved()) == json.dumps(resolved)


def test_the_hash_follows_the_content() -> None:
    first = loads_scenario(SCENARIO)
    assert loads_scenario("# a comment\n" + SCENARIO).hash == first.hash
    assert loads_scenario(SCENARIO, seed=1).hash != first.hash
    assert loads_scenario(SCENARIO.replace("1.1", "1.2")).hash != first.hash


def test_changing_what_resolved_returned_changes_nothing() -> None:
    scenario = loads_scenario(SCENARIO)
    scenario.resolved()["workload"]["steps"] = 99
    assert scenario.resolved()["workload"]["steps"] == 4


def test_the_name_defaults_to_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "my-run.yaml"
    path.write_text(SCENARIO)
    assert load_scenario(path).name == "my-run"
    assert loads_scenario(SCENARIO).name == "scenario"


def test_sections_are_frozen() -> None:
    spec = loads_scenario(SCENARIO).spec
    with pytest.raises(ValidationError, match="frozen"):
        spec.workload.steps = 3  # type: ignore[misc]


def test_a_scenario_survives_pickling() -> None:
    scenario = loads_scenario(SCENARIO)
    copied = pickle.loads(pickle.dumps(scenario))
    assert copied.hash == scenario.hash
    assert copied.place(("workload", "context")) == scenario.place(("workload", "context"))


def test_a_seed_of_the_caller_wins() -> None:
    assert loads_scenario(SCENARIO + "seed: 5\n").seed == 5
    assert loads_scenario(SCENARIO + "seed: 5\n", seed=6).seed == 6
    with pytest.raises(InputError, match="--seed: 'seed' must be a whole number"):
        loads_scenario(SCENARIO, seed=-1)


def test_importing_scenarios_is_light() -> None:
    heavy = "('pandas', 'networkx', 'numpy', 'matplotlib')"
    code = f"import sys, moesim.scenario; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
