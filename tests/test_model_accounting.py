from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.model import AttentionSpec, ExpertSpec, Gemm, LayerSpec, ModelSpec, load_model, model_from_mapping
from moesim.model.formats import STORED_BYTES

WIDTHS = st.integers(1, 4096)
DTYPES = st.sampled_from(sorted(STORED_BYTES))


@st.composite
def experts(draw):
    hidden, width, dtype = 64, draw(WIDTHS), draw(DTYPES)
    kind = draw(st.sampled_from(["gated", "plain", "low_rank", "zero", "copy", "constant"]))
    if kind == "gated":
        return ExpertSpec.gated(hidden, width, bias=draw(st.booleans()), dtype=dtype)
    if kind == "plain":
        return ExpertSpec.plain(hidden, width, bias=draw(st.booleans()), dtype=dtype)
    if kind == "low_rank":
        return ExpertSpec.low_rank(hidden, width, draw(st.integers(1, 64)), dtype=dtype)
    return ExpertSpec.zero(hidden, kind=kind, dtype=dtype)


@st.composite
def models(draw):
    attention = AttentionSpec("gqa", heads=8, kv_heads=draw(st.sampled_from([1, 2, 8])), head_dim=8)
    pool = (ExpertSpec.gated(64, 32), *draw(st.lists(experts(), min_size=1, max_size=8)))
    shared = tuple(
        draw(st.lists(st.builds(lambda w: ExpertSpec.gated(64, w, kind="shared"), WIDTHS), max_size=2))
    )
    top_k = draw(st.integers(1, len(pool)))
    moe = [*draw(st.lists(st.booleans(), max_size=3)), True]
    layers = tuple(
        LayerSpec(i, attention, 0, 3, pool, shared, top_k) if routed else LayerSpec(i, attention, 128)
        for i, routed in enumerate(moe)
    )
    return ModelSpec("m", 64, draw(st.integers(0, 5000)), draw(st.booleans()), layers, draw(DTYPES))


def with_expert(model: ModelSpec, extra: ExpertSpec) -> ModelSpec:
    layers = tuple(replace(x, experts=(*x.experts, extra)) if x.is_moe else x for x in model.layers)
    return replace(model, layers=layers)


def test_gated_expert_has_three_matrices_and_biases_as_in_gpt_oss():
    expert = ExpertSpec.gated(2880, 2880, bias=True)
    assert expert.params == 3 * 2880 * 2880 + 2 * 2880 + 2880
    assert expert.bytes == 2 * expert.params
    assert expert.flops_per_token == 6 * 2880 * 2880
    assert expert.gemms == (Gemm(5760, 2880), Gemm(2880, 2880))


def test_low_rank_expert_matches_flexmore():
    # 32 layers of rank-1 experts on OLMo-2-7B widths: 1.44998M parameters
    expert = ExpertSpec.low_rank(4096, 11008, 1)
    assert 32 * expert.params == 32 * 3 * (4096 + 11008)
    assert expert.flops_per_token == 2 * expert.params
    assert expert.intermediate == 11008


@pytest.mark.parametrize(
    ("kind", "params", "flops"), [("zero", 0, 0), ("copy", 0, 0), ("constant", 192, 256)]
)
def test_zero_cost_experts_stay_where_the_token_is(kind, params, flops):
    expert = ExpertSpec.zero(64, kind=kind)
    assert not expert.exchanged
    assert (expert.params, expert.flops_per_token) == (params, flops)


@pytest.mark.parametrize("kind", ["ffn", "low_rank", "external"])
def test_computing_kinds_are_dispatched(kind):
    assert ExpertSpec(kind, 8, 8, (Gemm(8, 8),), 64).exchanged


@given(experts())
def test_bytes_follow_params_and_flops_follow_matrices(expert):
    assert expert.bytes >= expert.params * STORED_BYTES[expert.dtype] > expert.bytes - 1 or expert.params == 0
    assert expert.flops_per_token == 2 * sum(n * k for n, k in expert.gemms)
    assert expert.with_dtype("fp32").bytes == 4 * expert.params


@given(models(), experts())
def test_adding_an_expert_adds_its_parameters_and_one_router_row_per_layer(model, extra):
    grown = with_expert(model, extra)
    layers = len(model.moe_layers)
    assert grown.total_params - model.total_params == layers * (extra.params + model.hidden)
    assert grown.experts - model.experts == int(extra.exchanged)


@given(models())
def test_active_never_exceeds_total_and_conventions_nest(model):
    counts = [
        model.active_params(c) for c in ("without_embeddings", "without_input_embedding", "with_embeddings")
    ]
    assert counts == sorted(counts)
    assert counts[0] > 0
    assert counts[-1] <= model.total_params * (1 + 1e-12)


@given(models())
def test_stored_bytes_split_into_resident_and_exchanged(model):
    exchanged = sum(e.bytes for layer in model.layers for e in layer.experts if e.exchanged)
    assert model.weight_bytes == model.resident_bytes + exchanged
    assert model.resident_bytes > 0
    assert model.with_dtype("fp32").weight_bytes == 4 * model.total_params


