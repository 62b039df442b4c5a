"""Check every byte of a trace: checksums, ids in range, weights that are numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moesim.errors import InputError
from moesim.routing.format import PHASES, AnyArray, release, row_blocks, sha256
from moesim.routing.trace import RoutingTrace

_ROWS = 1 << 20


def verify_trace(trace: RoutingTrace) -> None:
    """Check checksums and contents, streaming with bounded memory.

    Raises:
        InputError: naming the file and, for contents, the first wrong token (or step) and layer.
    """
    for entry in trace.manifest.files.values():
        path = trace.path / entry.file
        if sha256(path) != entry.sha256:
            message = "the checksum differs from the manifest: the file was damaged or changed"
            raise InputError(message, str(path), hint="copy or import the trace again")
    if trace.is_counts:
        _scan(trace, "counts", lambda part: part < 0, "a negative number of copies")
        return
    limit = trace.id_limit
    _scan(trace, "ids", lambda part: (part < 0) | (part >= limit), f"an expert id outside 0..{limit - 1}")
    _scan(trace, "ids", _twice, "an expert selected twice")
    _scan(
        trace,
        "weights",
        lambda part: ~(np.isfinite(part) & (part >= 0)),
        "a gate weight that is not a number from 0 up",
    )
    _scan(trace, "sequence", lambda part: part < 0, "a negative sequence number")
    _scan(trace, "phase", lambda part: part >= len(PHASES), "an unknown phase")
    tasks = len(trace.tasks)
    _scan(trace, "task", lambda part: (part < 0) | (part >= tasks), "a task without a name")


def _twice(ids: AnyArray) -> AnyArray:
    """Mark ids that occur twice in one token and layer."""
    ordered = np.sort(ids, axis=2)
    return np.asarray(ordered[:, :, 1:] == ordered[:, :, :-1])


def _scan(trace: RoutingTrace, column: str, wrong: Callable[[AnyArray], AnyArray], what: str) -> None:
    """Raise for the first row of a column in which something is wrong."""
    array = next((values for name, values in trace.columns.items() if name == column), None)
    if array is None or array.size == 0:
        return
    width = int(np.prod(array.shape[1:], dtype=np.int64))
    for part in row_blocks(len(array), max(1, _ROWS // width)):
        release(array)
        found = wrong(np.asarray(array[part]))
        if found.any():
            row, *rest = (int(axis) for axis in np.argwhere(found)[0])
            unit = "step" if trace.is_counts else "token"
            layer = f", layer {trace.layers[rest[0]]}" if rest else ""
            message = f"{unit} {part.start + row}{layer}: {what}"
            path = next(entry.file for name, entry in trace.manifest.files.items() if name == column)
            raise InputError(message, str(trace.path / path))
