"""The script that times a GPU: what it would time, how it keeps rows, and a smoke run on a CPU."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from moesim.accuracy.own.columns import OWN_FAMILIES, known_columns
from moesim.accuracy.own.reader import read_timings
from moesim.cli import main

ROOT = Path(__file__).resolve().parents[1]
GPU = ROOT / "benchmarks" / "gpu"
BACKENDS = ["torch/loop", "torch/cutlass", "own/triton", "vllm/triton"]


@pytest.fixture(scope="module")
def script():
    """Import the modules of the script that need no torch, as the script does."""
    sys.path.insert(0, str(GPU))
    names = ("cases", "record", "measure")
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(GPU))
    for name in (*names, "kernels", "timing"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def about():
    return {"device": "H100-SXM", "driver": "550", "library": "torch 2.9", "date": "2026-11-23"}


def as_row(case, about):
    return {**about, **case.columns(), "cache": "cold", "latency_us": "50"}


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("fp8", [True, False])
def test_every_case_makes_a_row_that_the_reader_takes(script, about, tmp_path, quick, fp8):
    cases = script["cases"].gpu_cases(BACKENDS, quick=quick, fp8=fp8)
    record = script["record"].Record(tmp_path / "own.csv")
    for case in cases:
        row = as_row(case, about)
        assert not record.has(row), f"{case} is there twice"
        record.add(row)
    rows = read_timings(tmp_path / "own.csv").rows
    assert len(rows) == len(cases)
    assert set(rows["family"]) == set(script["cases"].FAMILIES)
    assert ("fp8" in set(rows["dtype"])) == fp8


def test_even_quick_runs_give_every_fit_its_rows(script):
    groups: dict[tuple[str, ...], int] = {}
    for case in script["cases"].gpu_cases(BACKENDS, quick=True, fp8=True):
        told = case.shape.get("pinned", case.shape.get("graph", case.backend))
        key = (case.family, case.dtype, str(told))
        groups[key] = groups.get(key, 0) + 1
    for (family, *_), count in groups.items():
        assert count >= OWN_FAMILIES[family].minimum


def test_cases_cover_few_and_many_experts_and_three_loads(script):
    layers = [c for c in script["cases"].gpu_cases(BACKENDS, quick=False, fp8=False) if c.family == "moe"]
    assert {len(case.counts) for case in layers} >= {4, 128}
    assert {case.backend for case in layers} == set(BACKENDS)


@pytest.mark.parametrize("load", ["balanced", "power_law", "hot"])
@pytest.mark.parametrize(("tokens", "topk", "experts"), [(16, 8, 128), (4096, 8, 32), (1024, 2, 4)])
def test_loads_deal_out_every_pair(script, load, tokens, topk, experts):
    counts = script["cases"].draw_counts(load, tokens, topk, experts)
    assert counts == script["cases"].draw_counts(load, tokens, topk, experts)
    assert sum(counts) == tokens * topk
    assert max(counts) <= tokens
    assert min(counts) >= 0
    if load == "balanced":
        assert max(counts) - min(counts) <= 1
    else:
        assert max(counts) >= 1.5 * tokens * topk / experts


def test_a_run_goes_on_where_it_stopped(script, about, tmp_path):
    path = tmp_path / "own.csv"
    first, second = (as_row(case, about) for case in script["cases"].smoke_cases()[:2])
    script["record"].Record(path).add(first)
    with path.open("a") as stream:
        stream.write("gemm,H100-SXM,bf1")  # ended while it wrote
    again = script["record"].Record(path)
    assert again.has({**first, "latency_us": "70", "date": "2026-12-01"})
    assert not again.has(second)
    assert not again.has({**first, "library": "torch 3.0"})
    again.add(second)
    assert len(read_timings(path).rows) == 2


def test_other_files_are_left_alone(script, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(script["record"].WrongFileError, match="other columns"):
        script["record"].Record(path)
    assert path.read_text() == "a,b\n1,2\n"


def test_columns_are_those_of_the_reader(script, about, tmp_path):
    assert set(script["record"].COLUMNS) <= set(known_columns())
    with pytest.raises(ValueError, match="no columns for speed"):
        script["record"].Record(tmp_path / "own.csv").add({**about, "speed": "1"})


@pytest.mark.parametrize(
    ("full", "name"),
    [
        ("NVIDIA H200", "H200-SXM"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA A100-SXM4-40GB", "A100-SXM-40GB"),
        ("NVIDIA A100 80GB PCIe", None),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA L40S", "L40S"),
    ],
)
def test_names_of_gpus_lead_to_the_catalogue(script, full, name):
    from moesim.hardware.catalogue import device_names

    found = script["measure"].catalogue_name(full)
    assert found == (name or "A100-PCIe-80GB")
    assert found in device_names()


def test_unknown_gpus_keep_their_own_name(script):
    assert (
        script["measure"].catalogue_name("NVIDIA GeForce RTX 5090 (laptop)")
        == "NVIDIA-GeForce-RTX-5090-laptop"
    )


def test_all_names_of_the_catalogue_exist(script):
    from moesim.hardware.catalogue import device_names

    assert {name for _, name in script["measure"].CATALOGUE} <= set(device_names())


def test_without_nvidia_smi_nothing_is_told_of_clocks(script, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert script["measure"].nvidia_smi("0") == {}


def test_without_cuda_it_says_so_once(script, tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert script["measure"].main([]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert "no CUDA device" in told.err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_keeps_the_rows_and_says_so(script, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    timing = importlib.import_module("timing")
    taken = []

    def take(self, case):
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(case)
        return timing.Timing.of([2e-5, 3e-5, 4e-5])

    monkeypatch.setattr(timing.Stopwatch, "take", take)
    out = tmp_path / "own.csv"
    assert script["measure"].main(["--device", "cpu", "--out", str(out)]) == 130
    assert "keeps 3 rows" in capsys.readouterr().err
    assert read_timings(out).rows["seconds"].tolist() == pytest.approx([3e-5] * 3)


def test_a_smoke_run_can_be_calibrated(script, tmp_path, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("scipy")
    out, sheet, constants = (tmp_path / name for name in ("smoke.csv", "cpu.yaml", "c.yaml"))
    assert script["measure"].main(["--device", "cpu", "--out", str(out)]) == 0
    rows = read_timings(out).rows
    assert set(rows["smoke"]) == {"yes"}
    assert script["measure"].main(["--device", "cpu", "--out", str(out)]) == 0
    assert f"holds {len(rows)} rows" in capsys.readouterr().err
    assert len(read_timings(out).rows) == len(rows)
    # far above any CPU, so that no busy or fast machine is found impossible
    sheet.write_text(
        "name: this-cpu\npeak_flops: {fp32: 500 GFLOP/s, bf16: 500 GFLOP/s}\n"
        "memory: {capacity: 16 GB, bandwidth: 200 GB/s}\ncompute_units: 1\n"
    )
    words = ["calibrate", str(out), "--device", str(sheet), "--out", str(constants), "--json", "--force"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert {row["family"] for row in json.loads(result.stdout)["rows"]} == {
        "gemm",
        "moe",
        "memory",
        "permute",
    }
    assert constants.read_text().startswith("# Constants")