@given(models(), st.floats(0, 1e6))
def test_flops_are_not_negative_and_only_scores_depend_on_context(model, context):
    here, there = model.flops_per_token(context), model.flops_per_token(0)
    assert all(value >= 0 for value in here.values())
    assert {k: v for k, v in here.items() if k != "attention_scores"} == {
        k: v for k, v in there.items() if k != "attention_scores"
    }
    assert here["attention_scores"] == pytest.approx(4 * context * 64 * len(model.layers))


@given(models())
def test_model_survives_pickling(model):
    assert model.total_params == pickle.loads(pickle.dumps(model)).total_params
    assert pickle.loads(pickle.dumps(model)) == model


def test_matrix_flops_are_twice_the_active_parameters():
    model = load_model("Mixtral-8x7B")
    norms = model.hidden * (2 * len(model.layers) + 1)
    expected = 2 * (model.active_params("without_input_embedding") - norms)
    assert sum(model.flops_per_token(0).values()) == pytest.approx(expected, rel=1e-12)


def test_window_caps_what_is_kept_and_read():
    model = load_model("gpt-oss-120b")
    assert model.kv_bytes_per_token() == 36 * 1024 * 2
    assert model.kv_bytes_per_token(128) == model.kv_bytes_per_token()
    long = model.kv_bytes_per_token(12_800)
    assert long == pytest.approx((18 * 1024 + 18 * 1024 / 100) * 2)
    narrow, wide = model.layers[0].attention, model.layers[1].attention
    assert narrow.kv_bytes_read(1000, 2) == 128 * 1024 * 2
    assert wide.kv_bytes_read(1000, 2) == 1000 * 1024 * 2


def test_latent_attention_keeps_one_latent_and_runs_in_two_ways():
    attention = load_model("DeepSeek-V3").layers[0].attention
    assert attention.kv_elements_per_token == 576
    assert attention.params(7168) == 187_105_280
    assert attention.score_flops_per_token(100) == 2 * 100 * 128 * (192 + 128)
    assert attention.score_flops_per_token(100, absorbed=True) == 2 * 100 * 128 * (576 + 512)


def test_recurrent_layers_keep_a_state_instead_of_a_cache():
    model = load_model("Jamba-Mini-1.6")
    mamba = model.layers[0].attention
    assert mamba.kind == "mamba"
    assert mamba.kv_elements_per_token == 0
    assert mamba.kv_bytes_read(10, 2) == mamba.kv_bytes_read(10**6, 2) > 0
    assert model.sequence_bytes(0) == 28 * mamba.state_elements * 2
    assert model.sequence_bytes(100) - model.sequence_bytes(0) == 100 * model.kv_bytes_per_token()


def test_copy_experts_of_longcat_are_chosen_but_not_dispatched():
    model = load_model("LongCat-Flash")
    assert (model.experts, model.top_k, len(model.moe_layers[0].experts)) == (512, 12, 768)
    assert model.moe_layers[0].active_routed_params == 8 * 3 * 6144 * 2048


def test_cutting_layers_keeps_the_first_and_needs_one_with_experts():
    model = load_model("DeepSeek-V3")
    assert [layer.index for layer in model.with_layers(5).layers] == [0, 1, 2, 3, 4]
    assert len(model.with_layers(5).moe_layers) == 2
    with pytest.raises(InputError, match="use 4 to 61"):
        model.with_layers(3)
    with pytest.raises(InputError, match="cannot keep 62 layers"):
        model.with_layers(62)


def test_changing_format_reaches_every_matrix_and_keeps_sharing():
    model = load_model("gpt-oss-120b").with_dtype("bf16")
    assert model.weight_bytes == 2 * model.total_params
    assert model.layers[0].experts is model.layers[1].experts


def test_unequal_experts_have_their_own_cost():
    model = model_from_mapping(
        {
            "num_layers": 2,
            "hidden_size": 128,
            "top_k": 2,
            "experts": [
                {"count": 3, "intermediate_size": 256},
                {"count": 2, "intermediate_size": 64},
                {"count": 1, "kind": "low_rank", "intermediate_size": 256, "rank": 4},
                {"count": 2, "kind": "zero"},
            ],
        }
    )
    assert model.experts == 6
    assert model.expert_bytes == 2 * 3 * 128 * 256
    assert len({e.flops_per_token for e in model.layers[0].experts}) == 4


def test_impossible_specs_are_refused():
    with pytest.raises(InputError, match="top_k is 3"):
        LayerSpec(0, AttentionSpec("none"), experts=(ExpertSpec.gated(8, 8),) * 2, top_k=3)
    with pytest.raises(InputError, match="no kind of expert named 'fnn'"):
        ExpertSpec("fnn", 8, 8, (), 0)
    with pytest.raises(InputError, match="negative"):
        ExpertSpec("ffn", 8, 8, (), -1)
    with pytest.raises(InputError, match="no layer with experts"):
        ModelSpec("dense", 8, 8, False, (LayerSpec(0, AttentionSpec("none"), 8),))
    with pytest.raises(InputError, match="no convention named"):
        load_model("Mixtral-8x7B").active_params("all")
    with pytest.raises(InputError, match="at least one token"):
        load_model("Mixtral-8x7B").kv_bytes_per_token(0)
