"""Describing a trace: right numbers, and memory that does not grow with the trace."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from moesim.routing import CountsWriter, RoutingTrace, TraceSource, TraceWriter
from moesim.routing.format import npy_header


def test_balance_and_overlap_are_what_they_are_by_hand(tmp_path):
    ids = [[[0, 1]], [[1, 0]], [[2, 0]], [[0, 2]], [[0, 3]]]
    with TraceWriter(tmp_path / "t", model="m", experts=4, top_k=2, layers=[7], tasks=["a", "b"]) as writer:
        writer.append(ids, sequence=[0, 0, 0, 1, 1], task=[0, 0, 0, 1, 1], phase="prefill")
    info = RoutingTrace.open(tmp_path / "t").info()
    (row,) = info["per_layer"]
    counts = np.array([5, 2, 2, 1])
    assert row["layer"] == 7
    assert row["copies"] == 10
    assert row["max_over_mean"] == pytest.approx(2.0)
    assert row["cv"] == pytest.approx(counts.std() / 2.5)
    share = counts / 10
    assert row["entropy"] == pytest.approx(-(share * np.log2(share)).sum() / 2)
    # Pairs within a sequence: (0,1)-(1,0) share 2, (1,0)-(2,0) share 1, (0,2)-(0,3) share 1.
    assert row["overlap"] == pytest.approx(4 / 6)
    assert info["sequences"] == 2
    assert info["tasks"] == {"a": 3, "b": 2}
    assert info["phases"] == {"prefill": 5, "decode": 0}
    assert json.loads(json.dumps(info)) == info


def test_overlap_does_not_depend_on_where_blocks_end(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    with TraceWriter(tmp_path / "t", model="m", experts=9, top_k=3, layers=[0, 1]) as writer:
        writer.append(np.argsort(rng.random((200, 2, 9)), axis=2)[:, :, :3], sequence=np.arange(200) // 33)
    trace = RoutingTrace.open(tmp_path / "t")
    whole = trace.info()
    for rows in (1, 7, 64):
        monkeypatch.setattr("moesim.routing.trace_info._PAIRS", rows * 6)
        assert trace.info() == whole
    ids, sequence = np.asarray(trace.ids), np.asarray(trace.sequence)
    shared = [
        len(set(ids[t, 1]) & set(ids[t - 1, 1])) for t in range(1, 200) if sequence[t] == sequence[t - 1]
    ]
    assert whole["per_layer"][1]["overlap"] == pytest.approx(np.mean(shared) / 3)


def test_even_and_one_sided_routing_are_the_ends_of_the_scale(tmp_path):
    with CountsWriter(tmp_path / "t", model="m", experts=4, top_k=1, layers=[0, 1]) as writer:
        writer.append([[5, 5, 5, 5], [20, 0, 0, 0]])
    even, single = RoutingTrace.open(tmp_path / "t").info()["per_layer"]
    assert (even["max_over_mean"], even["cv"], even["entropy"]) == (1.0, 0.0, pytest.approx(1.0))
    assert (single["max_over_mean"], single["entropy"], single["overlap"]) == (4.0, 0.0, None)


def test_an_empty_trace_can_be_described(tmp_path):
    with TraceWriter(tmp_path / "t", model="m", experts=4, top_k=1, layers=[0]):
        pass
    trace = RoutingTrace.open(tmp_path / "t")
    trace.verify()
    info = trace.info()
    assert info["tokens"] == 0
    assert info["mean_cv"] is None


def sparse_trace(path: Path, tokens: int) -> RoutingTrace:
    """Make a trace of holes: large on paper, nothing on disk."""
    layers, top_k = 58, 1
    with TraceWriter(path, model="m", experts=256, top_k=top_k, layers=range(layers)) as writer:
        writer.append(np.zeros((1, layers, top_k), dtype=np.uint8))
    shape = (tokens, layers, top_k)
    with (path / "ids.npy").open("r+b") as file:
        file.write(npy_header(np.dtype(np.uint8), shape))
        file.truncate(128 + tokens * layers * top_k)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["tokens"] = tokens
    manifest["files"]["ids"] |= {"shape": shape, "bytes": 128 + tokens * layers * top_k}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return RoutingTrace.open(path)


def test_memory_stays_bounded_while_a_long_trace_streams(tmp_path):
    trace = sparse_trace(tmp_path / "t", tokens=150_000)  # 8.7 M (token, layer) rows
    tracemalloc.start()
    try:
        info = trace.info()
        source = TraceSource(trace)
        load = source.load(0, np.array([50_000, 50_000]))
        for block in trace.iter_blocks():
            assert block.ids.nbytes <= 4 << 20
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert info["per_layer"][57]["copies"] == 150_000
    assert int(load.per_expert[0, 0]) == 100_000
    assert peak < 48 << 20
