"""``--set dotted.key=value``: single values replaced from the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from moesim.errors import InputError, nearest
from moesim.scenario.extend import rebase
from moesim.scenario.merge import makes_anew, spelled_out
from moesim.yamlio import Document, Node, Place, loads


def override(document: Document, overrides: Iterable[str], folder: Path) -> Document:
    """Replace values in a scenario.

    Args:
        document: the scenario with all it extends.
        overrides: each ``dotted.key=value``; the value is YAML, lists are counted from 0, and a policy can
            also be named. Paths count from the working directory.
        folder: directory from which the scenario's own paths count.

    Raises:
        InputError: no ``=``, a value that is not YAML, or a key that leads nowhere.
    """
    root = document.root
    for text in overrides:
        keys, value = _parse(text)
        root = _put(root, keys, value, ())
        if keys in (["routing", "trace"], ["model", "config"]):
            root = rebase(root, tuple(keys), Path.cwd(), folder)
    return Document(root)


def _parse(text: str) -> tuple[list[str], Node]:
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    origin = f"--set {shown}"
    name, equals, value = text.partition("=")
    keys = [part.strip() for part in name.split(".")]
    if not equals or not all(keys):
        raise InputError("must be written as dotted.key=value, for example workload.steps=8", origin)
    if keys == ["extends"]:
        raise InputError("'extends' can only stand in a file", origin)
    try:
        return keys, loads(value, origin).root.moved(Place(origin))
    except InputError as error:
        raise InputError(error.message, origin, hint=error.hint) from error


def _put(node: Node, keys: Sequence[str], value: Node, path: tuple[str | int, ...]) -> Node:
    """Return the tree with one value replaced; mappings on the way are made where missing."""
    if not keys:
        return value
    node = spelled_out(node, path)
    key, rest = keys[0], keys[1:]
    if node.value is None:
        node = Node({}, value.place, value.place)
    if isinstance(node.value, dict):
        fields = node.value
        if not rest and makes_anew(fields, key, value.value):
            fields = {}
        below = fields.get(key, Node(None, value.place, value.place))
        return Node(fields | {key: _put(below, rest, value, (*path, key))}, node.place, node.key)
    if isinstance(node.value, tuple):
        index = _index(node.value, key, value.place)
        items = list(node.value)
        items[index] = _put(items[index], rest, value, (*path, index))
        return Node(tuple(items), node.place, node.key)
    where = ".".join(str(part) for part in path)
    message = f"'{where}' is a single value and has no '{key}'"
    raise value.place.error(message)


def _index(items: tuple[Node, ...], key: str, place: Place) -> int:
    """Find an item by number, or by its name."""
    if key.isascii() and key.isdigit() and len(key) < 9 and int(key) < len(items):
        return int(key)
    names = [child.value if isinstance(child.value, str) else _name(child) for child in items]
    if key in names:
        return names.index(key)
    close = nearest(key, [name for name in names if name])
    message = f"the list has no item '{key}': count from 0 to {len(items) - 1}, or give an item's name"
    raise place.error(message, f"did you mean '{close}'?" if close else None)


def _name(node: Node) -> str:
    child = node.child("name")
    return child.value if child is not None and isinstance(child.value, str) else ""
