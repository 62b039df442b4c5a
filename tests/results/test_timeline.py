from __future__ import annotations

import io
import json
from collections import defaultdict
from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.results.timeline import stream_timeline, write_timeline

FIELDS = ("step", "layer", "device", "stream", "cause", "start_s", "end_s")


def timeline(spans: pd.DataFrame, arrows: bool = True) -> dict:
    out = io.StringIO()
    count = stream_timeline(spans, out, {"scenario": 'quo"ted'}, arrows)
    data = json.loads(out.getvalue())
    assert count == len(data["traceEvents"])
    return data


def frame(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(FIELDS))


def tracks(data: dict) -> dict[tuple[int, int], list[tuple[float, float]]]:
    found = defaultdict(list)
    for event in data["traceEvents"]:
        if event["ph"] == "X":
            start = round(event["ts"] * 1000)
            found[event["pid"], event["tid"]].append((start, start + round(event["dur"] * 1000)))
    return found


def assert_no_overlap(data: dict) -> None:
    for slices in tracks(data).values():
        assert all(a[1] <= b[0] for a, b in pairwise(sorted(slices)))


def test_every_span_is_one_complete_event_with_its_cause(make_result):
    spans = make_result(moved=2).spans
    slices = [event for event in timeline(spans)["traceEvents"] if event["ph"] == "X"]
    assert len(slices) == len(spans)
    assert sum(event["dur"] for event in slices) == pytest.approx(
        (spans["end_s"] - spans["start_s"]).sum() * 1e6, rel=1e-3
    )
    assert {event["args"]["cause"] for event in slices} == set(spans["cause"])
    assert {event["args"]["layer"] for event in slices} == set(spans["layer"])


def test_devices_are_processes_and_streams_are_named_threads(make_result):
    data = timeline(make_result().spans)
    named = [event for event in data["traceEvents"] if event["ph"] == "M"]
    processes = {e["pid"]: e["args"]["name"] for e in named if e["name"] == "process_name"}
    assert processes == {device: f"device {device}" for device in range(8)}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in named if e["name"] == "thread_name"}
    assert set(threads) == set(tracks(data))
    assert set(threads.values()) == {"compute", "network"}


def test_slices_of_a_recorded_layer_do_not_overlap(make_result):
    assert_no_overlap(timeline(make_result(moved=3).spans))


def test_transfers_at_the_same_time_get_threads_of_their_own():
    rows = [
        (0, 1, 0, "network", "dispatch", 0.0, 5e-6),
        (0, 1, 0, "network", "weight_move", 1e-6, 9e-6),
        (0, 1, 0, "network", "combine", 5e-6, 7e-6),
    ]
    data = timeline(frame(rows))
    assert_no_overlap(data)
    names = [e["args"]["name"] for e in data["traceEvents"] if e["name"] == "thread_name"]
    assert names == ["network", "network 2"]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["compute", "network", "other"]),
            st.floats(0, 1e-3),
            st.floats(0, 1e-4),
        ),
        max_size=40,
    )
)
def test_no_spans_whatever_make_overlapping_slices(drawn):
    rows = [(0, 0, device, stream, "experts", at, at + lasts) for device, stream, at, lasts in drawn]
    assert_no_overlap(timeline(frame(rows)))


def test_arrows_join_dispatch_experts_and_combine_within_their_slices(make_result):
    data = timeline(make_result().spans)
    starts = {e["id"]: e for e in data["traceEvents"] if e["ph"] == "s"}
    ends = {e["id"]: e for e in data["traceEvents"] if e["ph"] == "f"}
    assert starts.keys() == ends.keys()
    assert len(starts) == 2 * 8 * 6
    for event in (*starts.values(), *ends.values()):
        slices = tracks(data)[event["pid"], event["tid"]]
        assert any(begin <= round(event["ts"] * 1000) <= end for begin, end in slices)
    assert all(starts[i]["ts"] <= ends[i]["ts"] for i in starts)
    assert not [e for e in timeline(make_result().spans, arrows=False)["traceEvents"] if e["ph"] in "sf"]


def test_no_spans_give_an_empty_valid_timeline():
    assert timeline(frame([]))["traceEvents"] == []


def test_a_file_says_which_run_it_is_of(make_result, tmp_path):
    path = tmp_path / "timeline.json"
    write_timeline(make_result().spans, path, {"scenario": "toy", "policy": "ep"})
    assert json.loads(path.read_text())["otherData"] == {"scenario": "toy", "policy": "ep"}
