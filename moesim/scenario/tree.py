"""Questions about the tree of sections: which keys a place takes, and what its values are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, Tag

from moesim.scenario.alternatives import is_tag
from moesim.scenario.schema import ScenarioSpec


def alternatives(annotation: Any, tag: str | None = None) -> Iterator[tuple[str | None, type[BaseModel]]]:
    """Yield the sections that a field's annotation allows, each with its tag (None where it has none)."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        tags = [item.tag for item in metadata if isinstance(item, Tag)]
        yield from alternatives(inner, tags[0] if tags else tag)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield tag, annotation
    else:
        for argument in get_args(annotation):
            yield from alternatives(argument, tag)


def section_at(location: Sequence[str | int]) -> type[BaseModel] | None:
    """Return the section that an error's location (tags included) lies in, or None."""
    section: type[BaseModel] = ScenarioSpec
    choices: dict[str | None, type[BaseModel]] = {}
    for part in location:
        if isinstance(part, int):
            continue
        if is_tag(part) and part in choices:
            section = choices[part]
            continue
        if part not in section.model_fields:
            return None
        choices = dict(alternatives(section.model_fields[part].annotation))
        section = choices.get(None, section)
    return section


def dotted(path: Sequence[str | int]) -> str:
    """Write a path the way people do: ``policies[0].placement.kind``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def plain(value: Any) -> Any:
    """Return a section, and all below it, as mappings, lists and scalars, defaults included."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        kept = {name: plain(getattr(value, name)) for name, field in fields.items() if not field.exclude}
        return kept | {name: plain(item) for name, item in (value.__pydantic_extra__ or {}).items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value
