"""``moesim trace locality`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from moesim.cli import main
from moesim.routing import CountsWriter, RoutingTrace, TraceWriter
from moesim.routing.locality import measure_locality, published_model, select_accesses

TRACE = str(Path(__file__).parents[1] / "traces" / "pystdlib-moe-6x32")
SHORT = ("--sequences", "6", "--layers", "0,2-3")


def random_trace(path):
    ids = np.random.default_rng(0).random((40, 1, 8)).argsort(axis=2)[..., :2]
    with TraceWriter(path, model="m", experts=8, top_k=2, layers=(0,)) as writer:
        writer.append(ids)
    return path


def moesim(*words, status=0):
    result = CliRunner().invoke(main, ["trace", "locality", *map(str, words)])
    assert result.exit_code == status, result.output
    return result


def test_json_holds_what_python_measures():
    found = json.loads(moesim(TRACE, *SHORT, "--task", "prose", "--windows", "4, 32", "--json").stdout)
    selection = select_accesses(RoutingTrace.open(TRACE), layers=(0, 2, 3), task="prose", sequences=6)
    profile = measure_locality(selection.accesses, layers=selection.layers, windows=(4, 32))
    assert (found["tokens"], found["layers"]) == (6 * 256, [0, 2, 3])
    for row in found["consistency"]:
        wanted = profile.consistency[row["window"]]
        assert row["srp"] == float(wanted.model.srp)
        assert [one["srp"] for one in row["per_layer"]] == wanted.layers.srp.tolist()
        assert [one["distinct"] for one in row["per_layer"]] == wanted.distinct.tolist()
    rates = {row["policy"]: row for row in found["hit_rates"]}
    assert list(rates) == ["lru", "lfu", "belady", "sch4", "sch32"]
    assert rates["sch32"]["rates"] == profile.rates("sch32").tolist()
    assert rates["lru"]["knee"]["ratio"] == profile.knee("lru").ratio
    assert found["reuse"]["adjacent"] == pytest.approx(profile.reuse.adjacent.mean())
    assert found["beside"]["model"] == found["nearest"][0]["model"]
    assert found["plot"] is None


def test_the_table_shows_the_trace_and_the_published_model():
    out = moesim(TRACE, *SHORT, "--beside", "deepseek-v2", "--per-layer").stdout
    assert "beside DeepSeek-V2-Lite (top-6 of 64) as published" in out
    assert max(map(len, out.splitlines())) <= 100
    model = published_model("DeepSeek-V2-Lite")
    assert f"{model.srp_at(16):.1%}" in out
    assert f"{100 * model.curve('lru')[2.0]:.1f}" in out
    assert out.count("\nSCH 16") == 2
    assert "nearest published: " in out
    heads = next(line for line in out.splitlines() if line.startswith("layer "))
    assert heads.split()[-2:] == ["top", "1/4"]


def test_one_cache_for_all_layers():
    words = (TRACE, "--sequences", "2", "--length", "64", "--layers", "0-1", "--windows", "4")
    layer, whole = (
        json.loads(moesim(*words, "--scope", scope, "--json").stdout) for scope in ("layer", "global")
    )
    assert layer["consistency"] == whole["consistency"]
    sizes = [len(found["hit_rates"][0]["by_size"]) for found in (layer, whole)]
    assert sizes == [32, 64]
    assert any("--scope global" in note for note in layer["notes"])
    assert not whole["notes"]


@pytest.mark.parametrize(("name", "begin"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml")])
def test_a_plot_is_written(tmp_path, name, begin):
    told = moesim(TRACE, *SHORT, "--plot", tmp_path / name, "--beside", "olmoe")
    image = (tmp_path / name).read_bytes()
    assert image.startswith(begin)
    assert f"wrote {tmp_path / name}" in told.stderr
    if begin == b"<?xml":
        for text in (b"OLMoE-1B-7B-0125 as published", b"Belady", b"LRU", b"LFU", b"segment cache", b"knee"):
            assert text in image
        moesim(TRACE, *SHORT, "--plot", tmp_path / "b.svg", "--beside", "olmoe")
        assert (tmp_path / "b.svg").read_bytes() == image


def test_the_name_of_a_trace_is_no_formula(tmp_path):
    moesim(random_trace(tmp_path / "a$_{$b"), "--windows", "4", "--plot", tmp_path / "p.svg")
    assert b"a$_{$b" in (tmp_path / "p.svg").read_bytes()


def test_windows_longer_than_every_sequence_are_left_out_and_said():
    out = moesim(TRACE, *SHORT, "--length", "32").stdout
    assert "too few for windows of 64, 256" in " ".join(out.split())
    assert "SCH 16" in out
    assert "SCH 64" not in out.partition("published\nLRU")[0]


def test_a_trace_of_single_tokens(tmp_path):
    with TraceWriter(tmp_path / "t", model="m", experts=4, top_k=2, layers=(0,)) as writer:
        for number in range(3):
            writer.append(np.array([[[number, 3]]]), sequence=number)
    out = moesim(tmp_path / "t", "--windows", "1").stdout
    assert "shared with the token before" in out
    assert "nan" not in out


def test_counts_are_refused(tmp_path):
    with CountsWriter(tmp_path / "c", model="m", experts=4, top_k=1, layers=(0,)) as writer:
        writer.append(np.array([[1, 2, 3, 4]]))
    told = moesim(tmp_path / "c", status=2)
    assert "holds counts per step only; locality needs the experts of each token" in told.stderr
    assert told.stdout == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--beside", "olmoo"), "did you mean 'OLMoE-1B-7B-0125'"),
        (("--beside", "qwen"), "part of the names of several"),
        (("--windows", "4,x"), "'x' is neither a whole number nor a range"),
        (("--windows", "0"), "at least one token"),
        (("--windows", "300"), "longest sequence has 256 tokens"),
        (("--layers", "5-2"), "from low to high"),
        (("--layers", "0-99999999"), "at most 100,000"),
        (("--layers", "6"), "no layer 6"),
        (("--task", "proze"), "did you mean 'prose'"),
        (("--phase", "decode"), "no token of the trace"),
        (("--plot", "a.pdf"), "a .png or .svg file"),
        (("--plot", "no-such-folder/a.png"), "folder does not exist"),
        (("--sequences", "0"), "--sequences"),
    ],
)
def test_bad_input_is_one_message(words, message):
    told = moesim(TRACE, *words, status=2)
    assert message in told.stderr
    assert told.stdout == ""
