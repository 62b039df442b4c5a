"""Spans: what each stream of each device did when, for timelines of the first steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moesim.engine.host import HOST_CAUSES
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
    time, order = record.timeline, recording.schedule
    devices = recording.setup.cluster.size
    rows, layers = recording.setup.moe_rows, recording.setup.layers
    cursor = np.full(devices, origin)
    for row, seconds in zip(rows, record.migration, strict=True):
        cursor = _work(columns, record.step, layers[row].index, "migration", cursor, seconds, "network")
    for index, stage in enumerate(order.stages):
        if stage.awaits is not None:
            ready = origin + float(time.ready[stage.awaits])
            layer = layers[rows[order.collectives[stage.awaits].layer]].index
            columns.add(record.step, layer, "compute", "wait", cursor, np.maximum(cursor, ready))
            _exchange(columns, record, stage.awaits, layer, origin)
            cursor = origin + time.starts[index]
        for row, cause, seconds in recording.own[stage.batch].parts(stage):
            cursor = _work(columns, record.step, layers[row].index, cause, cursor, seconds)
        if stage.part in ("experts", "expert_weights"):
            layer = layers[rows[stage.layer]].index
            cursor = _work(columns, record.step, layer, "experts", cursor, record.segments.of(stage))
        ahead = order.awaiting(stage)
        if ahead is not None:
            layer = layers[rows[ahead]].index
            for cause in HOST_CAUSES:
                spent = np.full(devices, record.host[cause][stage.batch, ahead])
                cursor = _work(columns, record.step, layer, cause, cursor, spent, "host")
    end = np.full(devices, origin + time.latency)
    columns.add(record.step, layers[-1].index, "compute", "wait", cursor, end)


def _exchange(columns: _Columns, record: StepRecord, number: int, layer: int, origin: float) -> None:
    """Add a collective, with the weight moves that outlast it."""
    time, step = record.timeline, record.step
    one = time.schedule.collectives[number]
    size = columns.devices.size
    begun, done = (np.full(size, origin + float(when[number])) for when in (time.begun, time.done))
    if one.way == 1:
        columns.add(step, layer, "network", "combine", begun, done)
        return
    tokens_end = np.minimum(begun + float(record.exchanges[one.batch].dispatch[one.layer]), done)
    columns.add(step, layer, "network", "dispatch", begun, tokens_end)
    columns.add(step, layer, "network", "weight_move", tokens_end, done)


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
