"""Commands as a user types them: what stdout, stderr and the exit status hold."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from moesim import __version__, compare, load_scenario
from moesim.cli import main
from moesim.results.render import render_comparison

TINY = str(Path(__file__).parent / "data" / "tiny.yaml")
CAUSES = [
    *("attention", "all_reduce", "dense", "gate", "permute", "launch", "planning", "dispatch"),
    *("weight_move", "experts", "expert_load", "cpu_experts", "combine", "unpermute", "wait", "migration"),
]


def moesim(*words, status=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result


def as_json(*words):
    return json.loads(moesim(*words, "--json").stdout)


def test_simulate_prints_the_promised_keys():
    found = as_json("simulate", TINY)
    assert list(found) == [
        "scenario",
        "seed",
        "version",
        "latency_s",
        "throughput_tokens_per_s",
        "peak_memory_bytes",
        "out_of_memory",
        "bound_s",
        "breakdown_s",
        "wall_s",
        "events",
        "notes",
        "exact",
        "dropped_copies",
        "changed_tokens",
        "offload",
    ]
    assert (found["scenario"], found["seed"], found["version"]) == ("tiny", 1, __version__)
    assert list(found["latency_s"]) == ["mean", "p50", "p95", "p99"]
    assert list(found["breakdown_s"]) == CAUSES
    assert sum(found["breakdown_s"].values()) == pytest.approx(found["latency_s"]["mean"], rel=1e-9)
    assert 0 < found["bound_s"] <= found["latency_s"]["mean"]
    assert found["throughput_tokens_per_s"] == pytest.approx(256 / found["latency_s"]["mean"], rel=1e-2)
    assert found["wall_s"] > 0


def test_no_timing_leaves_the_clock_out():
    quiet = moesim("simulate", TINY, "--json", "--no-timing")
    assert json.loads(quiet.stdout)["wall_s"] is None
    assert quiet.stderr == ""


def test_the_clock_goes_to_stderr_in_tables():
    told = moesim("simulate", TINY)
    assert "simulated in" in told.stderr
    assert "simulated in" not in told.stdout
    assert told.stdout == moesim("simulate", TINY, "--no-timing").stdout


def test_tables_have_no_blanks_at_the_end_of_lines():
    for line in moesim("compare-policies", TINY).stdout.splitlines():
        assert line == line.rstrip()


def test_compare_prints_the_promised_keys():
    found = as_json("compare-policies", TINY)
    assert list(found) == ["baseline", "policies"]
    assert found["baseline"] == "ep"
    assert [policy["name"] for policy in found["policies"]] == ["ep", "eplb", "llep"]
    for policy in found["policies"]:
        assert list(policy) == [
            "name",
            "parameters",
            "latency_s",
            "speedup",
            "peak_memory_bytes",
            "memory_ratio",
            "bound_fraction",
            "imbalance",
            "out_of_memory",
            "breakdown_s",
            "notes",
            "exact",
            "dropped_copies",
            "changed_tokens",
            "offload",
        ]
        assert 0 < policy["bound_fraction"] <= 1
    assert found["policies"][0]["speedup"] == found["policies"][0]["memory_ratio"] == 1


def test_policies_and_baseline_can_be_chosen():
    found = as_json(
        "compare-policies", TINY, "--policies", " llep, round_robin ", "--baseline", "round_robin"
    )
    assert found["baseline"] == "round_robin"
    assert [policy["name"] for policy in found["policies"]] == ["llep", "round_robin"]
    llep, base = found["policies"]
    assert llep["speedup"] == pytest.approx(base["latency_s"]["mean"] / llep["latency_s"]["mean"])


def test_simulating_a_policy_agrees_with_comparing_it():
    alone = as_json("simulate", TINY, "--policy", "llep")
    beside = as_json("compare-policies", TINY)["policies"][2]
    for key in ("latency_s", "peak_memory_bytes", "breakdown_s"):
        assert alone[key] == beside[key]


@pytest.mark.parametrize("command", ["simulate", "compare-policies"])
def test_the_seed_decides_everything(command):
    first = moesim(command, TINY, "--json", "--no-timing", "--seed", "5").stdout
    assert first == moesim(command, TINY, "--json", "--no-timing", "--seed", "5").stdout
    assert first != moesim(command, TINY, "--json", "--no-timing", "--seed", "6").stdout


def test_set_reaches_nested_values_and_named_policies():
    changed = as_json(
        "compare-policies",
        TINY,
        *("--set", "workload.tokens_per_device=[64, 64, 64, 8]"),
        *("--set", "policies.llep.dispatch.alpha=1.25", "--set", "cluster.intra.latency=4 us"),
    )
    assert changed["policies"][2]["parameters"]["dispatch"]["alpha"] == 1.25
    plain = as_json("compare-policies", TINY)
    assert changed["policies"][0]["breakdown_s"]["dispatch"] > plain["policies"][0]["breakdown_s"]["dispatch"]


@pytest.mark.parametrize("detail", ["array", "events"])
@pytest.mark.parametrize(
    "settings",
    [
        ["workload.tokens_per_device=0"],
        ["workload.tokens_per_device=[0, 0, 0, 5]"],
        ["cluster.devices_per_node=1"],
        ["model.num_routed_experts=4", "policies.eplb.placement.redundant=0"],
        ["model.top_k=8"],
        ["model.num_routed_experts=1", "model.top_k=1", "parallelism.ep=1"],
        ["model.num_layers=1", "workload.steps=1", "workload.moe_only=true"],
    ],
    ids=lambda settings: settings[0],
)
def test_the_smallest_runs_work(settings, detail):
    words = [word for setting in settings for word in ("--set", setting)]
    found = as_json("compare-policies", TINY, "--set", f"engine.detail={detail}", *words)
    for policy in found["policies"]:
        assert policy["latency_s"]["mean"] >= 0
        assert policy["bound_fraction"] <= 1


def test_out_holds_the_run_and_can_be_replaced(tmp_path):
    out = tmp_path / "new" / "run"
    told = moesim("simulate", TINY, "--out", out, "--no-timing")
    assert f"wrote {out}" in told.stderr
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {"report.html", "scenario.yaml", "run.json", "timeline.json"} <= {path.name for path in before}
    moesim("simulate", TINY, "--out", out, "--no-timing")
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert [path.name for path in out.parent.iterdir()] == ["run"]


def test_out_holds_a_comparison(tmp_path):
    printed = as_json("compare-policies", TINY, "--policies", "llep", "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == printed
    assert (tmp_path / "run" / "policies" / "llep" / "report.html").is_file()


def test_the_resolved_scenario_gives_the_same_run(tmp_path):
    moesim("simulate", TINY, "--out", tmp_path / "run", "--seed", "9", "--set", "workload.steps=3")
    again = as_json("simulate", tmp_path / "run" / "scenario.yaml")
    first = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {**again, "wall_s": 0} == {**first, "wall_s": 0}


@pytest.mark.parametrize(
    "kind", ["models", "hardware", "links", "policies", "generators", "importers", "papers", "scenarios"]
)
def test_lists_are_tables_and_json(kind):
    words = ["list", kind, *([Path(TINY).parent] if kind == "scenarios" else [])]
    rows = as_json(*words)[kind]
    text = moesim(*words).stdout
    assert rows
    assert f"{len(rows)} {kind}" in text
    for row in rows:
        assert (row.get("name") or row["file"]) in text


def test_an_empty_directory_has_no_scenarios(tmp_path):
    assert moesim("list", "scenarios", tmp_path).stdout == "no scenarios\n"
    assert as_json("list", "scenarios", tmp_path) == {"scenarios": []}


def test_the_schema_is_json():
    assert json.loads(moesim("schema").stdout)["$schema"].startswith("https://json-schema.org/")


def test_traces_are_generated_looked_at_and_replayed(tmp_path):
    made = ["trace", "generate", "zipf", tmp_path / "a", "--experts", 8, "--top-k", 2, "--layers", 2]
    made += ["--set", "exponent=1.1", "--seed", 4, "--tokens", 512]
    assert moesim(*made).stdout == ""
    made[3] = tmp_path / "b"
    moesim(*made)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    facts = as_json("trace", "info", tmp_path / "a")
    assert (facts["experts"], facts["top_k"], facts["layers"]) == (8, 2, [0, 1])
    assert "zipf" in moesim("trace", "info", tmp_path / "a").stdout
    moesim(*made, status=2)
    moesim(*made, "--overwrite")
    replayed = as_json("simulate", TINY, "--set", f"routing.trace={tmp_path / 'a'}")
    assert replayed["latency_s"]["mean"] > 0


def test_selected_experts_are_imported(tmp_path):
    tokens = [[[0, 1], [2, 3]], [[3, 2], [1, 0]]]
    (tmp_path / "ids.json").write_text(json.dumps({"experts": 4, "tokens": tokens}))
    moesim("trace", "import", "json", tmp_path / "ids.json", tmp_path / "t", "--set", "layers=3,7")
    facts = as_json("trace", "info", tmp_path / "t")
    assert (facts["tokens"], facts["experts"], facts["layers"]) == (2, 4, [3, 7])


def test_a_trace_goes_out_to_parquet_and_back(tmp_path):
    pytest.importorskip("pyarrow")
    tokens = [[[0, 1], [2, 3]], [[3, 2], [1, 0]]]
    (tmp_path / "ids.json").write_text(json.dumps({"experts": 4, "tokens": tokens}))
    moesim("trace", "import", "json", tmp_path / "ids.json", tmp_path / "t", "--set", "layers=3,7")
    moesim("trace", "export", tmp_path / "t", tmp_path / "t.parquet")
    moesim("trace", "import", "parquet", tmp_path / "t.parquet", tmp_path / "back")
    there, back = as_json("trace", "info", tmp_path / "t"), as_json("trace", "info", tmp_path / "back")
    same = set(there) - {"name", "bytes", "provenance"}
    assert {key: back[key] for key in same} == {key: there[key] for key in same}


@pytest.mark.parametrize("width", [60, 80, 100])
def test_names_stay_whole_on_narrow_terminals(width):
    comparison = compare(load_scenario(TINY))
    console = Console(width=width, record=True, file=StringIO())
    console.print(render_comparison(comparison, width=width))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines[3:6]] == ["ep", "eplb", "llep"]
    assert ("p99" in lines[2]) == (width == 100)
    assert width < 80 or "…" not in lines[2] + lines[3]
