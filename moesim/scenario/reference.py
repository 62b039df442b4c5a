"""Schema and reference documentation, generated from the sections themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from moesim.scenario.schema import ScenarioSpec
from moesim.scenario.tree import alternatives, plain

_INTRODUCTION: Final = """\
# Scenario reference

A scenario is one YAML file. This page is generated from the code that reads it
(`moesim/scenario/`); `scenarios/schema.json` gives the same to editors.

* Quantities take units: `16k` and `16Ki` tokens, `2 GiB`, `400 Gb/s`, `5 us`.
* Words mean what YAML 1.2 says: `900e9` is a number, `yes` is text; `true` and `false` are the only flags.
  A key may stand once; tags and merge keys are refused.
* `extends: other.yaml` takes over what that file says. Mappings are merged, lists and single values
  replaced; choosing another `generator` or `kind`, or a `generator` instead of a `trace`, starts that
  section anew.
* `--set workload.steps=8` replaces one value on the command line. Lists count from 0, and policies can be
  named: `--set policies.eplb.placement.redundant=32`.
* Paths count from the file that names them (with `--set`, from the working directory).
"""

_LARGEST_SHOWN: Final = 10**9

_TITLES: Final = {
    "CatalogueModel": "model: NAME or {name: ...}",
    "ConfigModel": "model: {config: ...}",
    "InlineModel": "model: written out",
    "CatalogueCluster": "cluster: NAME or {name: ...}",
    "InlineCluster": "cluster: written out",
    "ParallelismSection": "parallelism",
    "TraceRouting": "routing: {trace: ...}",
    "GeneratorRouting": "routing: {generator: ...}",
    "WorkloadSection": "workload",
    "RequestsSection": "workload: {requests: ...}",
    "PolicySection": "policies: list of NAME or {name: ...}",
    "RefreshSection": "refresh",
    "PolicyPart": "placement, dispatch: NAME or {kind: ...}",
    "OffloadSection": "offload: NAME or {system: ...}",
    "OffloadPart": "cache, prefetch, misses: NAME or {kind: ...}",
    "KernelSection": "kernels: NAME or {base: ...}",
    "OverlapSection": "overlap: KIND or {kind: ...}",
    "CostsSection": "costs: NAME or {source: ...}",
    "MemorySection": "memory",
    "EngineSection": "engine",
}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of scenario files, for editors and other tools.

    It requires no key: what is missing may come from the scenario that is extended.
    """
    schema: dict[str, Any] = _any_of(ScenarioSpec.model_json_schema())
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "moesim scenario"}


def _any_of(schema: Any) -> Any:
    """Replace ``oneOf``, which refuses what fits two alternatives, such as a mapping with a name only."""
    if isinstance(schema, list):
        return [_any_of(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {("anyOf" if key == "oneOf" else key): _any_of(value) for key, value in schema.items()}


def schema_text() -> str:
    """Return the JSON Schema as the text of ``scenarios/schema.json``."""
    return json.dumps(json_schema(), indent=1, sort_keys=True) + "\n"


def reference_text() -> str:
    """Return the text of ``docs/scenario.md``."""
    parts = [_INTRODUCTION, "## Top level\n\n" + _table(ScenarioSpec)]
    for section in _sections(ScenarioSpec, []):
        summary = (section.__doc__ or "").strip()
        parts.append(f"## {_TITLES[section.__name__]}\n\n{summary}\n\n{_table(section)}")
    return "\n".join(parts)


def write_generated(root: str | Path) -> None:
    """Write ``docs/scenario.md`` and ``scenarios/schema.json`` anew under a repository's root."""
    Path(root, "docs", "scenario.md").write_text(reference_text(), encoding="utf-8")
    Path(root, "scenarios", "schema.json").write_text(schema_text(), encoding="utf-8")


def _sections(section: type[BaseModel], seen: list[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """Yield every section below one, in the order of the file, each once."""
    for field in section.model_fields.values():
        for _, below in alternatives(field.annotation):
            if below not in seen:
                seen.append(below)
                yield below
                yield from _sections(below, seen)


def _table(section: type[BaseModel]) -> str:
    rows = ["| key | type | unit | default | description |", "| --- | --- | --- | --- | --- |"]
    for name, field in section.model_fields.items():
        cells = (f"`{name}`", _type(section, name), _unit(field), _default(field), field.description or "")
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _unit(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = plain(field.get_default(call_default_factory=True))
    if value is None or value == "":
        return "-"
    if isinstance(value, dict):
        return "see below"
    if isinstance(value, list):
        return f"`[{', '.join(item['name'] for item in value)}]`"
    return f"`{json.dumps(value)}`" if isinstance(value, bool) else f"`{value}`"


def _type(section: type[BaseModel], name: str) -> str:
    """Describe a field's type by its JSON Schema."""
    words: list[str] = []
    for option in _options(section.model_json_schema()["properties"][name]):
        word = _word(option)
        if word and word not in words:
            words.append(word)
    return ", ".join(words)


def _options(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the alternatives of a schema; a number with units counts as the number only."""
    listed = schema.get("anyOf", schema.get("oneOf"))
    if listed is None:
        yield schema
    elif listed[0].get("type") == "integer" and "pattern" in listed[-1]:
        yield listed[0]
    else:
        for option in listed:
            yield from _options(option)


def _word(option: dict[str, Any]) -> str:
    if "enum" in option:
        return " or ".join(f"`{value}`" for value in option["enum"])
    if "$ref" in option:
        return "mapping"
    kind = str(option.get("type"))
    if kind in ("integer", "number"):
        high = option["maximum"]
        if "exclusiveMinimum" in option:
            return f"number above {option['exclusiveMinimum']}, to {high}"
        low = option["minimum"]
        return f"number {low} to {high}" if high <= _LARGEST_SHOWN else f"number from {low}"
    return {"boolean": "`true` or `false`", "string": "text", "array": "list", "null": ""}.get(kind, kind)
