"""What people see of offloading runs: tables, reports, charts, timelines; and the scenarios that offload."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import moesim
from moesim.errors import InputError
from moesim.results import Comparison, Result
from moesim.results.plots.gallery import comparison_plots, result_plots
from moesim.results.plots.gantt import first_step
from moesim.results.plots.lookups import lookup_shares
from moesim.results.render import render_comparison, render_result
from moesim.results.report import report_html
from moesim.results.serving_words import SERVING_HEADS, serving_lines, serving_rows
from moesim.results.timeline import events
from moesim.scenario import load_scenario, loads_scenario

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = sorted((ROOT / "scenarios").glob("offload-*.yaml"))
SMALL = """
name: small
model: {name: OLMoE-1B-7B, layers: 4}
cluster: RTX-4090-workstation
routing: {generator: local, profile_tokens: 512}
workload: {tokens_per_device: 1, requests: {prompt: 12, output: 6}}
policies:
  - {name: on_demand, offload: {slots: 16}}
  - {name: hobbit, offload: {slots: 16}}
  - {name: hybrimoe, offload: {slots: 16}}
engine: {spans: 2}
"""


def printed(renderable: object, width: int = 100) -> str:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="utf-8", newline="\n")
    Console(file=out, width=width).print(renderable)
    out.flush()
    return raw.getvalue().decode()


@pytest.fixture(scope="module")
def compared() -> Comparison:
    return moesim.compare(loads_scenario(SMALL, ROOT / "scenarios"))


def test_a_run_tells_what_requests_wait_for(compared: Comparison) -> None:
    text = printed(render_result(compared["hybrimoe"]))
    for part in (
        "time to first token",
        "time per token",
        "tokens/s decoding",
        "of lookups",
        "on the CPU",
        "for loads",
        "per pass",
        "needed and in time",
        "of their bytes wasted",
        "J per output token, at rated power",
        "loading experts",
    ):
        assert part in text, part
    assert max(map(len, text.splitlines())) <= 100


def test_figures_that_have_no_basis_are_left_out(compared: Comparison) -> None:
    names = [name for name, _ in serving_lines(compared["on_demand"])]
    assert "prefetches" not in names
    assert "energy" in names
    (row,) = serving_rows([compared["on_demand"]])
    assert row[SERVING_HEADS.index("wasted")] == "-"


def test_text_and_json_agree(compared: Comparison) -> None:
    told = compared["hobbit"].offload
    assert told is not None
    lines = dict(serving_lines(compared["hobbit"]))
    assert lines["cache hits"].startswith(f"{100 * told['hit_rate']:.0f} % of lookups")
    assert lines["energy"].startswith(f"{told['energy_j_per_token']:.3g} J")


def test_a_comparison_has_a_second_table_that_fits(compared: Comparison) -> None:
    lines = printed(render_comparison(compared)).splitlines()
    assert max(map(len, lines)) <= 100
    head = next(line for line in lines if "first token" in line)
    assert all(name in head for name in SERVING_HEADS)
    after = lines[lines.index(head) + 1 : lines.index(head) + 4]
    assert [line.split()[0] for line in after] == ["on_demand", "hobbit", "hybrimoe"]
    assert "memo…" not in "\n".join(lines)


def test_other_runs_have_no_such_table() -> None:
    scenario = load_scenario(ROOT / "scenarios" / "llep-layer.yaml")
    result = moesim.simulate(scenario, "ep")
    assert serving_lines(result) == []
    assert "first token" not in printed(render_result(result))
    assert "Requests and caches" not in report_html(result)
    assert "lookups" not in result_plots(result)


def test_reports_have_the_figures_and_the_chart_of_lookups(compared: Comparison) -> None:
    for page in (report_html(compared), report_html(compared["hobbit"])):
        assert "Requests and caches of experts" in page
        assert "What caches answered" in page
    assert "first token" in report_html(compared)
    assert "time to first token" in compared["hobbit"]._repr_html_()
    assert "first token" in compared._repr_html_()


def test_charts_of_one_device_leave_its_load_out(compared: Comparison) -> None:
    names = comparison_plots(compared)
    assert "lookups" in names
    assert "load" not in names


def test_every_lookup_has_one_answer(compared: Comparison) -> None:
    for result in compared.results:
        shares = lookup_shares(result)
        assert sum(shares.values()) == pytest.approx(1.0)
        assert min(shares.values()) >= 0
    assert lookup_shares(compared["hybrimoe"])["on the CPU"] > 0
    assert lookup_shares(compared["on_demand"])["on the CPU"] == 0


def test_the_timeline_of_a_layer_is_that_of_a_token(compared: Comparison) -> None:
    result = compared["hybrimoe"]
    assert first_step(result) == 1
    axes = result.plot_layer(layer=1, layers=2).axes[0]
    assert axes.get_title(loc="left").startswith("Layers 1 to 2 of step 1 with hybrimoe")
    streams = [label.get_text() for label in axes.get_yticklabels()]
    assert streams == [f"0 {stream}" for stream in ("compute", "host", "cpu", "copy in", "copy out")]
    prompt = result.plot_layer(layer=1, step=0).axes[0]
    assert "Layer 1 of step 0" in prompt.get_title(loc="left")


def test_streams_of_a_timeline_stand_in_a_fixed_order(compared: Comparison) -> None:
    result: Result = compared["hybrimoe"]
    named = [json.loads(event) for event in events(result.spans)]
    threads = {event["tid"]: event["args"]["name"] for event in named if event.get("name") == "thread_name"}
    places = {
        threads[event["tid"]]: event["args"]["sort_index"]
        for event in named
        if event.get("name") == "thread_sort_index"
    }
    order = [name for name in sorted(places, key=lambda one: places[one]) if " 2" not in name]
    assert order == ["compute", "host", "cpu", "copy in", "copy out"]


def test_there_are_scenarios_that_offload() -> None:
    assert len(SCENARIOS) >= 5


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_that_offloads_runs_and_fits(path: Path) -> None:
    short = ["prompt=4", "output=3", "count=1"]
    given = [f"workload.requests.{one}" for one in short]
    if "trace:" not in path.read_text(encoding="utf-8"):
        given.append("routing.profile_tokens=512")
    scenario = load_scenario(path, overrides=given)
    assert 4 <= len(scenario.policy_names) <= 6
    for name in scenario.policy_names:
        result = moesim.simulate(scenario, name)
        assert not result.out_of_memory, name
        told = result.offload
        assert told is not None
        assert told["tpot_s"] > 0
        assert 0 <= told["hit_rate"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_that_offloads_says_what_its_comments_say(path: Path) -> None:
    comparison = moesim.compare(load_scenario(path))
    fastest = max(comparison.others, key=comparison.speedup)
    assert comparison.speedup(fastest) > 1.2


def test_the_cpu_cannot_compute_what_is_on_a_drive() -> None:
    scenario = loads_scenario(SMALL.replace("{slots: 16}", "{slots: 16, store: storage}"), ROOT / "scenarios")
    assert moesim.simulate(scenario, "on_demand").offload is not None
    with pytest.raises(InputError, match="they are on a drive"):
        moesim.simulate(scenario, "hybrimoe")
