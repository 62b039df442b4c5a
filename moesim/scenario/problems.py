"""Validation errors in the user's words, at the user's lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from moesim.errors import InputError, nearest
from moesim.scenario.alternatives import is_tag
from moesim.scenario.tree import dotted, section_at
from moesim.yamlio import Document, Place

_SHOWN: Final = 8


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        place: where.
        message: what, and what would be right.
        hint: nearest valid choice.
        path: keys and positions down to it, without tags.
        kind: pydantic's name for it.
    """

    place: Place
    message: str
    hint: str | None
    path: tuple[str | int, ...]
    kind: str


def invalid(error: ValidationError, document: Document) -> InputError:
    """Turn everything pydantic found into one error that points at the first and lists the others."""
    return joined([_problem(details, document) for details in error.errors(include_url=False)])


def joined(problems: list[Problem]) -> InputError:
    """Return one error for several problems, in the order of the file."""
    guessed = {(*p.path[:-1], nearest_key(p)) for p in problems if p.kind == "extra_forbidden"}
    kept = [p for p in problems if not (p.kind == "missing" and p.path in guessed)]
    kept = [p for p in kept if p.kind != "too_short" or len(problems) == 1] or problems
    kept.sort(key=lambda p: (p.place.file, p.place.line or 0, p.place.column or 0))
    first, *others = kept
    if not others:
        return first.place.error(first.message, first.hint)
    lines = [f"{first.message} ({first.hint})" if first.hint else first.message]
    lines += [str(p.place.error(p.message, p.hint)) for p in others[: _SHOWN - 1]]
    if len(kept) > _SHOWN:
        lines.append(f"... and {len(kept) - _SHOWN} more")
    return first.place.error("\n".join(lines))


def nearest_key(problem: Problem) -> str | None:
    """Return the key that an unknown key was probably meant to be."""
    hint = problem.hint or ""
    return hint.split("'")[1] if hint.startswith("did you mean") else None


def _problem(details: ErrorDetails, document: Document) -> Problem:
    location = details["loc"]
    kind = details["type"]
    ends_in_key = kind in ("extra_forbidden", "missing")
    path = tuple(
        part
        for i, part in enumerate(location)
        if not is_tag(part) or (ends_in_key and i + 1 == len(location))
    )
    if kind == "extra_forbidden":
        message, hint = _unknown_key(location, path)
        return Problem(document.place(path, key=True), message, hint, path, kind)
    if kind == "missing":
        owner = f"'{dotted(path[:-1])}'" if path[:-1] else "the scenario"
        message = f"{owner} needs the key '{path[-1]}'"
        return Problem(document.place(path[:-1], key=True), message, None, path, kind)
    expected, hint = _expected(details)
    message = f"'{dotted(path)}' {expected}" if path else f"a scenario {expected}"
    return Problem(document.place(path), message, hint, path, kind)


def _unknown_key(location: tuple[str | int, ...], path: tuple[str | int, ...]) -> tuple[str, str | None]:
    section = section_at(location[:-1])
    options = [] if section is None else list(section.model_fields)
    word = str(path[-1])
    close = nearest(word, options)
    where = f"'{dotted(path[:-1])}' has" if path[:-1] else "a scenario has"
    shown = word if len(word) <= 60 else f"{word[:57]}..."
    hint = f"did you mean '{close}'?" if close else f"known: {', '.join(options)}" if options else None
    return f"{where} no key '{shown}'", hint


_PLAIN: Final[Mapping[str, str]] = {
    "bool_type": "must be true or false",
    "float_type": "must be a number",
    "string_type": "must be text",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "finite_number": "must be a finite number",
}

_BOUNDED: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "greater_than_equal": lambda c: f"must be at least {c['ge']:g}",
    "less_than_equal": lambda c: f"must be at most {c['le']:g}",
    "greater_than": lambda c: f"must be above {c['gt']:g}",
    "less_than": lambda c: f"must be below {c['lt']:g}",
}


def _expected(details: ErrorDetails) -> tuple[str, str | None]:
    """Say what a value must be, what it is, and which choice is nearest."""
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    got = f", got {shown(value)}"
    if kind == "literal_error":
        close = nearest(
            str(value), str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        )
        return f"must be {context['expected']}{got}", f"did you mean '{close}'?" if close else None
    if kind == "shape":
        return details["msg"], _nearest_inside(value, details["msg"])
    if kind in _PLAIN:
        return f"{_PLAIN[kind]}{got}", None
    if kind in _BOUNDED:
        return f"{_BOUNDED[kind](context)}{got}", None
    if kind in ("too_short", "too_long", "string_too_short", "string_too_long"):
        word = "at least" if kind.endswith("short") else "at most"
        unit = "characters" if kind.startswith("string") else "items"
        return f"must have {word} {context.get('min_length', context.get('max_length'))} {unit}", None
    return details["msg"][:1].lower() + details["msg"][1:], None


def _nearest_inside(value: Any, message: str) -> str | None:
    """Find a key that was probably meant to be one of the keys that a message asks for."""
    wanted = message.split("'")[1::2]
    for key in value if isinstance(value, Mapping) else ():
        close = nearest(key, wanted)
        if close is not None and close not in value:
            return f"did you mean '{close}' with '{key[:60]}'?"
    return None


def shown(value: Any) -> str:
    """Show a value of the user in one short line."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
