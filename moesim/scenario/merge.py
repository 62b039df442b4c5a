"""Laying one scenario over another: mappings merge, everything else is replaced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from moesim.yamlio import Node

Path = tuple[str | int, ...]

_SHORT_KEYS: Final[Mapping[str, str]] = {
    "model": "name",
    "cluster": "name",
    "kernels": "base",
    "costs": "source",
}
_POLICY_PARTS: Final = ("placement", "dispatch")
_RIVALS: Final = (frozenset({"trace", "generator"}), frozenset({"name", "config"}))
_KINDS: Final = ("generator", "kind")


def short_key(path: Path) -> str | None:
    """Return the key that a plain word at this path stands for: ``model: x`` is ``{name: x}``."""
    if len(path) == 1:
        return _SHORT_KEYS.get(str(path[0]))
    if path[0] != "policies":
        return None
    if len(path) == 2:
        return "name"
    return "kind" if len(path) == 3 and path[2] in _POLICY_PARTS else None


def spelled_out(node: Node, path: Path) -> Node:
    """Return the mapping that a plain word stands for, or the node as it is."""
    key = short_key(path) if path else None
    if key is None or not isinstance(node.value, str):
        return node
    return Node({key: node}, node.place, node.key)


def makes_anew(fields: Mapping[str, Node], key: str, value: object) -> bool:
    """Whether setting ``key`` chooses another alternative, so that the keys beside it lose their sense."""
    if key in _KINDS and key in fields:
        return fields[key].value != value
    return any(key in rivals and key not in fields and rivals & fields.keys() for rivals in _RIVALS)


def merge(base: Node, top: Node, path: Path = ()) -> Node:
    """Lay ``top`` over ``base``; every value keeps the place it comes from."""
    if isinstance(top.value, dict):
        base = spelled_out(base, path)
    elif isinstance(base.value, dict):
        top = spelled_out(top, path)
    if not isinstance(base.value, dict) or not isinstance(top.value, dict):
        return top
    if any(makes_anew(base.value, key, child.value) for key, child in top.value.items()):
        return top
    fields = dict(base.value)
    for key, child in top.value.items():
        fields[key] = merge(fields[key], child, (*path, key)) if key in fields else child
    return Node(fields, top.place, top.key)
