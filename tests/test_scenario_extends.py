"""One scenario laid over another."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesim.errors import InputError
from moesim.scenario import Scenario, load_scenario

BASE = """\
name: base
model: {name: gpt-oss-20b, layers: 6}
cluster: HGX-H200
routing: {trace: traces/one, profile: 0.5}
workload: {tokens_per_device: 1024, steps: 3}
policies: [ep, llep]
"""


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def extended(folder: Path, top: str, base: str = BASE) -> Scenario:
    return load_scenario(written(folder, base=base, top=f"extends: base.yaml\n{top}") / "top.yaml")


def test_mappings_merge_and_everything_else_is_replaced(tmp_path: Path) -> None:
    spec = extended(tmp_path, "workload: {steps: 9}\npolicies: [eplb]\nmodel: {weight_dtype: fp8}\n").spec
    assert (spec.workload.steps, spec.workload.tokens_per_device) == (9, 1024)
    assert [policy.name for policy in spec.policies] == ["eplb"]
    assert spec.name == "base"
    assert spec.model.model_dump() == {"name": "gpt-oss-20b", "layers": 6, "weight_dtype": "fp8"}


def test_a_plain_word_can_be_refined(tmp_path: Path) -> None:
    spec = extended(tmp_path, "cluster: {nodes: 2}\n").spec
    assert spec.cluster.model_dump() == {"name": "HGX-H200", "nodes": 2}


def test_a_word_over_a_mapping_changes_the_name_only(tmp_path: Path) -> None:
    spec = extended(tmp_path, "model: gpt-oss-120b\n").spec
    assert spec.model.model_dump() == {"name": "gpt-oss-120b", "layers": 6, "weight_dtype": None}


def test_another_kind_of_routing_starts_anew(tmp_path: Path) -> None:
    spec = extended(tmp_path, "routing: {generator: zipf, exponent: 1}\n").spec
    assert spec.routing.model_dump() == {"generator": "zipf", "exponent": 1}


def test_another_generator_starts_anew(tmp_path: Path) -> None:
    base = BASE.replace("{trace: traces/one, profile: 0.5}", "{generator: zipf, exponent: 1}")
    spec = extended(tmp_path, "routing: {generator: uniform}\n", base).spec
    assert spec.routing.model_dump() == {"generator": "uniform"}


def test_chains_and_places_lead_to_the_right_file(tmp_path: Path) -> None:
    folder = written(
        tmp_path,
        base=BASE.replace("steps: 3", "steps: 0"),
        middle="extends: base.yaml\n",
        top="extends: middle.yaml\nseed: -1\n",
    )
    with pytest.raises(InputError) as caught:
        load_scenario(folder / "top.yaml")
    text = str(caught.value)
    assert f"{folder / 'base.yaml'}:5:44: 'workload.steps'" in text
    assert f"{folder / 'top.yaml'}:2:7: 'seed'" in text


def test_paths_count_from_the_file_that_names_them(tmp_path: Path) -> None:
    folder = written(tmp_path, **{"deep/base": BASE, "top": "extends: deep/base.yaml\n"})
    inherited = load_scenario(folder / "top.yaml")
    assert inherited.resolved()["routing"]["trace"] == "deep/traces/one"
    assert inherited.path("deep/traces/one") == folder / "deep/traces/one"
    own = written(tmp_path, top="extends: deep/base.yaml\nrouting: {trace: here}\n") / "top.yaml"
    assert load_scenario(own).resolved()["routing"]["trace"] == "here"


def test_paths_lead_through_linked_folders(tmp_path: Path) -> None:
    folder = written(tmp_path / "far" / "away", base=BASE, top="extends: base.yaml\n")
    link = tmp_path / "near"
    link.symlink_to(folder, target_is_directory=True)
    loaded = load_scenario(link / "top.yaml")
    assert loaded.resolved()["routing"]["trace"] == "traces/one"


def test_where_the_files_lie_does_not_change_the_hash(tmp_path: Path) -> None:
    first = extended(tmp_path / "a", "seed: 3\n")
    second = extended(tmp_path / "b" / "c", "seed: 3\n")
    assert first.hash == second.hash


@pytest.mark.parametrize(
    ("value", "fragment"),
    [
        ("absent.yaml", "no file 'absent.yaml' to extend"),
        (".", "no file '.' to extend"),
        ("/etc/passwd", "relative to this file"),
        ("3", "must be the path of a scenario"),
        ("[base.yaml]", "must be the path of a scenario, got a list"),
        ("top.yaml", "in a circle"),
    ],
)
def test_what_cannot_be_extended_is_refused_in_place(value: str, fragment: str, tmp_path: Path) -> None:
    path = written(tmp_path, top=f"seed: 1\nextends: {value}\n") / "top.yaml"
    with pytest.raises(InputError, match=fragment) as caught:
        load_scenario(path)
    assert (caught.value.file, caught.value.line, caught.value.column) == (str(path), 2, 10)


def test_circles_are_found(tmp_path: Path) -> None:
    folder = written(tmp_path, a="extends: b.yaml\n", b="extends: a.yaml\n")
    with pytest.raises(InputError, match="in a circle") as caught:
        load_scenario(folder / "a.yaml")
    assert Path(caught.value.file or "").name == "b.yaml"


def test_long_chains_are_refused(tmp_path: Path) -> None:
    files = {f"f{i}": f"extends: f{i + 1}.yaml\n" for i in range(40)}
    with pytest.raises(InputError, match="too many scenarios in a row"):
        load_scenario(written(tmp_path, **files, f40=BASE) / "f0.yaml")


def test_a_base_that_is_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"base\.yaml:2:1: not valid YAML"):
        extended(tmp_path, "", "a: [1\n")
    with pytest.raises(InputError, match=r"base\.yaml:1:1: a scenario must be a mapping"):
        extended(tmp_path, "", "- 1\n")
