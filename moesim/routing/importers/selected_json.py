"""Import a generic JSON (or JSON Lines) list of selected experts.

A token is a list of layers, each a list of ``top_k`` ids, or an object with ``ids`` and optionally
``weights`` (same shape), ``sequence``, ``phase`` and ``task``. JSON: a list of tokens, or an object with
``tokens`` and optionally ``model``, ``experts`` and ``layers``. JSON Lines: one token on a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from moesim.errors import InputError
from moesim.routing.importers.reading import check_file, parse_json, read_text, whole_numbers
from moesim.routing.writer import TraceWriter

_COLUMNS: Final = ("weights", "sequence", "phase", "task")
_FLUSH_TOKENS: Final = 1024
_MAX_LINE: Final = 16 << 20

Token = tuple[int, dict[str, Any]]


def import_selected(
    source: Path,
    target: Path,
    *,
    experts: int | None = None,
    layers: Sequence[int] | None = None,
    first_layer: int = 0,
    tasks: Sequence[str] = (),
    model: str = "",
    provenance: str = "",
    licence: str | None = None,
    overwrite: bool = False,
) -> None:
    """Import selected experts from .json or .jsonl; options win over what the file says.

    Args:
        source: file.
        target: trace to write.
        experts: routed experts per layer, unless the file says so.
        layers: transformer layer index of each layer; default: counted up from ``first_layer``.
        first_layer: transformer layer index of the first.
        tasks: names of the tasks; needed for .jsonl files that have tasks.
        model: name of the model.
        provenance: where the data came from.
        licence: licence of the data.
        overwrite: replace a trace that exists.

    Raises:
        InputError: naming the file and the token, for JSON Lines the line.
    """
    name = str(source)
    lines = source.suffix.lower() == ".jsonl"
    header: dict[str, Any] = {}
    if lines:
        tokens = _read_lines(source)
    else:
        data = parse_json(read_text(source), name)
        header = data if isinstance(data, dict) else {"tokens": data}
        if not isinstance(header.get("tokens"), list):
            message = "expected a list of tokens, or an object with 'tokens'"
            raise InputError(message, name)
        tokens = ((number, _as_object(token, number, name)) for number, token in enumerate(header["tokens"]))
        tasks = tasks or _task_names(header["tokens"])
    first = next(tokens, None)
    if first is None:
        message = "there is not a single token"
        raise InputError(message, name)
    shape = whole_numbers(first[1]["ids"], (2,), "ids of the first token", name).shape
    count = experts if experts is not None else header.get("experts")
    if not isinstance(count, int):
        message = "the file does not say how many experts there are"
        raise InputError(message, name, hint="give the option experts")
    with TraceWriter(
        target,
        model=str(model or header.get("model", "")),
        experts=count,
        top_k=int(shape[1]),
        layers=layers or header.get("layers") or range(first_layer, first_layer + int(shape[0])),
        tasks=tasks,
        provenance=provenance or f"imported from {source.name}",
        licence=licence,
        weights="weights" in first[1],
        overwrite=overwrite,
    ) as writer:
        batch: list[Token] = []
        for token in chain([first], tokens):
            batch.append(token)
            if len(batch) == _FLUSH_TOKENS:
                _flush(writer, batch, shape, lines, name)
                batch = []
        if batch:
            _flush(writer, batch, shape, lines, name)


def _read_lines(source: Path) -> Iterator[Token]:
    """Yield (line number, token) of a JSON Lines file."""
    check_file(source)
    name = str(source)
    with source.open("r", encoding="utf-8", errors="replace") as file:
        number = 0
        while text := file.readline(_MAX_LINE):
            number += 1
            if len(text) >= _MAX_LINE:
                message = f"a line has at most {_MAX_LINE} characters"
                raise InputError(message, name, number)
            if text.strip():
                yield number, _as_object(parse_json(text, name, number), number, name)


def _as_object(token: Any, number: int, name: str) -> dict[str, Any]:
    """Bring a token to the form of an object with ids."""
    item = {"ids": token} if isinstance(token, list) else token
    if not isinstance(item, dict) or "ids" not in item:
        message = f"token {number} is neither a list of layers nor an object with 'ids'"
        raise InputError(message, name)
    unknown = sorted(set(item) - {"ids", *_COLUMNS})
    if unknown:
        message = f"token {number} has the unknown field '{unknown[0]}'"
        raise InputError(message, name, hint=f"known: ids, {', '.join(_COLUMNS)}")
    return item


def _task_names(tokens: list[Any]) -> tuple[str, ...]:
    """Collect the task names in order of appearance."""
    names = (token.get("task") for token in tokens if isinstance(token, dict))
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str)))


def _flush(writer: TraceWriter, batch: list[Token], shape: tuple[int, ...], lines: bool, name: str) -> None:
    """Append a batch, blaming the token (or line) that does not fit."""
    ids = []
    given = set(batch[0][1])
    columns: dict[str, list[Any]] = {key: [] for key in _COLUMNS if key in given}
    for number, token in batch:
        unit = "line" if lines else "token"
        table = whole_numbers(token["ids"], (2,), f"ids of {unit} {number}", name)
        if table.shape != shape:
            message = f"{unit} {number} has {table.shape} layers and ids, the first has {shape}"
            raise InputError(message, name, number if lines else None)
        if set(token) != given:
            message = f"{unit} {number} has other fields than the tokens before it"
            raise InputError(message, name, number if lines else None)
        ids.append(table)
        for key, values in columns.items():
            values.append(_value(key, token[key], shape, writer.tasks, f"{unit} {number}", name))
    writer.append(np.stack(ids), **{key: np.stack(values) for key, values in columns.items()})


def _value(key: str, value: Any, shape: tuple[int, ...], tasks: Sequence[str], place: str, name: str) -> Any:
    """Turn one field of a token into numbers."""
    if key == "weights":
        try:
            weights = np.asarray(value, dtype=np.float64)
        except (ValueError, TypeError) as error:
            message = f"{place}: the weights are not a table of numbers"
            raise InputError(message, name) from error
        if weights.shape != shape:
            message = f"{place}: the weights have shape {weights.shape}, the ids {shape}"
            raise InputError(message, name)
        return weights
    names = {"phase": ("prefill", "decode"), "task": tuple(tasks)}.get(key, ())
    if isinstance(value, str) and value in names:
        return np.int64(names.index(value))
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        message = f"{place}: '{str(value)[:40]}' is not a {key}"
        raise InputError(message, name, hint=f"known: {', '.join(names)}" if names else None)
    return np.int64(value)
