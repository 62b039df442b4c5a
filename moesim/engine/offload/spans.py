"""Spans of an offloading iteration: the device, its copies, the CPU and the network side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moesim.causes import CAUSES
from moesim.engine.own_costs import AFTER_COMBINE, BEFORE_DISPATCH
from moesim.engine.setup import Setup

if TYPE_CHECKING:
    from moesim.engine.offload.runner import IterationRecord

Span = tuple[int, int, int, str, str, float, float]
"""Step, layer, device, stream, cause, start and end (s)."""


def spans_of(setup: Setup, record: IterationRecord) -> list[Span]:
    """Return the spans of one iteration."""
    found: list[Span] = []
    step, rows = record.iteration.number, setup.moe_rows
    index = [layer.index for layer in setup.layers]
    now = record.begin + record.planning
    first = 0
    for place, row in enumerate(record.turns):
        begin = row[0].begin
        dispatch = float(record.dispatched[0, place])
        combine = float(record.dispatched[1, place])
        layer = index[rows[place]]
        for device, turn in enumerate(row):
            pieces = _pieces(setup, record, first, int(rows[place]), place)
            found += _lay(step, device, index, pieces, now, begin - dispatch)
            found += [(step, layer, device, "compute", *busy) for busy in turn.busy]
            found += [(step, layer, device, "cpu", "cpu_experts", *busy) for busy in turn.cpu_busy]
            found += [(step, layer, device, way, "cpu_experts", *when) for way, *when in turn.hops]
            if dispatch:
                found.append((step, layer, device, "network", "dispatch", begin - dispatch, begin))
            if combine:
                done = max(turn.end for turn in row)
                found.append((step, layer, device, "network", "combine", done, done + combine))
        now = max(turn.end for turn in row) + combine
        first = int(rows[place]) + 1
    last = len(index) - 1
    for device in range(len(record.turns[0])):
        pieces = _pieces(setup, record, first, last + 1, len(record.turns))
        found += _lay(step, device, index, pieces, now, record.end)
    for span in record.spans:
        cause = "prefetch" if span.prefetched else "expert_load"
        found.append((step, index[rows[span.layer]], span.device, "copy in", cause, span.begin, span.finish))
    return [span for span in found if span[6] - span[5] > 1e-12]


def _pieces(
    setup: Setup, record: IterationRecord, first: int, stop: int, place: int
) -> list[tuple[int, str, float]]:
    """Return own work from after one MoE layer up to the router of the next: row, cause, seconds."""
    shares, rows = record.own.shares, setup.moe_rows
    pieces: list[tuple[int, str, float]] = []
    if place:
        before = int(rows[place - 1])
        pieces.append((before, AFTER_COMBINE, float(shares[before, CAUSES.index(AFTER_COMBINE)])))
    for row in range(first, min(stop + 1, len(shares))):
        for cause in BEFORE_DISPATCH:
            if cause == "dense" and row in rows:
                continue
            pieces.append((row, cause, float(shares[row, CAUSES.index(cause)])))
        if row in rows:
            pieces.append((row, "launch", float(shares[row, CAUSES.index("launch")])))
    return pieces


def _lay(
    step: int, device: int, index: list[int], pieces: list[tuple[int, str, float]], begin: float, end: float
) -> list[Span]:
    """Put pieces one behind the other; what is left belongs to the head, or is rounding."""
    found: list[Span] = []
    now = begin
    for row, cause, seconds in pieces:
        stream = "host" if cause == "launch" else "compute"
        stop = min(now + seconds, end)
        found.append((step, index[row], device, stream, cause, now, stop))
        now = stop
    if end - now > 1e-9 and pieces and np.isfinite(end):
        found.append((step, index[pieces[-1][0]], device, "compute", "dense", now, end))
    return found
