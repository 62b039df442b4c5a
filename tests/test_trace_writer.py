"""Writing traces: what goes in comes out, and nothing half-written remains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.routing import CountsWriter, RoutingTrace, TraceWriter


def draw_ids(rng: np.random.Generator, tokens: int, layers: int, experts: int, top_k: int) -> np.ndarray:
    return np.argsort(rng.random((tokens, layers, experts)), axis=2)[:, :, :top_k]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1 << 20),
    sizes=st.lists(st.integers(0, 40), max_size=4),
    experts=st.sampled_from([1, 4, 256, 257, 300]),
    layers=st.integers(1, 3),
    columns=st.sets(st.sampled_from(["weights", "sequence", "phase", "task"])),
)
def test_every_column_comes_back_exactly(tmp_path, seed, sizes, experts, layers, columns):
    rng = np.random.default_rng(seed)
    top_k = min(experts, 3)
    path = tmp_path / "trace"
    blocks = []
    with TraceWriter(
        path,
        model="m",
        experts=experts,
        top_k=top_k,
        layers=range(2, 2 + layers),
        tasks=["a", "b"],
        weights="weights" in columns,
        overwrite=True,
    ) as writer:
        for size in sizes:
            block = {"ids": draw_ids(rng, size, layers, experts, top_k)}
            if "weights" in columns:
                block["weights"] = rng.random((size, layers, top_k)).astype(np.float16)
            for name, limit in (("sequence", 1 << 31), ("phase", 2), ("task", 2)):
                if name in columns:
                    block[name] = rng.integers(0, limit, size)
            writer.append(**block)
            blocks.append(block)
    trace = RoutingTrace.open(path)
    trace.verify()
    assert trace.tokens == sum(sizes)
    assert trace.ids.dtype == (np.uint8 if experts <= 256 else np.int16)
    for name in ("ids", *columns) if blocks else ("ids",):
        wanted = [block[name] for block in blocks]
        have = trace.columns[name]
        assert np.array_equal(have, np.concatenate(wanted) if wanted else have[:0])


def test_scaled_weights_are_exact_multiples(tmp_path):
    printed = np.array([[[0.0414, 0.1787]], [[1.0, 0.0]]])
    with TraceWriter(tmp_path / "t", model="m", experts=4, top_k=2, layers=[1], weight_scale=1e-4) as writer:
        writer.append([[[0, 1]], [[2, 3]]], weights=printed)
    trace = RoutingTrace.open(tmp_path / "t")
    assert trace.weights.tolist() == [[[414, 1787]], [[10000, 0]]]
    assert np.allclose(trace.gate_weights(slice(None)), printed, atol=1e-7)


def test_a_failed_recording_leaves_nothing_behind(tmp_path):
    def record() -> None:
        with TraceWriter(tmp_path / "t", model="m", experts=4, top_k=1, layers=[0]) as writer:
            writer.append([[[1]]])
            message = "router broke"
            raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="router broke"):
        record()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_trace_is_kept_unless_overwriting_is_asked_for(tmp_path):
    def write(expert: int, overwrite: bool) -> None:
        with TraceWriter(
            tmp_path / "t", model="m", experts=4, top_k=1, layers=[0], overwrite=overwrite
        ) as writer:
            writer.append([[[expert]]])

    write(1, overwrite=False)
    with pytest.raises(InputError, match="exists already"):
        write(2, overwrite=False)
    assert RoutingTrace.open(tmp_path / "t").ids[0, 0, 0] == 1
    write(3, overwrite=True)
    assert RoutingTrace.open(tmp_path / "t").ids[0, 0, 0] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_overwriting_never_removes_a_directory_that_is_no_trace(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="not a routing trace"):
        TraceWriter(tmp_path / "home", model="m", experts=4, top_k=1, layers=[0], overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").exists()


def test_two_recordings_of_the_same_data_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        with TraceWriter(tmp_path / name, model="m", experts=4, top_k=2, layers=[0, 3]) as writer:
            writer.append([[[1, 2], [3, 0]]])
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"ids": [[[0, 4]]]}, "token 1, layer column 0: expert id 4 is outside 0..3"),
        ({"ids": [[[0, -1]]]}, "expert id -1"),
        ({"ids": [[[2, 2]]]}, "token 1, layer column 0: expert 2 is selected twice"),
        ({"ids": [[[0.5, 1]]]}, "whole numbers"),
        ({"ids": [[[0, 1, 2]]]}, "shape"),
        ({"ids": [[[0, 1]]], "weights": [[[0.5, 0.5]]]}, "opened without weights"),
        ({"ids": [[[0, 1]]], "sequence": 3}, "same columns"),
    ],
)
def test_wrong_blocks_are_refused_and_the_writer_goes_on(tmp_path, block, message):
    with TraceWriter(tmp_path / "t", model="m", experts=4, top_k=2, layers=[5]) as writer:
        writer.append([[[0, 1]]])
        with pytest.raises(InputError, match=message):
            writer.append(**block)
        writer.append([[[2, 3]]])
    assert RoutingTrace.open(tmp_path / "t").ids.tolist() == [[[0, 1]], [[2, 3]]]


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -0.1, 1e6])
def test_weights_that_are_no_weights_are_refused(tmp_path, weight):
    writer = TraceWriter(tmp_path / "t", model="m", experts=4, top_k=2, layers=[5], weights=True)
    with pytest.raises(InputError, match="token 0, layer column 0: gate weight"):
        writer.append([[[0, 1]]], weights=[[[0.5, weight]]])
    writer.abandon()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts": 2, "top_k": 3}, "top_k is 3 but there are only 2 experts"),
        ({"layers": [3, 3]}, "rising order"),
        ({"layers": []}, "layers"),
        ({"layers": ["x"]}, "whole numbers"),
        ({"experts": 0}, "experts"),
        ({"experts": 1 << 20}, "experts"),
        ({"weight_scale": float("nan")}, "weight_scale"),
        ({"ids_kind": "physical"}, "physical_to_logical"),
        ({"ids_kind": "physical", "physical_to_logical": [[0, 9]]}, "outside"),
        ({"physical_to_logical": [[0, 1]]}, "ids_kind"),
        ({"tasks": ["a", "a"]}, "named twice"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_at_once(tmp_path, change, message):
    arguments = {"model": "m", "experts": 4, "top_k": 2, "layers": [0]} | change
    with pytest.raises(InputError, match=message):
        TraceWriter(tmp_path / "t", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_counts_only_traces_come_back_exactly(tmp_path):
    counts = np.random.default_rng(1).integers(0, 1 << 40, (5, 2, 6))
    with CountsWriter(tmp_path / "t", model="m", experts=6, top_k=2, layers=[1, 2]) as writer:
        writer.append(counts[:4])
        writer.append(counts[4])
        with pytest.raises(InputError, match="step 5, layer column 1, expert 2: -1"):
            writer.append([[0] * 6, [0, 0, -1, 0, 0, 0]])
    trace = RoutingTrace.open(tmp_path / "t")
    trace.verify()
    assert trace.is_counts
    assert trace.steps == 5
    assert np.array_equal(trace.counts, counts)
    with pytest.raises(InputError, match="counts only"):
        _ = trace.ids


def test_the_manifest_says_what_the_trace_is(tmp_path: Path):
    with TraceWriter(
        tmp_path / "t", model="tiny", experts=4, top_k=1, layers=[2], provenance="made here", licence="CC0"
    ) as writer:
        writer.append([[[1]]])
    manifest = json.loads((tmp_path / "t" / "manifest.json").read_text())
    assert manifest["format"] == "moesim-routing-trace"
    assert manifest["model"] == "tiny"
    assert manifest["layers"] == [2]
    assert manifest["licence"] == "CC0"
    assert manifest["files"]["ids"]["shape"] == [1, 1, 1]
    assert len(manifest["files"]["ids"]["sha256"]) == 64
