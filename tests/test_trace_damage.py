"""Damaged, truncated and foreign traces are refused with a message that names file and fault."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.routing import RoutingTrace, TraceWriter
from moesim.routing.format import npy_header


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    path = tmp_path / "trace"
    with TraceWriter(path, model="m", experts=8, top_k=2, layers=[1, 4], tasks=["a"], weights=True) as writer:
        ids = np.argsort(rng.random((50, 2, 8)), axis=2)[:, :, :2]
        writer.append(ids, weights=rng.random((50, 2, 2)), sequence=0, phase=1, task=0)
    return path


def edit(trace: Path, change) -> None:
    path = trace / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def patch_bytes(path: Path, offset: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="other"), "not the manifest of a routing trace"),
        (lambda m: m.update(version=2), "format version 2"),
        (lambda m: m.pop("experts"), "experts"),
        (lambda m: m.update(experts="8"), "experts"),
        (lambda m: m.update(top_k=9), "top_k is 9"),
        (lambda m: m.update(tokens=-1), "tokens"),
        (lambda m: m.update(tokens=10**30), "tokens"),
        (lambda m: m.update(layers=[4, 1]), "rising order"),
        (lambda m: m.update(layers=[1, 2, 3]), "shape"),
        (lambda m: m.update(tokens=49), "shape"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m["files"].pop("ids"), "needs the column 'ids'"),
        (lambda m: m["files"].update(code=m["files"]["ids"]), "code"),
        (lambda m: m["files"]["ids"].update(file="../secret.npy"), "file"),
        (lambda m: m["files"]["ids"].update(file="/etc/passwd"), "file"),
        (lambda m: m["files"]["ids"].update(file="sub/ids.npy"), "file"),
        (lambda m: m["files"]["ids"].update(file="C:\\ids.npy"), "file"),
        (lambda m: m["files"]["ids"].update(file="phase.npy"), "same file"),
        (lambda m: m["files"]["ids"].update(file="gone.npy"), "gone.npy"),
        (lambda m: m["files"]["ids"].update(dtype="object"), "dtype"),
        (lambda m: m["files"]["ids"].update(dtype="int16"), "holds uint8, the manifest says int16"),
        (lambda m: m["files"]["ids"].update(bytes=1), "shape"),
        (lambda m: m.update(ids_kind="physical"), "physical_to_logical"),
        (lambda m: m.update(weight_scale=0.5), "weight_scale"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(trace, change, message):
    edit(trace, change)
    with pytest.raises(InputError, match=message):
        RoutingTrace.open(trace)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format": 1e999}', "\x00"])
def test_a_manifest_that_is_no_manifest_is_refused(trace, text):
    (trace / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="manifest"):
        RoutingTrace.open(trace)


def test_a_directory_or_file_that_is_no_trace_is_refused(tmp_path):
    with pytest.raises(InputError, match="no routing trace"):
        RoutingTrace.open(tmp_path / "absent")
    with pytest.raises(InputError, match="not a routing trace"):
        RoutingTrace.open(tmp_path)


@pytest.mark.parametrize("size", [0, 5, 60, 127, 128, 300])
def test_a_truncated_column_is_refused(trace, size):
    path = trace / "ids.npy"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=r"ids\.npy"):
        RoutingTrace.open(trace)


def test_a_column_that_is_too_long_is_refused(trace):
    with (trace / "ids.npy").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="longer than its header"):
        RoutingTrace.open(trace)


def test_pickled_objects_are_refused_without_being_loaded(trace):
    np.save(trace / "ids.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="plain numbers"):
        RoutingTrace.open(trace)


def test_fortran_order_and_foreign_byte_order_are_refused(trace):
    ids = np.load(trace / "ids.npy")
    np.save(trace / "ids.npy", np.asfortranarray(ids))
    with pytest.raises(InputError, match="Fortran"):
        RoutingTrace.open(trace)
    np.save(trace / "ids.npy", ids)
    np.save(trace / "task.npy", np.load(trace / "task.npy").astype(">i2"))
    with pytest.raises(InputError, match=r"task.*holds"):
        RoutingTrace.open(trace)


def test_a_link_out_of_the_directory_is_refused(trace):
    outside = trace.parent / "outside.npy"
    (trace / "ids.npy").rename(outside)
    (trace / "ids.npy").symlink_to(outside)
    with pytest.raises(InputError, match="regular files"):
        RoutingTrace.open(trace)


def test_a_flipped_bit_is_found_by_verify(trace):
    patch_bytes(trace / "sequence.npy", 140, b"\x01")
    opened = RoutingTrace.open(trace)
    with pytest.raises(InputError, match=r"sequence\.npy: the checksum differs"):
        opened.verify()


def rewrite_checksum(trace: Path, column: str) -> None:
    import hashlib

    digest = hashlib.sha256((trace / f"{column}.npy").read_bytes()).hexdigest()
    edit(trace, lambda m: m["files"][column].update(sha256=digest))


@pytest.mark.parametrize(
    ("column", "offset", "data", "message"),
    [
        ("ids", 128 + 7 * 4 + 2, b"\xc8", "token 7, layer 4: an expert id outside 0..7"),
        ("ids", 128 + 7 * 4, b"\x05\x05", "token 7, layer 1: an expert selected twice"),
        ("weights", 128 + 8, np.float16("nan").tobytes(), "token 1, layer 1: a gate weight"),
        ("phase", 128 + 9, b"\x02", "token 9: an unknown phase"),
        ("task", 128 + 6, b"\x01\x00", "token 3: a task without a name"),
        ("sequence", 128 + 8, b"\xff\xff\xff\xff", "token 2: a negative sequence"),
    ],
)
def test_wrong_contents_under_a_right_checksum_are_found_by_verify(trace, column, offset, data, message):
    patch_bytes(trace / f"{column}.npy", offset, data)
    rewrite_checksum(trace, column)
    opened = RoutingTrace.open(trace)
    with pytest.raises(InputError, match=message):
        opened.verify()


def test_an_id_out_of_range_is_never_counted_for_another_layer(trace):
    patch_bytes(trace / "ids.npy", 128 + 7 * 4, b"\x09")
    with pytest.raises(InputError, match="outside"):
        RoutingTrace.open(trace).info()


def test_tokens_of_a_task_without_a_name_are_found_by_verify_and_no_trouble_before(trace):
    edit(trace, lambda m: m.update(tasks=[]))
    opened = RoutingTrace.open(trace)
    assert opened.info()["tasks"] == {}
    with pytest.raises(InputError, match="a task without a name"):
        opened.verify()


def test_a_header_cannot_ask_for_more_than_the_file_holds(trace):
    header = npy_header(np.dtype(np.uint8), (1 << 50, 2, 2))
    patch_bytes(trace / "ids.npy", 0, header)
    edit(trace, lambda m: (m.update(tokens=1 << 50), m["files"]["ids"].update(shape=[1 << 50, 2, 2])))
    with pytest.raises(InputError, match="truncated"):
        RoutingTrace.open(trace)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["manifest.json", "ids.npy", "weights.npy", "phase.npy"]),
    place=st.floats(0, 1),
    data=st.binary(min_size=1, max_size=6),
)
def test_random_damage_gives_an_input_error_or_a_trace_never_another_exception(trace, name, place, data):
    path = trace / name
    whole = path.read_bytes()
    patch_bytes(path, int(place * (len(whole) - 1)), data)
    try:
        RoutingTrace.open(trace).verify()
    except InputError as error:
        assert str(trace) in str(error)  # noqa: PT017 - the error may be absent when bytes are equal
    finally:
        path.write_bytes(whole)
