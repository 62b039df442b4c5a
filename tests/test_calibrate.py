"""Calibrating cost models with own timings: constants come back, errors fall, nothing is half-written."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from moesim import yamlio
from moesim.accuracy import run
from moesim.accuracy.own import score
from moesim.accuracy.own.calibrate import calibrate
from moesim.accuracy.own.datasheet import read_datasheet
from moesim.accuracy.own.fitting import Score, cross_validated, fitted, folds_of
from moesim.accuracy.own.overlay import overlay, write_overlay
from moesim.accuracy.own.score import own_points
from moesim.cli import main
from moesim.errors import InputError
from moesim.hardware.attention_cost import AttentionConstants, attention_core_seconds
from moesim.hardware.calibration import kernel_for
from moesim.hardware.calibration_file import read_calibration
from moesim.hardware.catalogue import load_device
from moesim.hardware.dense_constants import attention_constants, gemm_constants
from moesim.hardware.dense_gemm import GemmConstants, dense_gemm_seconds
from moesim.hardware.grouped_gemm import ExpertShape, expert_layer_seconds
from moesim.hardware.grouped_kernels import count_groups
from moesim.hardware.grouped_work import GroupedConstants
from moesim.hardware.network_constants import node_links
from moesim.hardware.protocols import CollectiveConstants, collective_seconds

pytest.importorskip("scipy")

DEVICE = load_device("H100-SXM")
COMMON = {
    "device": DEVICE.name,
    "backend": "vllm/triton",
    "dtype": "bf16",
    "driver": "550.54",
    "library": "torch 2.9",
    "date": "2026-11-23",
}

SLOW_GEMM = replace(gemm_constants(DEVICE.name, "bf16"), mma=0.5, memory=0.6, launch_s=6e-6)
SLOW_LAYER = GroupedConstants(4e-5, 0.5, 0.3, 0.5, 4e-7, 3e-9)
SLOW_DECODE = replace(attention_constants(DEVICE.name, "gqa", "decode"), memory=0.4, launch_s=3e-5)
SLOW_LINKS = CollectiveConstants(2e-5, 1e-6, 4e-6, 2e-5, 1.2, 2.5, 20.0, 0.5)


def noise(rng) -> float:
    return float(np.exp(rng.normal(0.0, 0.03)))


def gemms(rng, count=30):
    for _ in range(count):
        m, n, k = int(2 ** rng.uniform(0, 13)), *(64 * int(2 ** rng.uniform(3, 8)) for _ in range(2))
        seconds = float(dense_gemm_seconds(DEVICE, SLOW_GEMM, m, n, k, "bf16"))
        yield {"family": "gemm", "m": m, "n": n, "k": k, "seconds": seconds * noise(rng)}


def layers(rng, count=30):
    kernel = kernel_for("vllm/triton", "bf16")
    for _ in range(count):
        hidden, inter, topk, experts = [(2048, 768, 8, 64), (4096, 14336, 2, 8)][rng.integers(2)]
        tokens = int(2 ** rng.uniform(0, 13))
        chosen = rng.permuted(np.tile(np.arange(experts), (tokens, 1)), axis=1)[:, :topk]
        counts = np.bincount(chosen.ravel(), minlength=experts)
        groups = count_groups(counts[None, :], kernel, top_k=topk, tokens=np.array([float(tokens)]))
        seconds = expert_layer_seconds(DEVICE, SLOW_LAYER, kernel, ExpertShape(hidden, inter), groups)
        shape = {
            "hidden": hidden,
            "inter": inter,
            "topk": topk,
            "experts": experts,
            "ep": 1,
            "tokens": tokens,
        }
        told = {"counts": ";".join(map(str, counts)), "seconds": float(seconds[0]) * noise(rng)}
        yield {"family": "moe", **shape, **told}


def decodes(rng, count=30):
    for _ in range(count):
        batch, context = int(2 ** rng.uniform(0, 8)), int(2 ** rng.uniform(6, 15))
        heads, kv_heads = [(32, 8), (64, 8), (16, 16)][rng.integers(3)]
        seconds = attention_core_seconds(
            *(DEVICE, SLOW_DECODE, "gqa", "decode"),
            batch=batch,
            queries=1,
            context=context,
            heads=heads,
            kv_heads=kv_heads,
        )
        shape = {"batch": batch, "queries": 1, "context": context, "heads": heads, "kv_heads": kv_heads}
        told = {"head_dim": 128, "window": 0, "seconds": float(seconds) * noise(rng)}
        yield {"family": "attention_decode", **shape, **told}


def exchanges(rng, count=30):
    rate = node_links(DEVICE.name).rate
    for number in range(count):
        devices, size = (2, 4, 8)[number % 3], int(2 ** rng.uniform(10, 29))
        seconds = float(collective_seconds("all_to_all", devices, size, rate, SLOW_LINKS))
        yield {"family": "all_to_all", "devices": devices, "bytes": size, "seconds": seconds * noise(rng)}


def copies(rng):
    for power in range(20, 30):
        seconds = 4e-6 + 2**power / (0.7 * DEVICE.memory.bandwidth)
        yield {"family": "memory", "bytes": 2**power, "seconds": seconds * noise(rng)}
    for graph, each in (("no", 6e-6), ("yes", 2e-6)):
        yield {"family": "launch", "kernels": 100, "graph": graph, "seconds": 100 * each}


MAKERS = {"gemm": gemms, "moe": layers, "attention_decode": decodes, "all_to_all": exchanges}


def write_csv(path, rows):
    rows = [{**COMMON, **row} for row in rows]
    for row in rows:
        row["latency_us"] = f"{row.pop('seconds') * 1e6:.6f}"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def timings(tmp_path_factory):
    rng = np.random.default_rng(7)
    rows = [row for make in (*MAKERS.values(), copies) for row in make(rng)]
    return write_csv(tmp_path_factory.mktemp("own") / "own.csv", rows)


@pytest.fixture(scope="module")
def report(timings):
    return calibrate(timings)


def one(report, family):
    return next(result for result in report.results if result.problem.family == family)


@pytest.mark.parametrize("family", MAKERS)
def test_thirty_rows_bring_the_error_down_to_the_noise(report, family):
    result = one(report, family)
    assert len(result.problem.rows) == 30
    assert result.before.median > 0.15
    assert result.after.median < 0.05
    assert result.within.median <= result.after.median * 1.2


@pytest.mark.parametrize(
    ("family", "truth"),
    [
        ("gemm", {"mma": 0.5, "memory": 0.6, "launch_s": 6e-6}),
        ("moe", {"launch_s": 4e-5, "memory": 0.5, "compute": 0.3}),
        ("attention_decode", {"memory": 0.4, "launch_s": 3e-5}),
        ("all_to_all", {"start_s": 2e-5, "through": 2.5}),
        ("memory", {"share": 0.7}),
    ],
)
def test_constants_behind_the_rows_come_back(report, family, truth):
    constants = one(report, family).constants
    for name, value in truth.items():
        assert constants[name] == pytest.approx(value, rel=0.15), name


def test_launches_in_a_graph_and_one_by_one_are_told_apart(report):
    found = {r.problem.label: r.constants["each_s"] for r in report.results if r.problem.family == "launch"}
    assert found == {"in a graph": pytest.approx(2e-6, rel=0.01), "one by one": pytest.approx(6e-6, rel=0.01)}


def test_loops_over_experts_tell_the_time_of_a_launch(tmp_path):
    rng = np.random.default_rng(5)
    names = ("hidden", "inter", "topk", "experts", "ep", "tokens")
    rows = []
    for number in range(12):
        counts = rng.multinomial(64 * (number + 1), np.full(16, 1 / 16))
        shape = dict(zip(names, (2048, 768, 4, 16, 1, 16 * (number + 1)), strict=True))
        told = {"counts": ";".join(map(str, counts)), "backend": "torch/loop", "seconds": 32 * 1.5e-5}
        rows.append({"family": "moe", **shape, **told})
    result = one(calibrate(write_csv(tmp_path / "own.csv", rows)), "moe")
    assert result.problem.place == ()
    assert result.constants["launch_s"] == pytest.approx(1.5e-5, rel=0.1)
    assert result.after.median < 0.1 < result.before.median


def test_rows_are_never_scored_by_constants_that_saw_them(report, monkeypatch):
    problem = one(report, "gemm").problem
    seen: list[set[int]] = []

    def spy(asked, rows):
        seen.append(set(rows["line"]))
        return fitted(asked, rows)

    monkeypatch.setattr("moesim.accuracy.own.fitting.fitted", spy)
    assert cross_validated(problem) is not None
    part, lines = folds_of(problem.rows), problem.rows["line"].to_numpy()
    held = [set(lines[part == number]) for number in range(5)]
    assert set.union(*held) == set(lines)
    assert sum(map(len, held)) == len(lines)
    assert [trained & left for trained, left in zip(seen, held, strict=True)] == [set()] * 5


def test_folds_do_not_follow_the_order_or_the_times(report):
    rows = one(report, "gemm").problem.rows
    turned = rows.iloc[::-1].assign(seconds=1.0, line=0)
    assert folds_of(turned).tolist() == folds_of(rows)[::-1].tolist()


def test_constants_that_rows_do_not_tell_stay_and_are_named(tmp_path):
    rows = [
        {"family": "gemm", "m": 8192, "n": 8192, "k": 1024 * k, "seconds": 1024 * k * 8192**2 * 2 / 5e14}
        for k in range(1, 13)
    ]
    result = one(calibrate(write_csv(tmp_path / "own.csv", rows)), "gemm")
    started = result.problem.start
    assert result.constants["split_s"] == pytest.approx(started["split_s"], rel=0.05)
    assert result.constants["mma"] < 0.8 * started["mma"]
    assert any("hardly tell" in note and "split_s" in note for note in result.warnings)


def test_constants_at_a_bound_are_named(tmp_path):
    rows = [
        {"family": "gemm", "m": 8192, "n": 8192, "k": 1024 * k, "seconds": 1024 * k * 8192**2 * 2 / 1.8e15}
        for k in range(1, 13)
    ]
    result = one(calibrate(write_csv(tmp_path / "own.csv", rows)), "gemm")
    assert any("mma stands at the bound" in note for note in result.warnings)


def test_a_file_of_constants_is_laid_out_as_the_packages(report, tmp_path):
    write_overlay(report, tmp_path / "c.yaml")
    data = yamlio.load(tmp_path / "c.yaml").data
    assert set(data) == {"source", "gemm", "grouped_gemm", "attention", "collectives"}
    assert GemmConstants(**data["gemm"]["H100-SXM"]["bf16"]).mma == pytest.approx(0.5, rel=0.1)
    grouped = data["grouped_gemm"]["H100-SXM"]["vllm/triton/bf16"]
    assert GroupedConstants.from_mapping(grouped).memory == pytest.approx(0.5, rel=0.15)
    decode = data["attention"]["gqa_decode"]["H100-SXM"]["bf16"]
    assert AttentionConstants(**decode).packing == SLOW_DECODE.packing
    assert CollectiveConstants.of(data["collectives"]["all_to_all"]["H100-SXM"]).start_s > 1e-5
    source = data["source"]
    assert (source["file"], source["rows"]) == ("own.csv", 132)
    assert (source["libraries"], source["drivers"], source["measured"]) == (
        ["torch 2.9"],
        ["550.54"],
        ["2026-11-23"],
    )
    assert set(source["device"]["H100-SXM"]) == {
        "memory vllm/triton",
        "launch in a graph",
        "launch one by one",
    }


def test_what_predicts_worse_is_not_written(report, tmp_path):
    spoilt = replace(report, results=(replace(report.results[0], before=replace_score(0.001)),))
    target = tmp_path / "c.yaml"
    target.write_text("kept")
    with pytest.raises(InputError, match=r"not written.*gemm bf16 \(0.1% before.*--force"):
        write_overlay(spoilt, target)
    assert target.read_text() == "kept"
    write_overlay(spoilt, target, force=True)
    assert yamlio.load(target).data["gemm"] == overlay_numbers(spoilt)
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def replace_score(median):
    return Score(median, median)


def overlay_numbers(report):
    numbers = overlay(report)["gemm"]["H100-SXM"]["bf16"]
    return {"H100-SXM": {"bf16": {name: pytest.approx(value, rel=1e-4) for name, value in numbers.items()}}}


def test_a_fit_needs_some_rows(tmp_path):
    rng = np.random.default_rng(1)
    path = write_csv(tmp_path / "own.csv", [*gemms(rng, 3), *exchanges(rng, 12)])
    with pytest.raises(InputError, match=r"own.csv:2: has 3 rows of gemm bf16 .* at least 10 .*--family"):
        calibrate(path)
    assert [r.problem.family for r in calibrate(path, families=["all_to_all"]).results] == ["all_to_all"]


SHEET = """
name: Mine
peak_flops: {bf16: 989 TFLOP/s}
memory: {capacity: 80 GB, bandwidth: 3.35 TB/s}
compute_units: 132
"""


@pytest.mark.parametrize(("sheet", "kin"), [(SHEET, "generic"), ("name: Mine\nbase: H100-SXM\n", "H100-SXM")])
def test_new_devices_start_from_generic_constants_or_their_siblings(tmp_path, sheet, kin):
    rng = np.random.default_rng(2)
    path = write_csv(tmp_path / "own.csv", [{**row, "device": "Mine"} for row in gemms(rng, 20)])
    (tmp_path / "mine.yaml").write_text(sheet)
    with pytest.raises(InputError, match="no device named 'Mine'"):
        calibrate(path)
    result = calibrate(path, str(tmp_path / "mine.yaml")).results[0]
    assert result.problem.place == ("gemm", "Mine", "bf16")
    assert result.problem.start["mma"] == gemm_constants(kin, "bf16").mma
    assert not result.problem.own
    assert result.after.median < 0.05 < result.before.median


def test_simulations_use_the_constants_as_they_were_fitted(tmp_path):
    rng = np.random.default_rng(4)
    (tmp_path / "mine.yaml").write_text(SHEET + "gemm_efficiency: 0.3\nmemory_efficiency: 0.4\n")
    rows = [{**row, "device": "Mine"} for make in (gemms, layers, decodes) for row in make(rng)]
    report = calibrate(write_csv(tmp_path / "own.csv", rows), str(tmp_path / "mine.yaml"))
    write_overlay(report, tmp_path / "c.yaml")
    mine, device = read_calibration(tmp_path / "c.yaml"), read_datasheet(tmp_path / "mine.yaml").device
    used = {
        "gemm": mine.gemm(device, "bf16"),
        "moe": mine.grouped(device, "bf16").constants,
        "attention_decode": mine.attention(device, "gqa", "decode"),
    }
    for family, constants in used.items():
        for name, value in one(report, family).constants.items():
            assert getattr(constants, name) == pytest.approx(value, rel=1e-4), (family, name)


def test_the_command_tells_before_and_after_and_writes(timings, tmp_path):
    out = tmp_path / "c.yaml"
    words = ["calibrate", str(timings), "--family", "gemm", "--out", str(out)]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, shown.output
    assert "before" in shown.stdout
    assert f"wrote {out}" in shown.stdout
    answer = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    (row,) = answer["rows"]
    assert (row["family"], row["count"], answer["written"]) == ("gemm", 30, str(out))
    assert row["after"]["median_ape"] < row["before"]["median_ape"]
    assert row["constants"]["mma"] == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--family", "gemms"], "did you mean 'gemm'"),
        (["--family", "permute"], "holds no rows of permute"),
        (["--device", "H100-SMX"], "did you mean"),
        (["--device", "A100-SXM-80GB"], "no row is of device 'A100-SXM-80GB'"),
        (["--out", "none/c.yaml"], "its folder does not exist"),
        (["--out", "."], "is a folder"),
    ],
)
def test_bad_choices_end_with_one_message(timings, monkeypatch, tmp_path, words, told):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["calibrate", str(timings), *words])
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_own_rows_are_scored_under_the_packages_constants(timings):
    found = {frame["family"].iloc[0]: frame for frame in own_points([timings])}
    assert set(found) == {"gemm", "moe", "attention_decode", "all_to_all"}
    gemm = found["gemm"]
    assert set(gemm["source"]) == {"own.csv"}
    assert set(gemm["protocol"]) == {"leave_model_out"}
    assert np.median(np.abs(gemm["error"])) == pytest.approx(
        one(calibrate(timings, families=["gemm"]), "gemm").before.median
    )


def test_generic_constants_count_as_another_device(tmp_path):
    rng = np.random.default_rng(3)
    path = write_csv(tmp_path / "own.csv", [{**row, "device": "MI300X"} for row in gemms(rng, 5)])
    (points,) = own_points([path])
    assert set(points["protocol"]) == {"leave_device_out"}


def test_accuracy_takes_own_files_and_those_of_the_repository(timings, tmp_path, monkeypatch):
    def lacking(*_):
        message = "the measured tables are not installed"
        raise InputError(message)

    monkeypatch.setattr(run, "measured_devices", lacking)
    monkeypatch.setattr(run, "check_device", lacking)
    with pytest.raises(InputError, match="not installed"):
        run.accuracy(family="gemm")
    rows = run.accuracy("H100-SXM", "gemm", timings=[timings]).rows
    assert rows[["source", "count"]].to_numpy().tolist() == [["own.csv", 30]]
    monkeypatch.setattr(run, "committed_files", lambda: [timings])
    assert run.accuracy(family="moe").rows["count"].tolist() == [30]
    shown = CliRunner().invoke(main, ["accuracy", "--family", "gemm", "--timings", str(timings), "--json"])
    assert {row["source"] for row in json.loads(shown.stdout)["rows"]} == {"own.csv"}


def test_committed_files_can_be_scored():
    for path in score.committed_files():
        assert own_points([path])
