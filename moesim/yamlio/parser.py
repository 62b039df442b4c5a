"""From text to nodes, one parser event at a time.

Events of PyYAML's C parser, not its composed nodes, so that limits on depth and size act before memory
or the stack is spent. Aliases share nodes; what they would expand to is counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from yaml import events

from moesim.errors import InputError
from moesim.yamlio.nodes import Document, Node, Place
from moesim.yamlio.scalars import resolve

MAX_BYTES: Final = 4 << 20
MAX_NODES: Final = 200_000
MAX_DEPTH: Final = 64

_CLEARER: Final = {
    "did not find expected <document start>": "this does not belong to what stands above it; expected a key, "
    "as deep as the others",
    "did not find expected key": "expected a key here, as deep as the others of its mapping",
    "did not find expected '-' indicator": "expected '-' here, as deep as the others of its list",
    "did not find expected ',' or ']'": "expected ',' or ']'; a list in brackets is not closed",
    "did not find expected ',' or '}'": "expected ',' or '}'; a mapping in braces is not closed",
    "did not find expected node content": "expected a value here",
    "could not find expected ':'": "expected ':' after a key",
    "mapping values are not allowed in this context": "unexpected ': '; quote text that holds it, and "
    "indent keys evenly",
    "block sequence entries are not allowed in this context": "unexpected '- '; begin a list on its own line",
}
"""What the parser says, for people."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(path: str | Path) -> Document:
    """Read a YAML file.

    Raises:
        InputError: the file cannot be read, or does not hold one strict YAML document.
    """
    try:
        with Path(path).open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        message = f"cannot read the file: {reason}"
        raise InputError(message, str(path)) from error
    if len(raw) > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES >> 20} MiB"
        raise InputError(message, str(path))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        message = "the file is not text in UTF-8"
        raise InputError(message, str(path), line, column) from error
    return loads(text, str(path))


def loads(text: str, file: str = "<string>") -> Document:
    """Read YAML text.

    Args:
        text: one YAML document.
        file: name that errors give it.

    Raises:
        InputError: not strict YAML, or larger than the limits; with line and column.
    """
    if len(text) > MAX_BYTES:
        message = f"the text is larger than {MAX_BYTES >> 20} MiB"
        raise InputError(message, file)
    builder = _Builder(file)
    try:
        for event in yaml.parse(text, Loader=_Loader):
            builder.take(event)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, file) from error
    except UnicodeError as error:
        message = "the text holds characters that are not Unicode"
        raise InputError(message, file) from error
    return Document(builder.root or Node(None, Place(file, 1, 1)))


@dataclass
class _Frame:
    """A mapping or sequence whose end has not come yet."""

    place: Place
    anchor: str | None
    before: int
    is_mapping: bool
    height: int = 1
    fields: dict[str, Node] = field(default_factory=dict)
    items: list[Node] = field(default_factory=list)
    pending: tuple[str, Place] | None = None

    def finished(self) -> Node:
        return Node(self.fields if self.is_mapping else tuple(self.items), self.place)


