"""Timelines for the Perfetto and Chrome trace viewers, streamed as JSON.

One process per device, one thread per stream, one complete event per span. Times are whole
nanoseconds (written in microseconds with three decimals): rounding starts and ends alike keeps
neighbours from overlapping. Where spans of one stream run at the same time, they go to further
threads, because a viewer draws overlapping slices of one thread wrongly.

Format: "Trace Event Format" of the Chromium project.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pandas as pd

_STREAMS: Final = ("compute", "network", "host", "cpu", "copy in", "copy out")
_MOST_LANES: Final = 1_000_000
_BATCH: Final = 4096
_ARROWS: Final = {"dispatch": "experts", "experts": "combine"}
"""An arrow leads from the end of the first cause to the start of the second, on each device."""


def _microseconds(nanoseconds: int) -> str:
    return f"{nanoseconds // 1000}.{nanoseconds % 1000:03d}"


class _Threads:
    """Numbers the threads of each device by stream and lane, and says how they are called."""

    def __init__(self) -> None:
        self._ranks = {name: rank for rank, name in enumerate(_STREAMS)}
        self._numbers: dict[tuple[int, str, int], int] = {}

    def number(self, device: int, stream: str, lane: int) -> int:
        self._ranks.setdefault(stream, len(self._ranks))
        return self._numbers.setdefault((device, stream, lane), len(self._numbers) + 1)

    def metadata(self) -> Iterator[str]:
        """Yield the events that name and order processes and threads."""
        for device in sorted({device for device, _, _ in self._numbers}):
            yield _meta("process_name", device, 0, {"name": f"device {device}"})
            yield _meta("process_sort_index", device, 0, {"sort_index": device})
        for (device, stream, lane), thread in self._numbers.items():
            name = stream if lane == 0 else f"{stream} {lane + 1}"
            yield _meta("thread_name", device, thread, {"name": name})
            place = self._ranks[stream] * _MOST_LANES + lane
            yield _meta("thread_sort_index", device, thread, {"sort_index": place})


def _meta(name: str, device: int, thread: int, values: Mapping[str, Any]) -> str:
    return json.dumps({"ph": "M", "name": name, "pid": device, "tid": thread, "args": values})


def events(spans: pd.DataFrame, arrows: bool = True) -> Iterator[str]:
    """Yield trace events as JSON texts: slices by device, stream and start, arrows, then names.

    Args:
        spans: the spans table; spans shorter than half a nanosecond are left out.
        arrows: draw dispatch to experts to combine on each device.
    """
    begin = np.rint(spans["start_s"].to_numpy() * 1e9).astype(np.int64)
    end = np.rint(spans["end_s"].to_numpy() * 1e9).astype(np.int64)
    device, layer, step = (spans[name].to_numpy() for name in ("device", "layer", "step"))
    stream, cause = (spans[name].to_numpy(dtype=object) for name in ("stream", "cause"))
    quoted = {name: json.dumps(str(name)) for name in dict.fromkeys(cause)}
    threads = _Threads()
    order = np.lexsort((end, begin, stream.astype(str), device))
    free: list[int] = []
    track: tuple[int, str] | None = None
    places: dict[tuple[int, int, int], dict[str, list[tuple[int, int, int]]]] = {}
    for row in order[end[order] > begin[order]].tolist():
        if (device[row], stream[row]) != track:
            track, free = (device[row], stream[row]), []
        lane = next((i for i, until in enumerate(free) if until <= begin[row]), len(free))
        free[lane : lane + 1] = [int(end[row])]
        where, start, stop = int(device[row]), int(begin[row]), int(end[row])
        thread = threads.number(where, str(stream[row]), lane)
        yield (
            f'{{"ph":"X","name":{quoted[cause[row]]},"cat":{quoted[cause[row]]},"pid":{where},"tid":{thread},'
            f'"ts":{_microseconds(start)},"dur":{_microseconds(stop - start)},'
            f'"args":{{"cause":{quoted[cause[row]]},"layer":{int(layer[row])},"step":{int(step[row])}}}}}'
        )
        if arrows and (cause[row] in _ARROWS or cause[row] in _ARROWS.values()):
            key = (int(step[row]), int(layer[row]), where)
            places.setdefault(key, {}).setdefault(str(cause[row]), []).append((thread, start, stop))
    yield from _arrows(places)
    yield from threads.metadata()


def _arrows(places: Mapping[tuple[int, int, int], Mapping[str, list[tuple[int, int, int]]]]) -> Iterator[str]:
    """Yield pairs of flow events between the slices of one device and layer, micro-batch by micro-batch."""
    number = 0
    for (_, _, device), slices in sorted(places.items()):
        for earlier, later in _ARROWS.items():
            for out, back in _pairs(slices.get(earlier, []), slices.get(later, [])):
                number += 1
                thread, _, stop = out
                head = f'"name":"tokens","cat":"tokens","id":{number},"pid":{device}'
                yield f'{{"ph":"s",{head},"tid":{thread},"ts":{_microseconds(stop - 1)}}}'
                thread, start, _ = back
                yield f'{{"ph":"f","bp":"e",{head},"tid":{thread},"ts":{_microseconds(start)}}}'


def _pairs(
    earlier: Sequence[tuple[int, int, int]], later: Sequence[tuple[int, int, int]]
) -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Yield which slice (thread, start, stop) leads to which.

    Each micro-batch has one of either, in the same order. In training one has two of experts, the second for
    gradients of weights; then the slice that is closest in time is taken.
    """
    if len(earlier) == len(later):
        yield from zip(earlier, later, strict=True)
    elif len(earlier) < len(later):
        for out in earlier:
            yield from ((out, back) for back in [one for one in later if one[1] >= out[2]][:1])
    else:
        for back in later:
            yield from ((out, back) for out in [one for one in earlier if one[2] <= back[1]][-1:])


def stream_timeline(
    spans: pd.DataFrame, out: IO[str], about: Mapping[str, Any] | None = None, arrows: bool = True
) -> int:
    """Write a timeline to an open text file without holding it in memory.

    Args:
        spans: the spans table.
        out: where the JSON goes.
        about: names of the run for the viewer's information panel.
        arrows: draw dispatch to experts to combine on each device.

    Returns:
        The number of events written.
    """
    head = json.dumps(dict(about or {}), sort_keys=True)
    out.write(f'{{"displayTimeUnit":"ns","otherData":{head},"traceEvents":[')
    count, batch = 0, []
    for text in events(spans, arrows):
        batch.append(("\n" if count == 0 else ",\n") + text)
        count += 1
        if len(batch) == _BATCH:
            out.write("".join(batch))
            batch.clear()
    out.write("".join(batch))
    out.write("\n]}\n")
    return count


def write_timeline(
    spans: pd.DataFrame, path: str | Path, about: Mapping[str, Any] | None = None, arrows: bool = True
) -> int:
    """Write a timeline file that https://ui.perfetto.dev and chrome://tracing open.

    Args:
        spans: the spans table.
        path: file to write.
        about: names of the run for the viewer's information panel.
        arrows: draw dispatch to experts to combine on each device.

    Returns:
        The number of events written.
    """
    with Path(path).open("w", encoding="utf-8", newline="\n") as out:
        return stream_timeline(spans, out, about, arrows)
