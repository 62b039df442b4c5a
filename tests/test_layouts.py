"""Mixes of parallelism, ranked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import moesim
from moesim.cli import main
from moesim.errors import InputError
from moesim.layouts import Layout, layouts
from moesim.scenario import load_scenario

SCENARIO = """
model: Mixtral-8x7B
cluster: {name: DGX-H100, nodes: 1}
routing: {generator: zipf, exponent: 0.5}
workload: {phase: decode, steps: 1, tokens_per_device: 16, context: 1000}
policies: [ep]
"""


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "mix.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    return str(path)


def test_groups_stay_inside_a_node() -> None:
    found = list(layouts(16, 4))
    assert {one.expert_tp for one in found} == {one.attention_tp for one in found} == {1, 2, 4}
    assert len(found) == len(set(found)) == 18
    assert found[0] == Layout(1, 1, False)
    # All of each expert on all devices: nothing is dispatched.
    assert all(one.gather for one in layouts(4, 4) if one.expert_tp == 4)


def test_every_mix_is_what_simulating_it_gives_and_the_fastest_that_fits_is_first(scenario: str) -> None:
    frame = moesim.compare_layouts(scenario)
    fits = frame[frame["fits"]]
    assert fits["latency_s"].is_monotonic_increasing
    assert not frame["fits"].iloc[len(fits) :].any()
    row = frame[(frame["attention_tp"] == 4) & (frame["expert_tp"] == 2) & (frame["exchange"] == "gather")]
    changes = ["parallelism.attention_tp=4", "parallelism.expert_tp=2", "kernels.exchange=gather"]
    alone = moesim.simulate(load_scenario(scenario, overrides=changes))
    assert float(row["latency_s"].iloc[0]) == alone.latency_s["mean"]
    assert int(row["ranks"].iloc[0]) == 4


def test_mixes_that_cannot_run_are_listed_with_the_reason(scenario: str) -> None:
    model = (
        "model={num_layers: 1, hidden_size: 64, moe_intermediate_size: 96, num_routed_experts: 8, top_k: 2, "
        "vocab_size: 100, attention: {kind: gqa, heads: 6, kv_heads: 2, head_dim: 16}}"
    )
    frame = moesim.compare_layouts(scenario, [model])
    broken = frame[frame["reason"] != ""]
    assert set(broken["attention_tp"]) == {4, 8}
    assert set(frame[frame["reason"] == ""]["attention_tp"]) == {1, 2}
    assert all("6 attention heads cannot be split" in reason for reason in broken["reason"])


def test_a_scenario_that_never_runs_is_an_error(scenario: str) -> None:
    with pytest.raises(InputError, match="there is no policy"):
        moesim.compare_layouts(scenario, policy="nonsense")


def test_the_command_prints_json_and_a_table(scenario: str) -> None:
    told = CliRunner().invoke(main, ["compare-layouts", scenario, "--json"])
    assert told.exit_code == 0, told.output
    rows = json.loads(told.stdout)["layouts"]
    assert len(rows) == len(list(layouts(8, 8)))
    assert {"attention_tp", "expert_tp", "latency_s", "fits", "reason"} <= set(rows[0])
    table = CliRunner().invoke(main, ["compare-layouts", scenario])
    assert "EP8" in table.stdout
    assert CliRunner().invoke(main, ["compare-layouts", "nowhere.yaml"]).exit_code == 2