class _Builder:
    """Puts nodes together from parser events."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.root: Node | None = None
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Node, int, int]] = {}
        self.nodes = 0
        self.documents = 0

    def take(self, event: events.Event) -> None:
        """Add one event."""
        if isinstance(event, events.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, (events.MappingStartEvent, events.SequenceStartEvent)):
            self._open(event)
        elif isinstance(event, (events.MappingEndEvent, events.SequenceEndEvent)):
            frame = self.stack.pop()
            self._add(frame.finished(), frame.anchor, frame.before, frame.height)
        elif isinstance(event, events.AliasEvent):
            self._alias(event)
        elif isinstance(event, events.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self._place(event).error("expected one document, found a second one ('---')")

    def _place(self, event: events.Event) -> Place:
        mark: Any = event.start_mark
        return Place(self.file, mark.line + 1, mark.column + 1)

    def _awaits_key(self) -> bool:
        return bool(self.stack) and self.stack[-1].is_mapping and self.stack[-1].pending is None

    def _count(self, place: Place, number: int = 1) -> None:
        self.nodes += number
        if self.nodes > MAX_NODES:
            message = f"the document has more than {MAX_NODES} values once its aliases are expanded"
            raise place.error(message)

    def _deepen(self, place: Place, height: int) -> None:
        if len(self.stack) + height > MAX_DEPTH:
            message = f"nested deeper than {MAX_DEPTH} levels"
            raise place.error(message)

    def _no_tag(self, event: events.NodeEvent, place: Place) -> None:
        tag = getattr(event, "tag", None)
        if tag is not None:
            short = tag.replace("tag:yaml.org,2002:", "!!")
            message = f"tags such as '{short}' are not allowed"
            raise place.error(message, "remove it; quotes make a string")

    def _scalar(self, event: events.ScalarEvent) -> None:
        place = self._place(event)
        self._no_tag(event, place)
        text: str = event.value
        if self._awaits_key():
            self._key(text, event.anchor, place)
            return
        before = self.nodes
        self._count(place)
        try:
            value = resolve(text) if event.implicit[0] else text
        except ValueError as error:
            raise place.error(str(error)) from error
        self._add(Node(value, place), event.anchor, before)

    def _key(self, text: str, anchor: str | None, place: Place) -> None:
        if anchor is not None:
            raise place.error("a key cannot carry an anchor")
        frame = self.stack[-1]
        if text == "<<":
            raise place.error("merge keys ('<<') are not allowed", "write the keys out, or use 'extends'")
        if text in frame.fields:
            first = frame.fields[text].key
            message = f"key '{text}' stands twice in one mapping"
            raise place.error(message, f"first in line {first.line}" if first else None)
        frame.pending = (text, place)

    def _open(self, event: events.MappingStartEvent | events.SequenceStartEvent) -> None:
        place = self._place(event)
        self._no_tag(event, place)
        if self._awaits_key():
            raise place.error(
                "a key must be a single word", "put a text that has braces or brackets in quotes"
            )
        self._deepen(place, 1)
        before = self.nodes
        self._count(place)
        self.stack.append(_Frame(place, event.anchor, before, isinstance(event, events.MappingStartEvent)))

    def _alias(self, event: events.AliasEvent) -> None:
        place = self._place(event)
        if self._awaits_key():
            raise place.error("a key cannot be an alias")
        if event.anchor not in self.anchors:
            message = f"alias '*{event.anchor}' refers to nothing that is complete before it"
            raise place.error(message)
        node, size, height = self.anchors[event.anchor]
        self._deepen(place, height)
        self._count(place, size)
        self._add(Node(node.value, place), None, self.nodes - size, height)

    def _add(self, node: Node, anchor: str | None, before: int, height: int = 0) -> None:
        if anchor is not None:
            self.anchors[anchor] = (node, self.nodes - before, height)
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        frame.height = max(frame.height, height + 1)
        if frame.pending is None:
            frame.items.append(node)
            return
        text, place = frame.pending
        frame.fields[text] = Node(node.value, node.place, place)
        frame.pending = None


def _syntax_error(error: yaml.YAMLError, text: str, file: str) -> InputError:
    """Turn an error of the parser into one that names the place and, where likely, the remedy."""
    mark: Any = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable text"
    problem = _CLEARER.get(problem, problem)
    message = f"not valid YAML: {problem}"
    if mark is None:
        position = getattr(error, "position", None)
        if not isinstance(position, int):
            return InputError(message, file)
        before = text.encode("utf-8", "replace")[:position].decode("utf-8", "replace")
        return InputError(message, file, before.count("\n") + 1, len(before) - before.rfind("\n"))
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    hint = "indent with spaces, not with tabs" if "\t" in line[: mark.column + 1] else None
    return InputError(message, file, mark.line + 1, mark.column + 1, hint)
