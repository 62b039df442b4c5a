"""Spans: what each stream of each device did when, for timelines of the first steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moesim.engine.own_costs import BEFORE_DISPATCH
from moesim.engine.recording import Recording
from moesim.engine.step import StepRecord

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[np.float64]

SHORTEST_S = 1e-12
"""Shorter spans are rounding, not work."""


class _Columns:
    """Collects spans of all devices at once."""

    def __init__(self, devices: int) -> None:
        self.devices = np.arange(devices)
        self.rows: list[tuple[int, int, str, str, Array, Array]] = []

    def add(self, step: int, layer: int, stream: str, cause: str, start: Array, end: Array) -> None:
        """Add one span per device where it lasts at all."""
        if np.any(end - start > SHORTEST_S):
            self.rows.append((step, layer, stream, cause, start, end))

    def frame(self) -> pd.DataFrame:
        """Return the tidy table."""
        import pandas as pd

        if not self.rows:
            return pd.DataFrame(columns=["step", "layer", "device", "stream", "cause", "start_s", "end_s"])
        step, layer, stream, cause, starts, ends = zip(*self.rows, strict=True)
        start, end = np.stack(starts), np.stack(ends)
        row, column = np.nonzero(end - start > SHORTEST_S)
        return pd.DataFrame(
            {
                "step": np.asarray(step)[row],
                "layer": np.asarray(layer)[row],
                "device": self.devices[column],
                "stream": np.asarray(stream, dtype=object)[row],
                "cause": np.asarray(cause, dtype=object)[row],
                "start_s": start[row, column],
                "end_s": end[row, column],
            }
        )


def spans_table(recording: Recording) -> pd.DataFrame:
    """Build the spans of the recorded steps, one step after another."""
    columns = _Columns(recording.setup.cluster.size)
    start = 0.0
    for record in recording.span_records:
        _step(recording, record, start, columns)
        start += record.timeline.latency
    return columns.frame()


def _step(recording: Recording, record: StepRecord, origin: float, columns: _Columns) -> None:
    setup, own, time = recording.setup, recording.own, record.timeline
    segment_of = np.searchsorted(setup.moe_rows, np.arange(len(setup.layers)))
    cursor = np.full(setup.cluster.size, origin)
    leftover: tuple[int, Array] | None = None
    for row, layer in enumerate(setup.layers):
        moe = int(segment_of[row]) if layer.is_moe else None
        if leftover is not None:
            cursor = _work(columns, record.step, leftover[0], "unpermute", cursor, leftover[1])
            leftover = None
        for cause in BEFORE_DISPATCH:
            cursor = _work(columns, record.step, layer.index, cause, cursor, getattr(own, cause)[row])
        if moe is None:
            continue
        planning = np.full_like(cursor, record.planning[moe])
        cursor = _work(columns, record.step, layer.index, "planning", cursor, planning, "host")
        cursor = _moe_layer(columns, record, moe, layer.index, origin, cursor)
        leftover = layer.index, own.unpermute[row]
    if leftover is not None:
        cursor = _work(columns, record.step, leftover[0], "unpermute", cursor, leftover[1])
    end = np.full_like(cursor, origin + time.latency)
    columns.add(record.step, setup.layers[-1].index, "compute", "wait", cursor, end)


def _moe_layer(
    columns: _Columns, record: StepRecord, moe: int, layer: int, origin: float, cursor: Array
) -> Array:
    """Add wait, dispatch, weight moves, experts and combine of one MoE layer."""
    time, step = record.timeline, record.step
    begin = np.full_like(cursor, origin + float(time.at_dispatch[moe].max()))
    columns.add(step, layer, "compute", "wait", cursor, begin)
    dispatched = np.full_like(cursor, origin + float(time.dispatched[moe]))
    tokens_end = np.minimum(begin + float(record.exchange.dispatch[moe]), dispatched)
    columns.add(step, layer, "network", "dispatch", begin, tokens_end)
    columns.add(step, layer, "network", "weight_move", tokens_end, dispatched)
    computed = _work(columns, step, layer, "experts", dispatched, record.segments.experts[moe])
    begin = np.full_like(cursor, origin + float(time.at_combine[moe].max()))
    columns.add(step, layer, "compute", "wait", computed, begin)
    combined = np.full_like(cursor, origin + float(time.combined[moe]))
    columns.add(step, layer, "network", "combine", begin, combined)
    return combined


def _work(
    columns: _Columns,
    step: int,
    layer: int,
    cause: str,
    start: Array,
    seconds: Array,
    stream: str = "compute",
) -> Array:
    """Add a piece of work on one stream and return when it ends."""
    end = start + seconds
    columns.add(step, layer, stream, cause, start, end)
    return end
