"""Pointing errors of other packages at the scenario's own lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from moesim.errors import InputError
from moesim.scenario.scenario import Scenario
from moesim.yamlio import Node

Path = tuple[str | int, ...]

_QUOTED: Final = re.compile(r"'([^']{1,200})'")
_SELECTORS: Final = ("name", "kind", "generator", "base")
"""Keys that choose what the keys beside them mean; messages often begin with them."""

_PART: Final = re.compile(r"[^.\[\]]+")


@contextmanager
def located(scenario: Scenario, path: Sequence[str | int], prefix: str = "") -> Iterator[None]:
    """Give errors raised inside the line and column of the value that they are about.

    Args:
        scenario: whose file to point into.
        path: value that is being used; the error is looked for in it and below.
        prefix: text put before the message.

    Raises:
        InputError: the error that was raised, placed; failures to read a file are turned into one.
    """
    try:
        yield
    except InputError as error:
        top = tuple(path)
        node = scenario.document.root.find(top)
        below = _named_below(node, error)
        kept = InputError(error.message, error.file, error.line, error.column)
        at_key = not _exists(node, below) or _ends_in_unknown_key(error, below)
        where = scenario.document.place((*top, *below), key=at_key)
        raise where.error(f"{prefix}{kept}", error.hint) from error
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise scenario.error(path, f"{prefix}{reason}") from error


def _named_below(node: Node, error: InputError) -> Path:
    """Return the path, from a node, of the value that an error speaks of."""
    told: Path = getattr(error, "path", ()) or getattr(error, "key", ())
    if told:
        return told
    words: list[str] = _QUOTED.findall(error.message)
    candidates = [_parts(word) for word in words]
    candidates += [(*_parts(inner), outer) for outer in words for inner in words if inner != outer]
    real = [path for path in candidates if path and _exists(node, path)]
    if real:
        return max(real, key=len)
    if isinstance(node.value, dict):
        spoken = set(re.findall(r"\w+", error.message))
        named = [key for key in node.value if key in spoken]
        if named:
            return (min(named, key=lambda key: key in _SELECTORS),)
    return ()


def _parts(word: str) -> Path:
    """Read ``links.intra[0].bandwidth`` as a path."""
    return tuple(int(part) if part.isdigit() and len(part) < 9 else part for part in _PART.findall(word))


def _exists(node: Node, path: Path) -> bool:
    for part in path:
        below = node.child(part)
        if below is None:
            return False
        node = below
    return True


def _ends_in_unknown_key(error: InputError, below: Path) -> bool:
    """Whether the key itself is wrong, not its value."""
    return (
        bool(below)
        and re.search(r"\b(no|unknown) [\w ]*(key|parameter|setting)\b", error.message) is not None
    )
