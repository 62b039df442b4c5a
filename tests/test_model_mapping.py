from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.model import load_model, model_from_mapping
from moesim.model.catalogue import entries
from moesim.model.fields import FieldError

SMALL = {
    "num_layers": 4,
    "hidden_size": 256,
    "vocab_size": 1000,
    "num_routed_experts": 8,
    "moe_intermediate_size": 128,
    "top_k": 2,
    "attention": {"kind": "gqa", "heads": 8, "kv_heads": 2, "head_dim": 32},
}


def test_smallest_mapping_is_one_layer_without_attention():
    model = model_from_mapping(
        {"num_layers": 1, "hidden_size": 64, "num_routed_experts": 4, "moe_intermediate_size": 32, "top_k": 1}
    )
    assert model.total_params == 4 * 3 * 64 * 32 + 4 * 64 + 3 * 64
    assert model.kv_bytes_per_token() == 0


def test_mapping_of_a_catalogue_entry_builds_the_same_model():
    entry = {"name": "Jamba-Mini-1.6", **entries()["Jamba-Mini-1.6"]}
    assert model_from_mapping(entry) == load_model("Jamba-Mini-1.6")


def test_widths_may_be_written_with_units():
    assert model_from_mapping(SMALL | {"vocab_size": "128k"}).vocab == 128_000


def test_shared_experts_by_number_or_by_width():
    by_number = model_from_mapping(SMALL | {"num_shared_experts": 2})
    by_width = model_from_mapping(SMALL | {"shared_intermediate_size": 256})
    assert by_number == by_width
    assert by_number.layers[0].shared[0].kind == "shared"
    assert by_number.experts == 8


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"first": 1}, [1, 2, 3]),
        ({"period": 2, "offset": 1}, [1, 3]),
        ({"first": 2, "period": 2}, [2]),
        ([0, 3], [0, 3]),
        ({"layers": [2]}, [2]),
    ],
)
def test_layers_with_experts_follow_the_rule(rule, expected):
    model = model_from_mapping(SMALL | {"moe_layers": rule, "dense_intermediate_size": 512})
    assert [layer.index for layer in model.moe_layers] == expected
    assert all(layer.dense_intermediate == (0 if layer.is_moe else 512) for layer in model.layers)


def test_alternate_attention_inherits_unless_it_names_another_kind():
    model = model_from_mapping(SMALL | {"alternate_attention": {"period": 2, "sliding_window": 16}})
    assert [layer.attention.sliding_window for layer in model.layers] == [16, None, 16, None]
    assert {layer.attention.heads for layer in model.layers} == {8}
    model = model_from_mapping(
        SMALL | {"alternate_attention": {"layers": [1], "kind": "mamba", "inner": 512, "state": 16}}
    )
    assert [layer.attention.kind for layer in model.layers] == ["gqa", "mamba", "gqa", "gqa"]
    assert model.layers[1].attention.heads == 0


BAD = [
    ({"top_k": 9}, "'top_k' must not be above the number of experts, 8, got 9", ("top_k",)),
    ({"top_k": 0}, "'top_k' must be a whole number from 1", ("top_k",)),
    ({"top_k": None}, "'top_k' is missing", ("top_k",)),
    ({"num_layers": -1}, "'num_layers' must be", ("num_layers",)),
    ({"num_layers": math.nan}, "'num_layers' must be", ("num_layers",)),
    ({"num_layers": 2.5}, "'num_layers' must be", ("num_layers",)),
    ({"num_layers": True}, "'num_layers' must be", ("num_layers",)),
    ({"num_layers": 10**30}, "'num_layers' must be", ("num_layers",)),
    ({"num_layers": 2000, "num_routed_experts": 30000}, "experts in all", ("num_layers",)),
    ({"hidden_size": math.inf}, "'hidden_size' must be", ("hidden_size",)),
    ({"hidden_size": "wide"}, "'hidden_size' must be", ("hidden_size",)),
    ({"hidden_size": [1]}, "'hidden_size' must be", ("hidden_size",)),
    ({"hiden_size": 4}, "no model key named 'hiden_size'.*did you mean 'hidden_size'", ("hiden_size",)),
    ({"weight_dtype": "fp9"}, "did you mean 'fp", ("weight_dtype",)),
    ({"weight_dtype": 8}, "'weight_dtype' must be text", ("weight_dtype",)),
    ({"n_group": 3}, "'n_group' must divide the number of experts", ("n_group",)),
    ({"tie_word_embeddings": "yes"}, "must be true or false", ("tie_word_embeddings",)),
    ({"moe_layers": [4]}, "must name layers from 0 to 3", ("moe_layers",)),
    ({"moe_layers": {"first": 9}}, "must leave at least one", ("moe_layers",)),
    ({"moe_layers": {"frist": 1}}, "did you mean 'first'", ("moe_layers", "frist")),
    ({"moe_layers": {"first": 1}}, "'dense_intermediate_size' is missing", ("dense_intermediate_size",)),
    ({"moe_layers": {"period": 2, "offset": 2}}, "from 0 to 1", ("moe_layers", "offset")),
    ({"attention": 3}, "'attention' must be a mapping", ("attention",)),
    ({"attention": {"kind": "gqa"}}, "'attention.heads' is missing", ("attention", "heads")),
    ({"attention": {"kind": "gqb"}}, "did you mean 'gqa'", ("attention", "kind")),
    (
        {"attention": {"kind": "gqa", "heads": 8, "kv_heads": 3, "head_dim": 8}},
        "cannot share 3 KV heads",
        ("attention", "kv_heads"),
    ),
    ({"experts": []}, "cannot stand beside", ("num_routed_experts",)),
    ({"reported": {"total_billion": -1}}, "above zero", ("reported", "total_billion")),
    ({"reported": {"convention": "some"}}, "value of 'reported.convention'", ("reported", "convention")),
]


@pytest.mark.parametrize(("change", "message", "path"), BAD)
def test_bad_fields_are_named_with_their_path(change, message, path):
    with pytest.raises(InputError, match=message) as caught:
        model_from_mapping(SMALL | change)
    assert isinstance(caught.value, FieldError)
    assert caught.value.path == path
    assert pickle.loads(pickle.dumps(caught.value)).path == path


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"count": 2}, r"'experts\[0\].intermediate_size' is missing"),
        ({"kind": "low_rank", "intermediate_size": 8}, r"'experts\[0\].rank' is missing"),
        ({"kind": "shared", "intermediate_size": 8}, "cannot be routed"),
        ({"kind": "zero", "count": 4}, "at least one expert that computes"),
        ({"count": 40000, "intermediate_size": 8}, r"'experts\[0\].count' must be"),
        ("ffn", r"'experts\[0\]' must be a mapping"),
    ],
)
def test_bad_expert_groups_are_named_with_their_position(group, message):
    base = {k: v for k, v in SMALL.items() if k not in ("num_routed_experts", "moe_intermediate_size")}
    with pytest.raises(InputError, match=message):
        model_from_mapping(base | {"experts": [group], "top_k": 1})


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 10**6),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-3, 9), max_size=3),
    st.dictionaries(st.sampled_from(["kind", "first", "heads", "period", "count", "x"]), st.integers(-3, 9)),
)


@settings(max_examples=300)
@given(
    st.sampled_from([*SMALL, "moe_layers", "experts", "alternate_attention", "n_group", "reported"]), VALUES
)
def test_any_single_change_gives_a_model_or_one_clear_error(key, value):
    try:
        result = model_from_mapping(SMALL | {key: value})
    except InputError as error:
        result = error
    assert "'" in str(result) if isinstance(result, InputError) else result.total_params > 0
