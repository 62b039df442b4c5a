"""Import the text logs of ESFT: expert ids and gate weights per token, one file per layer.

Layout (deepseek-ai/ESFT, ``results/expert_scores/<task>/expert_weights_<layer>.txt``): a line is one
sequence; the ids of all its tokens, ``top_k`` per token, then an empty field, then as many weights; fields
are separated by tabs. Line ``n`` of every layer's file is the same sequence. Newer runs put the files of
each worker into ``rank<...>`` directories.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.routing.importers.esft_lines import Line, parse_line
from moesim.routing.importers.reading import check_file
from moesim.routing.writer import TraceWriter

_FILE: Final = re.compile(r"^expert_weights_(\d{1,6})\.txt$")
_MAX_LINE: Final = 64 << 20
_FLUSH_TOKENS: Final = 2048


def import_esft(
    source: Path,
    target: Path,
    *,
    experts: int = 64,
    top_k: int = 6,
    model: str = "DeepSeek-V2-Lite",
    weight_scale: float = 1e-4,
    provenance: str = "",
    licence: str | None = None,
    overwrite: bool = False,
) -> None:
    """Import ESFT text logs.

    Args:
        source: directory with ``expert_weights_<layer>.txt`` files, or one whose sub-directories have them;
            a sub-directory is a task, except ``rank...`` ones, which belong to the task above them.
        target: trace to write.
        experts: routed experts per layer; the published logs are of DeepSeek-V2-Lite.
        top_k: experts per token.
        model: name of the model.
        weight_scale: resolution of the printed weights.
        provenance: where the data came from.
        licence: licence of the data.
        overwrite: replace a trace that exists.

    Besides a sequence per line, files with one token per line are read, where a blank line ends a
    sequence and fields are ``top_k`` ids then ``top_k`` weights, or id and weight in turn.

    Raises:
        InputError: naming file, line and field.
    """
    runs = _find_runs(source)
    layers = sorted(runs[0][1])
    for directory, files, _ in runs:
        if sorted(files) != layers:
            message = f"this directory logs layers {sorted(files)}, '{runs[0][0]}' logs {layers}"
            raise InputError(message, str(directory))
    tasks = tuple(dict.fromkeys(task for _, _, task in runs))
    with TraceWriter(
        target,
        model=model,
        experts=experts,
        top_k=top_k,
        layers=layers,
        tasks=tasks,
        provenance=provenance or f"ESFT text logs of {', '.join(tasks)}",
        licence=licence,
        weight_scale=weight_scale,
        overwrite=overwrite,
    ) as writer:
        sequence = 0
        for _, files, task in runs:
            ordered = [files[layer] for layer in layers]
            last = sequence
            for number, ids, weights in _blocks(ordered, experts, top_k):
                writer.append(ids, weights=weights, sequence=number + sequence, task=task)
                last = sequence + int(number[-1]) + 1
            sequence = last


def _find_runs(source: Path) -> list[tuple[Path, dict[int, Path], str]]:
    """Find the directories with logs: (directory, file by layer, task)."""
    if not source.is_dir():
        message = f"'{source}' is not a directory with expert_weights_<layer>.txt files"
        raise InputError(message)
    found: dict[Path, dict[int, Path]] = {}
    for pattern in ("*", "*/*", "*/*/*"):
        for path in sorted(source.glob(pattern)):
            match = _FILE.match(path.name)
            if match and path.is_file():
                found.setdefault(path.parent, {})[int(match.group(1))] = path
    if not found:
        message = f"there are no expert_weights_<layer>.txt files in '{source}'"
        raise InputError(message)
    runs = []
    for directory in sorted(found):
        parts = [part for part in directory.relative_to(source).parts if not part.startswith("rank")]
        runs.append((directory, found[directory], parts[-1] if parts else source.resolve().name))
    return runs


def _blocks(
    files: list[Path], experts: int, top_k: int
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Read the files of all layers in step; yields (sequence number, ids, weights) of many tokens."""
    lines: list[tuple[int, list[Line]]] = []
    waiting, sequence, open_sequence = 0, 0, False
    with ExitStack() as stack:
        handles = []
        for path in files:
            check_file(path)
            handles.append(stack.enter_context(path.open("r", encoding="utf-8", errors="replace")))
        number = 0
        while True:
            number += 1
            texts = [_read_line(handle, path, number) for handle, path in zip(handles, files, strict=True)]
            if all(text is None for text in texts):
                break
            blank = [not (text or "").strip() for text in texts]
            if all(blank):
                sequence, open_sequence = sequence + open_sequence, False
                continue
            row = [
                parse_line(text or "", path, number, experts, top_k)
                for text, path in zip(texts, files, strict=True)
            ]
            tokens = len(row[0].ids)
            for line, path in zip(row, files, strict=True):
                if len(line.ids) != tokens:
                    message = f"{len(line.ids)} tokens where '{files[0].name}' has {tokens}"
                    raise InputError(message, str(path), number)
            if tokens > 1:  # a line of several tokens is a sequence of its own
                sequence += open_sequence
            lines.append((sequence, row))
            open_sequence = tokens == 1
            sequence += tokens > 1
            waiting += tokens
            if waiting >= _FLUSH_TOKENS:
                yield _stack(lines)
                lines, waiting = [], 0
    if lines:
        yield _stack(lines)


def _stack(
    lines: list[tuple[int, list[Line]]],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Put parsed lines together: sequence [n], ids and weights [n, layers, top_k]."""
    lengths = [len(row[0].ids) for _, row in lines]
    sequence = np.repeat(np.array([number for number, _ in lines], dtype=np.int32), lengths)
    ids = np.concatenate([np.stack([line.ids for line in row], axis=1) for _, row in lines])
    weights = np.concatenate([np.stack([line.weights for line in row], axis=1) for _, row in lines])
    return sequence, ids, weights


def _read_line(handle: IO[str], path: Path, number: int) -> str | None:
    """Read a line without its end; None at the end of the file."""
    text = handle.readline(_MAX_LINE)
    if len(text) >= _MAX_LINE:
        message = f"a line has at most {_MAX_LINE} characters"
        raise InputError(message, str(path), number)
    return text.rstrip("\r\n") if text else None
