"""Bad input: exit status 2, nothing on stdout, one message on stderr that says where, nothing written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from moesim import experiment
from moesim.cli import main

TINY = str(Path(__file__).parent / "data" / "tiny.yaml")


def refused(*words, status=2):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("moesim")
    return result.stderr


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "broken.yaml").write_text("a: [1,\nb: 2\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "directory").mkdir()
    return tmp_path


@pytest.mark.parametrize("command", ["simulate", "compare-policies"])
@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("missing.yaml", "missing.yaml: cannot read the file: No such file"),
        ("directory", "directory: cannot read the file: Is a directory"),
        ("binary.yaml", "binary.yaml:2:118: the file is not text"),
        ("empty.yaml", "empty.yaml:1:1: "),
        ("broken.yaml", "broken.yaml:3:1: "),
        ("list.yaml", "list.yaml:1:1: "),
    ],
)
def test_files_that_are_no_scenario(folder, command, file, says):
    assert says in refused(command, folder / file)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "workload.stepz=3"], "did you mean 'steps'?"),
        (["--set", "workload"], "dotted.key=value"),
        (["--set", "workload.steps=[1"], "not valid YAML"),
        (["--set", "workload.steps.deep=1"], "workload.steps"),
        (["--set", "policies.llpe.dispatch.alpha=2"], "did you mean 'llep'?"),
        (["--set", "model.top_k=9"], "number of experts"),
        (["--set", "parallelism.ep=3"], "does not divide"),
        (["--set", "routing.exponent=.nan"], "exponent"),
        (["--set", "routing.trace=nowhere"], "nowhere"),
        (["--set", "model=Mixtral-8x77B"], "did you mean 'Mixtral-8x7B'?"),
        (["--seed", "-1"], "'--seed'"),
        (["--seed", "9" * 30], "--seed"),
        (["--out", TINY], "this is a file"),
        (["--out", TINY + "/x"], "is not a directory"),
        (["--nope"], "No such option '--nope'"),
        (["extra"], "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_options_of_a_run(words, says):
    assert says in refused("simulate", TINY, *words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--policies", "ep,lleep"], "did you mean 'llep'?"),
        (["--policies", "ep,ep"], "policy 'ep' is there twice"),
        (["--policies", ","], "at least one policy"),
        (["--baseline", "epbl"], "did you mean 'eplb'?"),
        (["--policies", "ep", "--baseline", "llep"], "no policy in this comparison named 'llep'"),
        (["--workers", "0"], "'--workers'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_names_are_checked_before_the_first_step(monkeypatch, words, says):
    monkeypatch.setattr(experiment, "run", lambda *_: pytest.fail("a step ran"))
    assert says in refused("compare-policies", TINY, *words)


def test_errors_inside_workers_read_the_same():
    setting = "parallelism.ep=3"
    alone, beside = (refused("compare-policies", TINY, "--set", setting, "--workers", n) for n in (1, 3))
    assert alone == beside
    assert setting in alone


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["simulate", TINY, "--policy", "epllb"], "did you mean 'eplb'?"),
        (["reproduce", "leep"], "did you mean 'llep'?"),
        (["reproduce", "llep", "--json", "--csv"], "exclude each other"),
        (["list", "modls"], "models"),
        (["simulat"], "Did you mean 'simulate'?"),
        (["list", "scenarios", "nowhere"], "no directory 'nowhere'"),
        (["trace", "info", "nowhere"], "no routing trace at 'nowhere'"),
        (["trace", "info", TINY], "tiny.yaml"),
        (["trace", "import", "esff", "a", "b"], "did you mean 'esft'?"),
        (["trace", "import", "json", TINY, "b", "--set", "foo=1"], "foo"),
        (["trace", "import", "json", TINY, "b", "--set", "target=1"], "use TARGET"),
        (["trace", "generate", "zipff", "t", "--experts", "8", "--top-k", "2"], "did you mean 'zipf'?"),
        (["trace", "generate", "zipf", "t", "--experts", "8", "--top-k", "9"], "top_k"),
        (
            ["trace", "generate", "zipf", "t", "--experts", "8", "--top-k", "2"],
            "needs the parameter 'exponent'",
        ),
        (["trace", "generate", "zipf", "t", "--experts", "8"], "--top-k"),
        (
            ["trace", "generate", "zipf", "t", "--experts", "8", "--top-k", "2", "--set", "seed=1"],
            "use --seed",
        ),
        (["trace", "record", "t", "--set", "stepz=1"], "did you mean 'steps'?"),
        (["trace", "record", "t", "--set", "steps.x=1"], "steps"),
        (["trace", "record", "t", "--set", "architecture=1"], "architecture.NAME=VALUE"),
        (
            ["trace", "record", "t", "--set", "architecture.layers=2", "--set", "architecture=1"],
            "architecture",
        ),
        (["trace", "record", "t", "--set", "steps=1", "--set", "steps.x=1"], "already has a value"),
    ],
    ids=lambda value: " ".join(value[:3])[-40:] if isinstance(value, list) else "",
)
def test_other_commands(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(*words)
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_directory_is_not_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    assert "not an earlier run" in refused("simulate", TINY, "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_that_cannot_be_written_is_still_printed(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device", str(tmp_path / "run"))

    monkeypatch.setattr("moesim.results.store.write_table", full)
    result = CliRunner().invoke(main, ["simulate", TINY, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert "lower bound" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_control_characters_of_a_name_do_not_reach_the_terminal():
    told = refused("simulate", TINY, "--set", "workload.\x1b[2J=1")
    assert "\x1b" not in told
    assert "\\x1b" in told


def test_a_fault_of_our_own_is_told_as_such(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(experiment, "run", broken)
    assert "internal error, please report it: ZeroDivisionError: oops" in refused("simulate", TINY, status=1)
    monkeypatch.setenv("MOESIM_TRACEBACK", "1")
    shown = CliRunner().invoke(main, ["simulate", TINY])
    assert "Traceback" in shown.stderr


@pytest.mark.parametrize(("name", "content", "says"), [
    ("a.json", "[1, 2", "a.json:1:6: not valid JSON"),
    ("a.json", "[[1, 2], [3]]", "differ in length"),
    ("a.json", "[1, -2]", "whole numbers from 0"),
    ("a.json", "[1, 1e400]", "whole numbers from 0"),
    ("a.json", "[1, 0.5]", "whole numbers from 0"),
    ("a.json", "[1, NaN]", "whole numbers from 0"),
    ("a.json", '["a", "b"]', "must be numbers"),
    ("a.json", '{"a": 1}', "must be numbers"),
    ("a.json", "7", "must be numbers of shape [experts]"),
    ("a.json", "[]", "must be numbers of shape [experts]"),
    ("a.json", "[" * 200_000, "nested too deeply"),
    ("a.json", "[[[1, 2], [3, 4], [5, 6]]]", "3 source devices"),
    ("a.csv", "1,2\n3,x\n", "a.csv:2:3: 'x' is not a number"),
    ("a.csv", "", "must be numbers"),
    ("a.npy", "not numpy", "not a .npy file"),
])  # fmt: skip
def test_files_that_are_no_loads(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    assert says in refused("plan", "ep", "--loads", tmp_path / name, "--devices", 2)


def test_npy_files_that_lie(tmp_path):
    np.save(tmp_path / "object.npy", np.asarray([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "good.npy", np.arange(100))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:200])
    for name in ("object.npy", "cut.npy", "none.npy"):
        assert name in refused("plan", "ep", "--loads", tmp_path / name, "--devices", 2)


@pytest.mark.parametrize(("words", "says"), [
    (["ep", "--devices", "4", "--nodes", "3"], "4 devices cannot be spread evenly over 3 nodes"),
    (["epp", "--devices", "4"], "did you mean 'ep'?"),
    (["ep", "--devices", "4", "--set", "alpha=2"], "placement.NAME=VALUE"),
    (["ep", "--devices", "4", "--set", "dispatch.alpha=2"], "alpha"),
    (["llep", "--devices", "4", "--set", "dispatch.alpha=x"], "alpha"),
    (["ep", "--devices", "0"], "'--devices'"),
    (["ep"], "'--devices'"),
])  # fmt: skip
def test_options_of_plan(tmp_path, words, says):
    (tmp_path / "loads.json").write_text("[1, 2, 3, 4]")
    assert says in refused("plan", *words, "--loads", tmp_path / "loads.json")
