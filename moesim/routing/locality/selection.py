"""Which tokens of a recorded trace locality is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.routing.format import AnyArray
from moesim.routing.locality.accesses import Accesses, IntArray
from moesim.routing.trace import RoutingTrace
from moesim.routing.trace_window import select_tokens

SEGMENT: Final = 512
"""Tokens per sequence where a trace does not tell sequences apart: those of the published measure."""


@dataclass(frozen=True, eq=False)
class Selection:
    """Tokens of a trace in front of caches.

    Attributes:
        accesses: the tokens, a cache per layer.
        layers: transformer layer index of each.
        notes: what a reader has to know, one sentence each.
    """

    accesses: Accesses
    layers: tuple[int, ...]
    notes: tuple[str, ...]


def select_accesses(
    trace: RoutingTrace,
    *,
    layers: Sequence[int] | None = None,
    task: str | None = None,
    phase: str | None = None,
    sequences: int | None = None,
    length: int | None = None,
) -> Selection:
    """Take tokens from a trace, the experts of each by falling gate weight where weights are recorded.

    A sequence is a run of neighbouring tokens with one sequence number; leaving tokens out ends it.

    Args:
        trace: a trace of tokens.
        layers: transformer layer indices; None: all.
        task: only this task.
        phase: only ``prefill`` or ``decode``.
        sequences: only so many sequences, drawn evenly and always the same ones; None: all.
        length: cut sequences into pieces of so many tokens, as the published measure does with 512; None: as
            recorded, or 512 where the trace does not tell sequences apart.

    Raises:
        InputError: a trace of counts, which knows no order of tokens; a layer, task or phase that the trace
            lacks; no token left; or a number below 1.
    """
    if trace.is_counts:
        message = "the trace holds counts per step only; locality needs the experts of each token, in order"
        raise InputError(message, str(trace.path), hint="'moesim list importers' names recordings of tokens")
    if trace.tokens == 0:
        message = "the trace holds no token"
        raise InputError(message, str(trace.path))
    for name, value in (("sequences", sequences), ("length", length)):
        if value is not None and value < 1:
            message = f"'{name}' must be at least 1, got {value}"
            raise InputError(message)
    columns = _columns(trace, layers)
    tokens = select_tokens(trace, task, phase)
    rows = np.arange(trace.tokens) if tokens is None else tokens
    notes = []
    if trace.sequence is None and length is None:
        length = SEGMENT
        notes.append(f"The trace does not tell sequences apart; it was cut into {SEGMENT} tokens each.")
    starts, sizes = _runs(rows, trace.sequence, length)
    if sequences is not None and sequences < len(starts):
        drawn = np.sort(np.random.default_rng(0).choice(len(starts), sequences, replace=False))
        kept = np.concatenate([np.arange(starts[one], starts[one] + sizes[one]) for one in drawn])
        rows, sizes = rows[kept], sizes[drawn]
    whole = len(rows) == trace.tokens
    ids = trace.logical_ids(slice(None) if whole else rows)[:, columns]
    weights = trace.gate_weights(slice(None) if whole else rows)
    if weights is None:
        notes.append("Gate weights were not recorded; the experts of a token come as they are stored.")
    else:
        order = np.argsort(-weights[:, columns], axis=2, kind="stable")
        ids = np.take_along_axis(np.asarray(ids), order, axis=2)
    accesses = Accesses.of(ids, sizes, experts=trace.experts)
    return Selection(accesses, tuple(trace.layers[column] for column in columns), tuple(notes))


def _columns(trace: RoutingTrace, layers: Sequence[int] | None) -> list[int]:
    """Return the columns of some layers, in the order of the trace."""
    if layers is None:
        return list(range(len(trace.layers)))
    missing = sorted(set(layers) - set(trace.layers))
    if missing or not layers:
        what = f"layer {missing[0]}" if missing else "layer to look at"
        known = ", ".join(map(str, trace.layers[:32])) + (", ..." if len(trace.layers) > 32 else "")
        message = f"the trace has no {what}" if missing else "no layer was chosen"
        raise InputError(message, str(trace.path), hint=f"recorded: {known}")
    return [column for column, layer in enumerate(trace.layers) if layer in layers]


def _runs(
    rows: npt.NDArray[np.integer], sequence: AnyArray | None, length: int | None
) -> tuple[IntArray, IntArray]:
    """Return first places and sizes of the sequences of some rows."""
    begins = np.ones(len(rows), dtype=bool)
    begins[1:] = np.diff(rows) != 1
    if sequence is not None:
        numbers = np.asarray(sequence[rows])
        begins[1:] |= numbers[1:] != numbers[:-1]
    starts = np.flatnonzero(begins)
    if length is not None:
        place = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
        starts = np.flatnonzero(place % length == 0)
    return starts.astype(np.int64), np.diff(starts, append=len(rows)).astype(np.int64)
