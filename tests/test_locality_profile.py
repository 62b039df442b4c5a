"""Knees, published models, which of them a trace is like, and which tokens of a trace are taken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.routing import RoutingTrace, TraceWriter
from moesim.routing.locality import (
    RATIOS,
    Accesses,
    at_ratios,
    distance,
    find_knee,
    hit_rate_curves,
    measure_locality,
    nearest_models,
    profile_summary,
    published,
    published_model,
    published_summary,
    published_table,
    select_accesses,
)

SHARED = next(
    (found for above in Path(__file__).resolve().parents if (found := above / "shared" / "data").is_dir()),
    Path("shared"),
)
PAPER = SHARED / "published" / "lrc_published_values.json"
NAMES = [model.name for model in published().models]


def random_ids(tokens, layers, experts, k, seed=0):
    return np.random.default_rng(seed).random((tokens, layers, experts)).argsort(axis=2)[..., :k]


@given(bend=st.floats(0.5, 3.5), first=st.floats(0.02, 1.0), share=st.floats(0.0, 0.95))
def test_the_knee_of_two_straight_lines_is_where_they_meet(bend, first, share):
    ratios = np.union1d(np.linspace(0.25, 4, 16), [bend])
    rates = np.where(ratios <= bend, first * ratios, first * bend + share * first * (ratios - bend))
    knee = find_knee(ratios, rates)
    assert knee.ratio == pytest.approx(bend)
    assert knee.height == pytest.approx(first * bend - bend * rates[-1] / 4)


def test_knees_look_no_further_than_ratio_4():
    assert find_knee([1, 2, 3, 4, 16], [0.3, 0.6, 0.65, 0.7, 1.0]).ratio == 2


def test_rates_between_whole_numbers_of_experts_are_interpolated():
    curve = [[0.2, 0.6, 0.9, 1.0], [0.4, 0.6, 0.9, 1.0]]
    found = at_ratios(curve, 2, [0.25, 0.5, 0.75, 1.5, 2, 8])
    assert found == pytest.approx(np.array([[0.1, 0.2, 0.4, 0.9, 1, 1], [0.2, 0.4, 0.5, 0.9, 1, 1]]))


@pytest.mark.skipif(not PAPER.is_file(), reason="the published values are not beside the repository")
def test_published_values_are_those_of_the_paper():
    models = json.loads(PAPER.read_text())["models"]
    assert len(models) == len(NAMES)
    for key, wanted in models.items():
        found = published_model(f"{wanted['name']} {key.partition('/')[2]}".strip())
        assert (found.experts, found.top_k) == (wanted["experts_per_moe_layer"], wanted["top_k"])
        assert (found.layers, found.parameters_b) == (wanted["layers"], wanted["total_params_b"])
        assert found.frequency_sd == wanted["table_activation_freq_sd"]
        for place, window in enumerate(published().windows):
            assert found.srp_at(window) == wanted["fig_SRP"].get(str(window))
            assert found.rho_hat_at(window) == wanted["fig_rho_hat"].get(str(window))
            interval = wanted["table_SCH_rho2_ci95"][str(window)]
            assert found.sch_interval[place] == (None if interval is None else tuple(interval))
        curves = {f"sch{window}": curve for window, curve in wanted["fig_SCH"].items()}
        curves |= {policy.lower(): curve for policy, curve in wanted["fig_hit_rate"].items()}
        for policy, curve in curves.items():
            said = {float(ratio): rate for ratio, rate in curve.items() if rate is not None}
            curve = found.curve(policy)
            assert curve == dict.fromkeys(curve, 1.0) | said
            assert all(ratio * found.top_k >= found.experts for ratio in set(curve) - set(said))


def test_published_values_are_of_one_kind():
    assert len({name.removesuffix(" encoder").removesuffix(" decoder") for name in NAMES}) == 20
    for model in published().models:
        rate = model.top_k / model.experts
        for srp, rho in zip(model.srp, model.rho_hat, strict=True):
            assert srp is None or srp > 2 * rate / (1 + rate) - 0.002
            assert (srp is None) == (rho is None)
        belady = model.curve("belady")
        for policy in ("lru", "lfu", "belady", "sch4", "sch16", "sch64", "sch256"):
            curve = model.curve(policy)
            assert list(curve) == sorted(curve)
            assert list(curve.values()) == sorted(curve.values())
            assert all(rate <= belady[ratio] + 0.003 for ratio, rate in curve.items())
        for window, interval in zip(published().windows, model.sch_interval, strict=True):
            if interval is not None:
                assert interval[0] - 0.004 <= model.curve(f"sch{window}")[2.0] <= interval[1] + 0.004


def test_published_knees_lie_where_the_paper_sees_them():
    """About 2, as the paper says; this definition gives 1.5 or 2 on the published ratios."""
    assert {model.knee("sch16").ratio for model in published().models} == {1.5, 2.0}
    clear = sorted(published().models, key=lambda model: -model.knee("sch16").height)[:6]
    assert {model.name.partition("-")[0] for model in clear} == {
        *("LLaMA", "Yuan2.0", "PowerMoE", "Qwen3", "Phi", "OLMoE"),  # the paper's first group
    }
    assert published_model("Mixtral").curve("lru")[4.0] == 1
    assert published_model("olmoe").curve("fifo") == {}
    assert published_model("olmoe").knee("sch5") is None


def test_the_table_of_the_page_is_fresh():
    page = (Path(__file__).parents[1] / "docs" / "locality.md").read_text(encoding="utf-8")
    assert published_table() in page, "write it again, see the page"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("olmoo", "did you mean 'OLMoE-1B-7B-0125'"),
        ("DeepSek-V2-Lite", "did you mean 'DeepSeek-V2-Lite'"),
        ("qwen", "choose Qwen1.5-MoE-A2.7B or Qwen3-30B-A3B or Qwen2-57B-A14B"),
        ("", "did you mean"),
    ],
)
def test_unknown_models_are_refused_with_the_nearest(name, said):
    with pytest.raises(InputError, match=said):
        published_model(name)


def test_models_are_found_by_part_of_a_name():
    assert published_model("deepseek-v2").name == "DeepSeek-V2-Lite"
    assert published_model(" MIXTRAL ").name == "Mixtral-8x7B-v0.1"
    assert all(published_model(name).name == name for name in NAMES)


@pytest.fixture(scope="module")
def even():
    return measure_locality(Accesses.of(random_ids(2048, 2, 8, 2), [512] * 4, experts=8))


def test_a_trace_without_locality_is_like_models_that_choose_from_few_experts(even):
    near = nearest_models(even, 22)
    assert [model.experts / model.top_k for model, _ in near[:4]] == [4] * 4
    away = [distance(even, model) for model, _ in near]
    assert away == sorted(away)
    assert away == [pytest.approx(value) for _, value in near]
    assert {model.name for model, _ in near} == set(NAMES)


def test_a_profile_has_the_curves_of_one_policy_at_a_time(even):
    ids = random_ids(60, 3, 8, 2, seed=4)
    accesses = Accesses.of(ids, [40, 20], experts=8)
    for scope, caches in (("layer", accesses), ("global", accesses.together())):
        profile = measure_locality(accesses, layers=(3, 5, 9), windows=(8, 4, 4, 90), scope=scope)
        assert list(profile.curves) == ["lru", "lfu", "belady", "sch4", "sch8"]
        assert profile.skipped == (90,)
        assert profile.per_token == (2 if scope == "layer" else 6)
        for name, (policy, window) in {"lfu": ("lfu", None), "sch8": ("sch", 8)}.items():
            curves = hit_rate_curves(caches, policy, window)
            pooled = (40 * curves[0] + 20 * curves[1]) / 60
            assert profile.curves[name] == pytest.approx(pooled)
            assert profile.rates(name, [1])[0] == pytest.approx(pooled.mean(axis=0)[profile.per_token - 1])
    with pytest.raises(InputError, match="did you mean 'belady'"):
        profile.curve("beladi")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"windows": (0, 4)}, "at least one token"),
        ({"windows": ()}, "at least one token"),
        ({"windows": (600, 700)}, "longest sequence has 512"),
        ({"scope": "layr"}, "did you mean 'layer'"),
    ],
)
def test_profiles_that_cannot_be_are_refused(given, said):
    accesses = Accesses.of(random_ids(512, 1, 4, 2), experts=4)
    with pytest.raises(InputError, match=said):
        measure_locality(accesses, **given)


def test_summaries_are_plain_data(even):
    found = json.loads(json.dumps(profile_summary(even), allow_nan=False))
    assert [row["window"] for row in found["consistency"]] == [4, 16, 64, 256]
    assert found["ratios"] == list(RATIOS)
    assert np.shape(found["consistency"][0]["per_expert_srp"]) == (2, 8)
    lone = Accesses.of([[[0]], [[1]]], [1, 1], experts=3)
    lonely = json.loads(json.dumps(profile_summary(measure_locality(lone, windows=(1,))), allow_nan=False))
    assert lonely["reuse"]["adjacent"] is None
    assert lonely["consistency"][0]["per_expert_rho_hat"] == [[1.0, 1.0, None]]
    for name in NAMES:
        said = json.loads(json.dumps(published_summary(published_model(name)), allow_nan=False))
        assert [len(row["rates"]) for row in said["hit_rates"]] == [10] * 7


@pytest.fixture
def trace(tmp_path):
    """Write 3 sequences of 4, 2 and 3 tokens with weights, the middle one of another task."""
    ids = random_ids(9, 3, 8, 2, seed=1)
    weights = np.random.default_rng(2).random(ids.shape)
    path = tmp_path / "t"
    with TraceWriter(
        path, model="m", experts=8, top_k=2, layers=(1, 2, 5), weights=True, tasks=("a", "b")
    ) as writer:
        for number, (first, last, task) in enumerate([(0, 4, "a"), (4, 6, "b"), (6, 9, "a")]):
            phases = np.array([0] * (last - first - 1) + [1])
            writer.append(
                ids[first:last], weights=weights[first:last], sequence=number, phase=phases, task=task
            )
    return RoutingTrace.open(path)


def lengths(selection):
    accesses = selection.accesses
    return accesses.lengths[np.argsort(accesses.starts)].tolist()


def test_all_tokens_are_taken_by_falling_weight(trace):
    found = select_accesses(trace)
    assert lengths(found) == [4, 2, 3]
    assert found.layers == (1, 2, 5)
    assert found.notes == ()
    ids, weights = trace.logical_ids(slice(None)), trace.gate_weights(slice(None))
    for token, layer in np.ndindex(9, 3):
        pairs = sorted(zip(-weights[token, layer], ids[token, layer], strict=True))
        assert found.accesses.ids[token, layer].tolist() == [expert for _, expert in pairs]


def test_parts_of_a_trace(trace):
    whole = select_accesses(trace).accesses.ids
    some = select_accesses(trace, layers=(5, 1), task="a")
    assert (lengths(some), some.layers) == ([4, 3], (1, 5))
    assert (some.accesses.ids == whole[[0, 1, 2, 3, 6, 7, 8]][:, [0, 2]]).all()
    assert lengths(select_accesses(trace, phase="prefill")) == [3, 1, 2]
    assert lengths(select_accesses(trace, phase="decode")) == [1, 1, 1]
    assert lengths(select_accesses(trace, length=2)) == [2, 2, 2, 2, 1]
    one = [select_accesses(trace, sequences=1).accesses.ids for _ in range(2)]
    assert (one[0] == one[1]).all()
    assert any(np.array_equal(one[0], whole[part]) for part in (slice(0, 4), slice(4, 6), slice(6, 9)))
    assert lengths(select_accesses(trace, sequences=7)) == [4, 2, 3]


def test_traces_that_tell_less_are_taken_with_a_note(tmp_path):
    with TraceWriter(tmp_path / "t", model="m", experts=4, top_k=2, layers=(0,)) as writer:
        writer.append(random_ids(600, 1, 4, 2))
    found = select_accesses(RoutingTrace.open(tmp_path / "t"))
    assert lengths(found) == [512, 88]
    assert ["sequences apart" in found.notes[0], "weights" in found.notes[1]] == [True, True]
    assert lengths(select_accesses(RoutingTrace.open(tmp_path / "t"), length=300)) == [300, 300]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layers": (3,)}, r"no layer 3.*recorded: 1, 2, 5"),
        ({"layers": ()}, "no layer was chosen"),
        ({"task": "c"}, "no task in this trace named 'c'"),
        ({"sequences": 0}, "'sequences' must be at least 1"),
        ({"length": -1}, "'length' must be at least 1"),
    ],
)
def test_parts_that_are_not_there_are_refused(trace, given, said):
    with pytest.raises(InputError, match=said):
        select_accesses(trace, **given)
