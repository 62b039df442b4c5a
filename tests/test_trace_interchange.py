"""Traces as Parquet: exact both ways, foreign files refused."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.routing import CountsWriter, RoutingTrace, TraceWriter
from moesim.routing.importers import import_trace
from moesim.routing.interchange import to_parquet

arrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra 'parquet'")
parquet = pytest.importorskip("pyarrow.parquet")


def same(one: RoutingTrace, other: RoutingTrace) -> bool:
    """Compare manifests with their checksums, so every byte of every column."""
    return one.manifest == other.manifest


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1 << 20),
    tokens=st.integers(1, 60),
    experts=st.sampled_from([4, 256, 300]),
    scale=st.sampled_from([None, 1e-4, 1 / 65535]),
    weighted=st.booleans(),
    physical=st.booleans(),
    block=st.sampled_from([1, 50, 1 << 22]),
)
def test_a_trace_survives_parquet_exactly(
    tmp_path, monkeypatch, seed, tokens, experts, scale, weighted, physical, block
):
    monkeypatch.setattr("moesim.routing.interchange._BLOCK_ITEMS", block)
    rng = np.random.default_rng(seed)
    slots = experts + 2 if physical else experts
    extra = {"ids_kind": "physical"} if physical else {}
    if physical:
        extra["physical_to_logical"] = rng.integers(0, experts, (2, slots))
    with TraceWriter(
        tmp_path / "a",
        model="Modell-ü",
        experts=experts,
        top_k=2,
        layers=[3, 9],
        tasks=["x", "y"],
        provenance="here\nand there",
        licence="MIT",
        weights=weighted,
        weight_scale=scale if weighted else None,
        overwrite=True,
        **extra,
    ) as writer:
        ids = np.argsort(rng.random((tokens, 2, slots)), axis=2)[:, :, :2]
        weights = rng.random((tokens, 2, 2)) if weighted else None
        writer.append(ids, weights=weights, sequence=np.arange(tokens), phase=1, task=tokens % 2)
    trace = RoutingTrace.open(tmp_path / "a")
    to_parquet(trace, tmp_path / "a.parquet", overwrite=True)
    back = import_trace("parquet", tmp_path / "a.parquet", tmp_path / "b", overwrite=True)
    assert same(trace, back)


def test_counts_survive_parquet_exactly(tmp_path):
    with CountsWriter(tmp_path / "a", model="m", experts=5, top_k=2, layers=[0, 1, 2]) as writer:
        writer.append(np.random.default_rng(2).integers(0, 1 << 45, (7, 3, 5)))
    trace = RoutingTrace.open(tmp_path / "a")
    to_parquet(trace, tmp_path / "a.parquet")
    assert same(trace, import_trace("parquet", tmp_path / "a.parquet", tmp_path / "b"))


@pytest.fixture
def exported(tmp_path):
    with TraceWriter(tmp_path / "a", model="m", experts=4, top_k=2, layers=[0, 1]) as writer:
        writer.append([[[0, 1], [2, 3]], [[3, 1], [0, 2]]])
    path = tmp_path / "a.parquet"
    to_parquet(RoutingTrace.open(tmp_path / "a"), path)
    return path


def test_an_existing_file_is_kept(exported, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        to_parquet(RoutingTrace.open(tmp_path / "a"), exported)


def rewrite(path, table, **header) -> None:
    metadata = json.loads(table.schema.metadata[b"moesim"]) | header
    parquet.write_table(table.replace_schema_metadata({"moesim": json.dumps(metadata)}), path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": "x"}, "is not a 'moesim-routing-trace'"),
        ({"version": 9}, "is not a 'moesim-routing-trace'"),
        ({"experts": "many"}, "experts"),
        ({"experts": 3}, "expert id 3 is outside"),
        ({"top_k": 3}, "2 layers|6 numbers"),
        ({"layers": 5}, "layers"),
        ({"tasks": 5}, "tasks"),
        ({"ids_kind": "physical"}, "physical_to_logical"),
        ({"ids_kind": "physical", "physical_to_logical": [[0, 1], [2]]}, "physical_to_logical"),
        ({"kind": "counts"}, "no column 'counts'"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(exported, tmp_path, header, message):
    rewrite(exported, parquet.read_table(exported), **header)
    with pytest.raises(InputError, match=message):
        import_trace("parquet", exported, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_foreign_and_damaged_files_are_refused(exported, tmp_path):
    parquet.write_table(arrow.table({"a": [1, 2]}), tmp_path / "foreign.parquet")
    (tmp_path / "short.parquet").write_bytes(exported.read_bytes()[:-20])
    (tmp_path / "empty.parquet").write_bytes(b"")
    table = parquet.read_table(exported)
    holes = table.set_column(0, "ids", arrow.array([None, [0, 1, 2, 3]], arrow.list_(arrow.uint8(), 4)))
    parquet.write_table(holes.replace_schema_metadata(table.schema.metadata), tmp_path / "holes.parquet")
    words = table.set_column(0, "ids", arrow.array(["a", "b"])).replace_schema_metadata(table.schema.metadata)
    parquet.write_table(words, tmp_path / "words.parquet")
    for name, message in (
        ("foreign", "not a routing trace"),
        ("short", "not a readable Parquet"),
        ("empty", "not a readable Parquet"),
        ("holes", "missing values"),
        ("words", "holds string"),
        ("absent", "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            import_trace("parquet", tmp_path / f"{name}.parquet", tmp_path / "b")


def test_without_pyarrow_the_remedy_is_named(exported, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"moesim\[parquet\]"):
        import_trace("parquet", exported, tmp_path / "b")
