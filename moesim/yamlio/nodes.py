"""A parsed YAML file: values together with the places they stand in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from moesim.errors import InputError

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file.

    Attributes:
        file: file name as the user gave it, or what else the text came from.
        line: line counted from 1; None when the text has no lines worth naming.
        column: column counted from 1; None likewise.
    """

    file: str
    line: int | None = None
    column: int | None = None

    def error(self, message: str, hint: str | None = None) -> InputError:
        """Build the error for something wrong at this place."""
        return InputError(message, self.file, self.line, self.column, hint)


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a YAML file; never changed after parsing, so that aliases can share it.

    Attributes:
        value: a scalar, a dict of nodes by key, or a tuple of nodes.
        place: where the value begins.
        key: where its key begins, for the values of a mapping.
    """

    value: Scalar | dict[str, Node] | tuple[Node, ...]
    place: Place
    key: Place | None = None

    @property
    def plain(self) -> Any:
        """The value as nested dicts, lists and scalars, all of them new."""
        if isinstance(self.value, dict):
            return {key: child.plain for key, child in self.value.items()}
        if isinstance(self.value, tuple):
            return [child.plain for child in self.value]
        return self.value

    def child(self, part: str | int) -> Node | None:
        """Return the node under a key or index, or None where there is none."""
        if isinstance(self.value, dict):
            return self.value.get(part) if isinstance(part, str) else None
        if isinstance(self.value, tuple) and isinstance(part, int) and 0 <= part < len(self.value):
            return self.value[part]
        return None

    def find(self, path: Sequence[str | int]) -> Node:
        """Return the node at a path, or the deepest one on the way to it."""
        node = self
        for part in path:
            below = node.child(part)
            if below is None:
                return node
            node = below
        return node

    def walk(self, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Node]]:
        """Yield every node with its path, parents first, in file order."""
        yield path, self
        if isinstance(self.value, dict):
            for key, child in self.value.items():
                yield from child.walk((*path, key))
        elif isinstance(self.value, tuple):
            for index, child in enumerate(self.value):
                yield from child.walk((*path, index))

    def moved(self, place: Place) -> Node:
        """Return the same value with every place in it replaced by one."""
        if isinstance(self.value, dict):
            return Node({key: child.moved(place) for key, child in self.value.items()}, place, place)
        if isinstance(self.value, tuple):
            return Node(tuple(child.moved(place) for child in self.value), place, place)
        return Node(self.value, place, place)


def from_plain(value: Any, place: Place) -> Node:
    """Wrap nested mappings, sequences and scalars into nodes that all stand in one place."""
    if isinstance(value, Mapping):
        return Node({str(key): from_plain(item, place) for key, item in value.items()}, place, place)
    if isinstance(value, (list, tuple)):
        return Node(tuple(from_plain(item, place) for item in value), place, place)
    return Node(value, place, place)


@dataclass(frozen=True)
class Document:
    """One YAML document.

    Attributes:
        root: its topmost node.
    """

    root: Node

    @property
    def file(self) -> str:
        """Name of the file it was read from."""
        return self.root.place.file

    @cached_property
    def data(self) -> Any:
        """The whole document as nested dicts, lists and scalars."""
        return self.root.plain

    def place(self, path: Sequence[str | int], *, key: bool = False) -> Place:
        """Return where the value at a path stands (or its key, or the nearest thing above it)."""
        node = self.root.find(path)
        return node.key if key and node.key is not None else node.place

    def where(self, path: Sequence[str | int], *, key: bool = False) -> tuple[int | None, int | None]:
        """Return line and column of the value at a path, counted from 1; see ``place``."""
        place = self.place(path, key=key)
        return place.line, place.column

    def error(
        self, path: Sequence[str | int], message: str, hint: str | None = None, *, key: bool = False
    ) -> InputError:
        """Build the error for what is wrong at a path."""
        return self.place(path, key=key).error(message, hint)
