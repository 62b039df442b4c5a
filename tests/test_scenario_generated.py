"""Files that are made from the code are as fresh as the code, and shipped scenarios load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moesim.scenario import json_schema, load_scenario
from moesim.scenario.build import build_policies, build_setup
from moesim.scenario.reference import reference_text, schema_text, write_generated
from moesim.scenario.tokens import TraceRouting

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = sorted((ROOT / "scenarios").glob("*.yaml"))
REMEDY = "write it anew: python -c \"import moesim.scenario.reference as r; r.write_generated('.')\""


def test_the_reference_page_is_fresh() -> None:
    assert (ROOT / "docs" / "scenario.md").read_text(encoding="utf-8") == reference_text(), REMEDY


def test_the_schema_is_fresh() -> None:
    assert (ROOT / "scenarios" / "schema.json").read_text(encoding="utf-8") == schema_text(), REMEDY


def test_the_remedy_writes_what_the_tests_want(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "scenarios").mkdir()
    write_generated(tmp_path)
    assert (tmp_path / "docs" / "scenario.md").read_text(encoding="utf-8") == reference_text()
    assert json.loads((tmp_path / "scenarios" / "schema.json").read_text()) == json_schema()


def test_every_key_is_described() -> None:
    schema = json_schema()
    sections = {"scenario": schema, **schema["$defs"]}
    keys = [
        (name, key, field) for name, part in sections.items() for key, field in part["properties"].items()
    ]
    assert [(name, key) for name, key, field in keys if not {"description", "$ref"} & field.keys()] == []
    assert [name for name, part in sections.items() if not part.get("description")] == []


def test_there_are_scenarios_to_choose_from() -> None:
    assert len(SCENARIOS) >= 6


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_shipped_scenario_loads_and_explains_itself(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=schema.json\n# ")
    scenario = load_scenario(path)
    assert scenario.name == path.stem
    assert scenario.description.endswith(".")


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_shipped_scenario_can_be_built(path: Path) -> None:
    scenario = load_scenario(path)
    routing = scenario.spec.routing
    if isinstance(routing, TraceRouting) and not scenario.path(routing.trace).exists():
        pytest.skip(f"the trace {routing.trace} is not recorded yet")
    for policy in build_policies(scenario):
        assert build_setup(scenario, policy).routing.experts == build_setup(scenario, policy).model.experts


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_shipped_scenario_fits_the_schema(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    from moesim.yamlio import load

    validator = jsonschema.Draft202012Validator(json_schema())
    assert [error.message for error in validator.iter_errors(load(path).data)] == []


def test_the_schema_refuses_what_the_loader_refuses() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    validator = jsonschema.Draft202012Validator(json_schema())
    for wrong in ({"modle": "x"}, {"model": {"nme": "x"}}, {"workload": {"steps": 0}}, {"policies": []}):
        assert not validator.is_valid(wrong)
