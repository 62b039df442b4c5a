from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from moesim.errors import InputError
from moesim.results import Result, load_comparison, load_result, save, store
from moesim.results.columns import TABLES
from moesim.results.directory import files_below
from moesim.results.tables_io import read_table, write_table


@pytest.fixture(scope="module")
def plain_plots():
    """Charts are tested elsewhere; here one small chart stands for all."""
    from moesim.results.plots import gallery

    patch = pytest.MonkeyPatch()
    patch.setattr(gallery, "result_plots", lambda result, names=None: {"breakdown": result.plot_breakdown()})
    yield
    patch.undo()


def content(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in files_below(directory)}


@pytest.mark.usefixtures("plain_plots")
def test_a_run_comes_back_as_it_was(make_result, tmp_path):
    result = make_result(moved=2)
    result.save(tmp_path / "run")
    back = load_result(tmp_path / "run")
    assert back.summary() == result.summary()
    assert (back.policy, back.parameters, back.scenario) == (
        result.policy,
        result.parameters,
        result.scenario,
    )
    for name, frame in result.tables.items():
        pd.testing.assert_frame_equal(back.tables[name], frame)
        assert back.tables[name].attrs == frame.attrs


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_keep_every_bit(make_result, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    for name, frame in make_result(moved=1).tables.items():
        path = tmp_path / f"{name}{suffix}"
        write_table(frame, path)
        pd.testing.assert_frame_equal(read_table(TABLES[name], path), frame, check_exact=True)


def test_names_that_look_like_missing_values_survive_csv(make_tables, tmp_path):
    tables = make_tables(1.0)
    tables["memory"]["owner"] = ["NA" if o == "experts" else o for o in tables["memory"]["owner"]]
    frame = Result.from_tables(tables, name="toy", policy="ep").memory
    write_table(frame, tmp_path / "memory.csv")
    pd.testing.assert_frame_equal(read_table(TABLES["memory"], tmp_path / "memory.csv"), frame)


@pytest.mark.usefixtures("plain_plots")
def test_the_same_run_gives_the_same_bytes_without_timing(make_result, tmp_path):
    save(make_result(moved=1), tmp_path / "a", timing=False)
    save(make_result(moved=1), tmp_path / "b", timing=False)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["wall_s"] is None


@pytest.mark.usefixtures("plain_plots")
def test_the_manifest_names_versions_seed_and_every_file(make_result, tmp_path):
    make_result().save(tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["files"] == files_below(tmp_path / "run")
    assert manifest["seed"] == 7
    assert {"python", "numpy", "pandas", "simpy"} <= manifest["versions"].keys()
    assert manifest["scenario"]["cluster"]["rate"] == 9e11


@pytest.mark.usefixtures("plain_plots")
def test_an_earlier_run_is_replaced_and_nothing_else_left(make_result, tmp_path):
    make_result("ep").save(tmp_path / "run")
    make_result("eplb", 0.2).save(tmp_path / "run")
    assert load_result(tmp_path / "run").policy == "eplb"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_directory_of_other_things_is_left_alone(make_result, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not an earlier run"):
        make_result().save(tmp_path)
    assert content(tmp_path) == {"thesis.txt": b"years of work"}


@pytest.mark.usefixtures("plain_plots")
def test_notes_beside_an_earlier_run_are_not_deleted(make_result, tmp_path):
    make_result().save(tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        make_result().save(tmp_path / "run")
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_a_file_in_the_way_is_refused(make_result, tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(InputError, match="this is a file"):
        make_result().save(tmp_path / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_may_not_be_written_is_one_clear_error(make_result, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot write the run"):
        make_result().save(tmp_path / "run")


@pytest.mark.usefixtures("plain_plots")
def test_a_failure_half_way_leaves_the_earlier_run(make_result, tmp_path, monkeypatch):
    make_result("ep").save(tmp_path / "run")
    before = content(tmp_path / "run")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_timeline", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        make_result("eplb").save(tmp_path / "run")
    assert content(tmp_path / "run") == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.usefixtures("plain_plots")
@pytest.mark.parametrize(
    "damage", ["no manifest", "cut", "other", "newer", "table", "gone", "escape", "keys"]
)
def test_a_damaged_run_is_one_clear_error(make_result, tmp_path, damage):
    run = make_result().save(tmp_path / "run")
    manifest = json.loads((run / "run.json").read_text())
    table = run / manifest["tables"]["steps"]["file"]
    if damage == "no manifest":
        (run / "run.json").unlink()
    elif damage == "table":
        table.write_bytes(table.read_bytes()[:-1])
    elif damage == "gone":
        table.unlink()
    else:
        change = {
            "other": {"format": "zip"},
            "newer": {"format_version": 99},
            "escape": {"tables": {"steps": {"file": "../x", "sha256": ""}}},
            "keys": {"tables": {"colours": {}}},
            "cut": {},
        }[damage]
        text = json.dumps(manifest | change)
        (run / "run.json").write_text(text[: len(text) // 2] if damage == "cut" else text)
    with pytest.raises(InputError, match="run"):
        load_result(run)


@pytest.mark.usefixtures("plain_plots")
def test_a_comparison_comes_back_with_all_its_runs(make_comparison, tmp_path):
    comparison = make_comparison()
    comparison.save(tmp_path / "out", timing=False)
    back = load_comparison(tmp_path / "out")
    assert back.to_dict() == comparison.to_dict()
    assert back.explain() == comparison.explain()
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == comparison.to_dict()
    assert load_result(tmp_path / "out" / "policies" / "llep").policy == "llep"
    with pytest.raises(InputError, match="load_comparison"):
        load_result(tmp_path / "out")


@pytest.mark.usefixtures("plain_plots")
def test_policy_names_cannot_lead_out_of_the_directory(make_result, tmp_path):
    from moesim.results import Comparison

    names = ["../../up", "a", "A", "", "a-2"]
    Comparison([make_result(name) for name in names]).save(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [result.policy for result in load_comparison(tmp_path / "out").results] == names
