"""Importing what serving engines dump: SGLang and vLLM, counts and ids."""

from __future__ import annotations

import json

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.routing.importers import import_trace


def test_sglang_counts_drop_empty_steps_and_dense_layers(tmp_path):
    counts = np.zeros((4, 3, 4), dtype=np.int32)
    counts[0, 1:] = [[1, 2, 3, 4], [4, 4, 1, 1]]
    counts[2, 1:] = [[0, 0, 5, 5], [1, 1, 4, 4]]
    np.savez(tmp_path / "d.npz", logical_count=counts, rank=np.int64(0))
    (tmp_path / "d.json").write_text(json.dumps({"rank": 0, "logical_count": counts.tolist()}))
    for name in ("d.npz", "d.json"):
        trace = import_trace("sglang", tmp_path / name, tmp_path / f"{name}.trace", top_k=2)
        assert trace.layers == (1, 2)
        assert np.array_equal(trace.counts, counts[[0, 2], 1:])


def test_sglang_physical_counts_are_added_up_per_logical_expert(tmp_path):
    dump = {
        "physical_count": [[[1, 2, 3, 4], [5, 6, 7, 8]]],
        "physical_to_logical_map": [[0, 1, 0, 2], [2, 2, 1, 0]],
    }
    (tmp_path / "d.json").write_text(json.dumps(dump))
    trace = import_trace("sglang", tmp_path / "d.json", tmp_path / "t", top_k=2)
    assert trace.counts.tolist() == [[[4, 2, 4], [8, 7, 11]]]
    records = {
        "records": [{"global_physical_count": dump["physical_count"][0]}] * 2,
        "last_physical_to_logical_map": dump["physical_to_logical_map"],
    }
    (tmp_path / "r.json").write_text(json.dumps(records))
    again = import_trace("sglang", tmp_path / "r.json", tmp_path / "r", top_k=2, experts=3)
    assert again.counts.tolist() == trace.counts.tolist() * 2


def test_sglang_ids_per_token_keep_their_map_and_lose_padding(tmp_path):
    first = [[[0, 0]] * 2, [[3, 1], [0, 2]]]  # layer 0 is dense
    second = [[[0, 0], [-1, -1]], [[2, 3], [-1, -1]]]
    dump = {
        "records": [{"topk_ids_of_layer": first}, {"topk_ids_of_layer": second}],
        "last_physical_to_logical_map": [[0, 1, 2, 0], [0, 1, 2, 0]],
    }
    (tmp_path / "d.json").write_text(json.dumps(dump))
    trace = import_trace("sglang", tmp_path / "d.json", tmp_path / "t")
    assert trace.layers == (1,)
    assert trace.manifest.ids_kind == "physical"
    assert trace.logical_ids(slice(0, 2)).tolist() == [[[0, 1]], [[0, 2]]]
    assert trace.sequence.tolist() == [0, 0, 1]


def test_sglang_padding_is_left_out_where_every_layer_is_padded(tmp_path):
    ids = np.array([[[3, 1], [0, 2], [-1, -1]], [[1, 2], [3, 2], [-1, -1]]])
    np.savez(tmp_path / "d.npz", topk_ids_of_layer=ids)
    trace = import_trace("sglang", tmp_path / "d.npz", tmp_path / "t", experts=4)
    assert trace.ids.tolist() == [[[3, 1], [1, 2]], [[0, 2], [3, 2]]]
    ids[1, 1] = -1
    np.savez(tmp_path / "partly.npz", topk_ids_of_layer=ids)
    with pytest.raises(InputError, match="sequence 0, token 1: some of its expert ids are missing"):
        import_trace("sglang", tmp_path / "partly.npz", tmp_path / "u", experts=4)


@pytest.mark.parametrize(
    ("dump", "message"),
    [
        ({"counts": [[1]]}, "no counts in this dump"),
        ({"physical_count": [[1, 2]]}, "physical_to_logical_map"),
        ({"physical_count": [[1, 2]], "physical_to_logical_map": [[0]]}, "the map has shape"),
        ({"physical_count": [[1, 2]], "physical_to_logical_map": [[0, -1]]}, "inactive"),
        ({"logical_count": [[[1, 2], [3]]]}, r"'logical_count'\[0\]\[1\] has another length"),
        ({"logical_count": [[1, 0.5]]}, "whole numbers"),
        ({"logical_count": [[1, "x"]]}, "whole numbers"),
        ({"logical_count": [[0, 0]]}, "every count is zero"),
        ({"logical_count": [[1, -2]]}, "-2 cannot be a number of copies"),
        ({"records": []}, "list of objects"),
        ({"records": [{}]}, "record 0 has neither"),
        ([1, 2], "an SGLang dump is"),
    ],
)
def test_wrong_dumps_are_named(tmp_path, dump, message):
    (tmp_path / "d.json").write_text(json.dumps(dump))
    with pytest.raises(InputError, match=message):
        import_trace("sglang", tmp_path / "d.json", tmp_path / "t", top_k=1)


def test_pickles_are_refused_with_the_way_out(tmp_path):
    (tmp_path / "d.pt").write_bytes(b"\x80\x04.")
    for kind in ("sglang", "vllm"):
        with pytest.raises(InputError, match=r"refused .*weights_only=True.*numpy\.savez"):
            import_trace(kind, tmp_path / "d.pt", tmp_path / "t", top_k=2)


def test_vllm_counts_come_as_arrays_lists_or_by_layer(tmp_path):
    counts = [[3, 1, 0], [2, 2, 4]]
    np.save(tmp_path / "a.npy", np.array([counts], dtype=np.float32))
    (tmp_path / "b.json").write_text(json.dumps(counts))
    (tmp_path / "c.json").write_text(json.dumps({"10": counts[1], "3": counts[0]}))
    physical = {"expert_load_pass": [[2, 1, 1, 0]], "physical_to_logical_map": [[0, 0, 1, 2]]}
    (tmp_path / "d.json").write_text(json.dumps(physical))
    a, b, c, d = (
        import_trace("vllm", tmp_path / name, tmp_path / f"{name}.trace", top_k=2, **options)
        for name, options in (
            ("a.npy", {"first_layer": 3}),
            ("b.json", {"layers": "4,5"}),
            ("c.json", {}),
            ("d.json", {}),
        )
    )
    assert (a.layers, b.layers, c.layers) == ((3, 4), (4, 5), (3, 10))
    for trace in (a, b, c):
        assert trace.counts.tolist() == [counts]
    assert d.counts.tolist() == [[[3, 1, 0]]]


def test_vllm_routed_experts_become_tokens(tmp_path):
    one, two = [[[0, 1], [2, 3]]], [[[1, 3], [0, 2]], [[3, 2], [1, 0]]]
    requests = [{"routed_experts": one}, {"routed_experts": two}]
    (tmp_path / "r.json").write_text(json.dumps(requests))
    trace = import_trace("vllm", tmp_path / "r.json", tmp_path / "t", experts=4)
    assert trace.ids.tolist() == one + two
    assert trace.sequence.tolist() == [0, 1, 1]
    np.savez(tmp_path / "r.npz", routed_experts=np.array(two, dtype=np.int16))
    assert import_trace("vllm", tmp_path / "r.npz", tmp_path / "u", experts=4).ids.tolist() == two
    with pytest.raises(InputError, match="option experts"):
        import_trace("vllm", tmp_path / "r.npz", tmp_path / "v")
