"""Reading a scenario together with those that it extends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from moesim.errors import InputError
from moesim.scenario.merge import merge
from moesim.scenario.problems import shown
from moesim.yamlio import Document, Node, load

_DEEPEST: Final = 16
_FILES: Final = (("routing", "trace"), ("model", "config"))
"""Keys whose values are paths."""


def complete(document: Document, folder: Path, seen: tuple[Path, ...] = ()) -> Document:
    """Lay a document over those it extends.

    Args:
        document: as read from its file.
        folder: directory of that file, from which its paths count.
        seen: files that led here.

    Returns:
        The merged document without ``extends``; paths count from ``folder``.

    Raises:
        InputError: not a mapping, or a base that is not there, not relative or part of a circle.
    """
    root = document.root
    if not isinstance(root.value, dict):
        message = (
            f"a scenario must be a mapping of keys such as 'model' and 'cluster', got {shown(root.value)}"
        )
        raise root.place.error(message)
    named = root.value.get("extends")
    if named is None or named.value is None:
        return document
    path = _base_path(named, folder, seen)
    base = complete(load(path), path.parent, (*seen, path.resolve()))
    own = Node({key: child for key, child in root.value.items() if key != "extends"}, root.place, root.key)
    return Document(merge(_rebased(base.root, path.parent, folder), own))


def _base_path(named: Node, folder: Path, seen: tuple[Path, ...]) -> Path:
    value = named.value
    if not isinstance(value, str) or not value.isprintable() or not value:
        message = f"'extends' must be the path of a scenario, got {shown(named.plain)}"
        raise named.place.error(message)
    if Path(value).is_absolute():
        raise named.place.error("'extends' must be a path relative to this file")
    try:
        path = folder / value
        known = path.resolve()
        exists = path.is_file()
    except (OSError, RuntimeError, ValueError):
        exists = False
    if not exists:
        message = f"there is no file '{value}' to extend"
        raise named.place.error(message)
    if known in seen or len(seen) >= _DEEPEST:
        message = (
            "scenarios extend each other in a circle" if known in seen else "too many scenarios in a row"
        )
        raise named.place.error(message)
    return path


def _rebased(root: Node, origin: Path, folder: Path) -> Node:
    for keys in _FILES:
        root = rebase(root, keys, origin, folder)
    return root


def rebase(root: Node, keys: tuple[str, ...], origin: Path, folder: Path) -> Node:
    """Return the tree with the path under ``keys``, which counts from ``origin``, counted from ``folder``."""
    child = root.child(keys[0])
    if child is None or not isinstance(root.value, dict):
        return root
    if len(keys) > 1:
        moved = rebase(child, keys[1:], origin, folder)
    elif isinstance(child.value, str) and child.value and not Path(child.value).is_absolute():
        moved = Node(relative(origin / child.value, folder), child.place, child.key)
    else:
        return root
    return Node(root.value | {keys[0]: moved}, root.place, root.key)


def relative(path: Path, folder: Path) -> str:
    """Write a path as seen from a folder, with forward slashes."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError as error:
        message = f"the path '{path}' cannot be used"
        raise InputError(message) from error
