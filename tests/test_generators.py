from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.routing.generators import create_generator, generator_kinds, generator_parameters, sampling
from moesim.routing.generators.base import Generator
from moesim.routing.generators.sampling import apportion, dealt, inclusion, on_grid, sampled
from moesim.routing.source import RoutingSource

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
SCENARIOS = SHARED / "data" / "goldens" / "llep_paper_scenarios.json"

EXAMPLES: dict[str, dict[str, object]] = {
    "affinity": {"exponent": 0.8},
    "counts": {"counts": [5, 0, 1, 7, 2, 2, 9, 1]},
    "dirichlet": {"alpha": 0.5},
    "hot_experts": {"fraction": 0.3, "hot": 4},
    "local": {"exponent": 0.8},
    "power_law": {"alpha": 1.2},
    "uniform": {},
    "zipf": {"exponent": 0.8},
}
CAPPED = sorted(set(EXAMPLES) - {"hot_experts"})

_tokens = st.lists(st.integers(0, 300), min_size=1, max_size=6)


def make(kind: str, *, top_k: int = 3, layers: int = 3, seed: int = 7, **more: object) -> Generator:
    return create_generator(
        kind, experts=8, top_k=top_k, layers=layers, seed=seed, **{**EXAMPLES[kind], **more}
    )


def devices(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int64)


def imbalance(counts: np.ndarray) -> float:
    return float((counts.max(axis=-1) / counts.mean(axis=-1)).mean())


def test_every_registered_kind_is_tested_here() -> None:
    assert generator_kinds() == sorted(EXAMPLES)


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_a_generator_is_a_routing_source(kind: str) -> None:
    made = make(kind)
    assert isinstance(made, RoutingSource)
    assert (made.experts, made.top_k, made.layers) == (8, 3, 3)
    assert made.name.startswith(kind)
    assert made.steps_available(10**6) is None


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
@settings(max_examples=25, deadline=None)
@given(tokens=_tokens, step=st.integers(0, 10**9), seed=st.integers(0, 2**40), top_k=st.integers(1, 8))
def test_every_device_sends_each_of_its_tokens_top_k_times(
    kind: str, tokens: list[int], step: int, seed: int, top_k: int
) -> None:
    load = make(kind, seed=seed, top_k=top_k).load(step, devices(*tokens))
    assert load.counts.shape == (3, len(tokens), 8)
    assert load.counts.dtype == np.int64
    assert load.counts.min() >= 0
    assert (load.counts.sum(axis=2) == np.array(tokens) * top_k).all()


@pytest.mark.parametrize("kind", CAPPED)
@settings(max_examples=25, deadline=None)
@given(tokens=_tokens, seed=st.integers(0, 2**40), top_k=st.integers(1, 8))
def test_no_expert_gets_a_token_twice(kind: str, tokens: list[int], seed: int, top_k: int) -> None:
    counts = make(kind, seed=seed, top_k=top_k).load(0, devices(*tokens)).counts
    assert (counts <= np.array(tokens)[:, np.newaxis]).all()


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_same_seed_gives_same_load_in_any_order_of_calls(kind: str) -> None:
    one, other = make(kind), make(kind)
    tokens = devices(40, 0, 7)
    forward = [one.profile()] + [one.load(step, tokens).counts for step in range(3)]
    backward = [other.load(step, tokens).counts for step in (2, 1, 0)] + [other.profile()]
    for a, b in zip(forward, reversed(backward), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["dirichlet", "power_law", "uniform", "zipf"])
def test_another_seed_gives_another_load(kind: str) -> None:
    tokens = devices(200, 200)
    assert (make(kind, seed=1).load(0, tokens).counts != make(kind, seed=2).load(0, tokens).counts).any()


@pytest.mark.parametrize("kind", ["counts", "dirichlet", "power_law", "uniform", "zipf"])
def test_steps_differ_from_each_other_and_from_the_profile(kind: str) -> None:
    made = make(kind, profile_tokens=400)
    steps = [made.load(step, devices(400, 400)).counts for step in (0, 1)]
    assert (steps[0] != steps[1]).any()
    assert (steps[0][:, 0] != made.profile()).any()


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_profile_holds_the_profiling_window(kind: str) -> None:
    profile = make(kind, profile_tokens=1000).profile()
    assert profile.shape == (3, 8)
    assert (profile.sum(axis=1) == 3000).all()


@pytest.mark.parametrize("kind", ["dirichlet", "zipf", "counts"])
def test_profile_shows_the_popularity_that_steps_have(kind: str) -> None:
    made = make(kind)
    seen = made.profile() / made.profile().sum(axis=1, keepdims=True)
    later = made.load(5, devices(200_000)).per_expert / 600_000
    np.testing.assert_allclose(seen, later, atol=0.01)


def test_zipf_is_more_skewed_with_a_larger_exponent() -> None:
    skews = [
        imbalance(make("zipf", exponent=s, top_k=1).load(0, devices(5000)).per_expert)
        for s in (0.0, 0.4, 0.8, 1.2)
    ]
    assert skews == sorted(skews)
    assert skews[0] < 1.1
    assert skews[-1] > 3


def test_dirichlet_is_more_skewed_with_a_smaller_alpha() -> None:
    def skew(alpha: float) -> float:
        made = create_generator("dirichlet", experts=64, top_k=2, layers=8, seed=3, alpha=alpha)
        return imbalance(made.load(0, devices(5000)).per_expert)

    assert skew(100.0) < skew(4.0) < skew(0.7)


def test_zipf_shares_follow_the_exponent_and_layers_differ() -> None:
    made = create_generator("zipf", experts=16, top_k=1, layers=4, seed=0, exponent=1.0)
    counts = made.load(0, devices(400_000)).per_expert
    expected = 1 / np.arange(1, 17)
    np.testing.assert_allclose(
        -np.sort(-counts, axis=1) / 400_000, np.tile(expected / expected.sum(), (4, 1)), rtol=0.05
    )
    assert len({tuple(np.argsort(-row)) for row in counts}) > 1


def test_uniform_keeps_only_the_noise_of_sampling() -> None:
    made = create_generator("uniform", experts=64, top_k=6, layers=40, seed=0)
    noise = [imbalance(made.load(0, devices(tokens)).per_expert) - 1 for tokens in (1024, 16384)]
    # sqrt(2 ln N * N / (k T)) for T = 1024 is 0.29, simulated with independent tokens 0.24
    assert noise[0] == pytest.approx(0.24, abs=0.05)
    assert noise[0] / noise[1] == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize(
    ("alpha", "tokens", "published"),
    [(1.01, 512, 6.05), (1.2, 512, 9.08), (1.5, 512, 17.8), (1.01, 16384, 9.6), (1.2, 16384, 20.9)],
)
def test_power_law_has_the_imbalance_of_aiconfigurator(alpha: float, tokens: int, published: float) -> None:
    made = create_generator("power_law", experts=256, top_k=8, layers=200, seed=0, alpha=alpha)
    load = made.load(0, np.full(8, tokens // 8))
    assert imbalance(load.per_expert) == pytest.approx(published, rel=0.05)


def test_power_law_accepts_the_exponent_of_the_log_uniform_limit() -> None:
    near, limit = (
        make("power_law", alpha=alpha).load(0, devices(5000)).per_expert for alpha in (1.0 + 1e-7, 1.0)
    )
    assert np.abs(near - limit).max() <= 2


def test_given_counts_come_out_exactly_when_they_fit_the_step() -> None:
    rows = [[4, 0, 6, 2], [3, 3, 3, 3]]
    made = create_generator("counts", experts=4, top_k=2, layers=2, seed=0, counts=rows)
    np.testing.assert_array_equal(made.load(3, devices(1, 2, 3)).per_expert, rows)
    np.testing.assert_array_equal(made.load(3, devices(10, 2)).per_expert, np.array(rows) * 2)


# Counts per expert of one of eight equal ranks, worked out by the published benchmark script.
@pytest.mark.parametrize(
    ("experts", "top_k", "tokens", "fraction", "hot", "first", "last"),
    [
        (128, 4, 32768, 0.30, 16, [9830] * 4 + [0] * 12 + [820] * 4, [820] * 3),
        (128, 4, 32768, 0.30, 1, [39320, 724, 724, 723, 722, 721, 720], [724] * 3),
        (128, 4, 32768, 0.95, 4, [31129] * 4 + [52] * 5 + [53, 54, 55, 56], [52] * 3),
        (256, 8, 16384, 0.30, 4, [9830] * 4 + [368] * 4 + [367, 366, 365, 364], [368] * 3),
        (256, 8, 16384, 0.95, 1, [124512] + [24] * 9 + [25, 26, 27, 28, 29, 30, 31, 32], [24] * 3),
    ],
)
def test_hot_experts_build_the_paper_scenarios(
    experts: int, top_k: int, tokens: int, fraction: float, hot: int, first: list[int], last: list[int]
) -> None:
    made = create_generator(
        "hot_experts", experts=experts, top_k=top_k, layers=1, seed=0, fraction=fraction, hot=hot
    )
    counts = made.load(0, np.full(8, tokens)).counts[0]
    assert (counts == counts[0]).all()
    assert counts[0][: len(first)].tolist() == first
    assert counts[0][-3:].tolist() == last


@pytest.mark.skipif(not SCENARIOS.is_file(), reason="the shared golden cases are not beside this repository")
def test_hot_experts_reproduce_every_golden_scenario() -> None:
    cases = json.loads(SCENARIOS.read_text())["cases"]
    assert len(cases) == 24
    for case in cases:
        model, percent, hot = case["name"].split("_")
        top_k, tokens = (4, 32768) if model == "gpt-oss-120b" else (8, 16384)
        made = create_generator(
            "hot_experts",
            experts=case["inputs"]["num_experts"],
            top_k=top_k,
            layers=2,
            seed=0,
            fraction=int(percent.removesuffix("pct")) / 100,
            hot=int(hot),
        )
        load = made.load(0, np.full(case["inputs"]["ep_size"], tokens))
        for layer in load.per_expert:
            assert layer.tolist() == case["inputs"]["global_expert_counts"], case["name"]


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(0, 200),
    fraction=st.floats(0, 1),
    hot=st.integers(1, 7),
    top_k=st.integers(1, 8),
)
def test_hot_experts_match_the_pattern_token_by_token(
    tokens: int, fraction: float, hot: int, top_k: int
) -> None:
    expected = np.zeros(8, dtype=np.int64)
    first = 0 if fraction == 0 else hot
    for i in range(tokens):
        for k in range(top_k):
            is_hot = i < int(tokens * fraction)
            expected[k % hot if is_hot else first + (i + k) % (8 - first)] += 1
    made = make("hot_experts", fraction=fraction, hot=hot, top_k=top_k)
    assert made.load(0, devices(tokens)).per_expert[0].tolist() == expected.tolist()


_popularity = st.lists(st.floats(0, 1e6), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(popularity=_popularity, tokens=st.integers(0, 1000), data=st.data())
def test_apportioned_copies_keep_sum_and_cap(
    popularity: list[float], tokens: int, data: st.DataObject
) -> None:
    top_k = data.draw(st.integers(1, len(popularity)))
    weights = np.array(popularity)
    chances = inclusion(weights, top_k)
    counts = apportion(weights, tokens, top_k)
    assert chances.sum() == pytest.approx(top_k)
    assert chances.max() <= 1
    assert counts.sum() == tokens * top_k
    assert counts.max() <= tokens
    assert np.abs(counts - chances * tokens).max() < 1 + 1e-6


@settings(max_examples=80, deadline=None)
@given(popularity=_popularity, tokens=_tokens, seed=st.integers(0, 2**32), data=st.data())
def test_dealt_totals_are_kept(
    popularity: list[float], tokens: list[int], seed: int, data: st.DataObject
) -> None:
    top_k = data.draw(st.integers(1, len(popularity)))
    totals = apportion(np.array(popularity), sum(tokens), top_k)
    counts = dealt(totals, devices(*tokens), top_k, np.random.default_rng(seed))
    np.testing.assert_array_equal(counts.sum(axis=0), totals)
    np.testing.assert_array_equal(counts.sum(axis=1), np.array(tokens) * top_k)
    assert (counts <= np.array(tokens)[:, np.newaxis]).all()


def test_sampled_counts_are_binomial() -> None:
    popularity = np.array([9.0, 4.0, 2.0, 1.0, 1.0, 0.5])
    chances = inclusion(popularity, 2)
    draw = np.random.default_rng(0)
    counts = np.concatenate([sampled(on_grid(popularity, 2), np.full(50, 200), draw) for _ in range(100)])
    np.testing.assert_allclose(counts.mean(axis=0), 200 * chances, rtol=0.02)
    np.testing.assert_allclose(counts.var(axis=0), 200 * chances * (1 - chances), rtol=0.1, atol=0.01)


@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_counts_of_few_tokens_are_binomial_too(tokens: int) -> None:
    popularity = np.array([9.0, 4.0, 2.0, 1.0, 1.0, 0.5])
    chances = inclusion(popularity, 2)
    draw, each = np.random.default_rng(0), np.full(50, tokens)
    counts = np.concatenate([sampled(on_grid(popularity, 2), each, draw) for _ in range(400)])
    np.testing.assert_allclose(counts.mean(axis=0), tokens * chances, rtol=0.04)
    np.testing.assert_allclose(counts.var(axis=0), tokens * chances * (1 - chances), rtol=0.1, atol=0.01)


def test_tokens_drawn_one_by_one_fall_into_gaps_in_proportion() -> None:
    cell = 1 << 26  # gaps within a cell of the table, across cells, and of exactly one cell
    points = np.array([0, cell // 4, cell // 2, cell, 2 * cell, 3 * cell + 5, 1 << 39, (1 << 40) - cell // 3])
    sizes = np.diff(points, append=1 << 40)
    amount, draw = 1 << 24, np.random.default_rng(0)
    found = sampling._counted(points, devices(amount), draw)[0]
    wanted = amount * sizes / (1 << 40)
    assert found.sum() == amount
    assert float(((found - wanted) ** 2 / wanted).sum()) < 24.3  # chi-square, 7 degrees of freedom: 1 in 1000


def test_devices_keep_their_tokens_and_their_law() -> None:
    tokens = devices(9000, 0, 1, 8000, 3, 0, 9000)  # more than a block takes, drawn one by one
    popularity = np.arange(1.0, 2001.0)
    grid = on_grid(popularity, 8)
    first, again = (sampled(grid, tokens, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first.sum(axis=1), tokens * 8)
    assert (first >= 0).all()
    assert (first <= tokens[:, np.newaxis]).all()
    noise = (first - tokens[:, np.newaxis] * inclusion(popularity, 8)) / np.sqrt(popularity)
    assert abs(np.corrcoef(noise[0], noise[6])[0, 1]) < 0.1  # each its own draw


@pytest.mark.parametrize(
    ("kind", "wrong", "says"),
    [
        ("zipf", {"exponent": -1.0}, "exponent must be greater than or equal to 0, got -1.0"),
        ("zipf", {"exponent": float("nan")}, "exponent must be a finite number"),
        ("zipf", {"exponent": "1"}, "exponent must be a valid number"),
        ("zipf", {"exponnent": 1.0}, "did you mean 'exponent'"),
        ("zipf", {}, "needs the parameter 'exponent'"),
        ("hot_experts", {"fraction": 1.5}, r"fraction must be less than or equal to 1.*>= 0 and <= 1"),
        ("hot_experts", {"fraction": 0.5, "hot": 8}, "hot must be below the 8 experts"),
        ("hot_experts", {"fraction": True}, "fraction must be a valid number"),
        ("dirichlet", {"alpha": 0}, "alpha must be greater than or equal to 0.001"),
        ("counts", {"counts": [1, 2]}, "must have 8 experts, got 2"),
        ("counts", {"counts": [[1] * 8] * 2}, "1 list or 3"),
        ("counts", {"counts": [0] * 8}, "at least one count above zero"),
        ("counts", {"counts": []}, "must have 8 experts, got 0"),
        ("counts", {"counts": [1, -2, 1, 1, 1, 1, 1, 1]}, "greater than or equal to 0"),
        ("counts", {"counts": "many"}, "counts must be a valid tuple"),
        ("zapf", {}, "did you mean 'zipf'"),
        ("uniform", {"profile_tokens": 0}, "profile_tokens must be greater than or equal to 1"),
    ],
)
def test_wrong_parameters_are_refused_by_name_and_range(
    kind: str, wrong: dict[str, object], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        create_generator(kind, experts=8, top_k=2, layers=3, seed=0, **wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"experts": 0}, "experts must be from 1"),
        ({"top_k": 9}, r"top_k must be at most the number of experts \(8\)"),
        ({"layers": 10**9}, "layers must be from 1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"experts": True}, "experts must be a whole number"),
    ],
)
def test_wrong_shapes_are_refused(wrong: dict[str, int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        create_generator("uniform", **{"experts": 8, "top_k": 2, "layers": 1, "seed": 0, **wrong})


@pytest.mark.parametrize(
    ("step", "tokens"), [(-1, [1]), (0, []), (0, [-1]), (0, [[1]]), (0, [10**9, 1]), (0, [1.5])]
)
def test_wrong_steps_and_tokens_are_refused(step: int, tokens: list[int]) -> None:
    with pytest.raises(InputError):
        make("uniform").load(step, np.array(tokens))


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_parameters_are_described(kind: str) -> None:
    for field in generator_parameters(kind).model_fields.values():
        assert field.description


@pytest.mark.parametrize("kind", ["uniform", "zipf", "dirichlet"])
def test_groups_get_equal_shares_whatever_the_skew(kind: str) -> None:
    more = {"uniform": {}, "zipf": {"exponent": 2.0}, "dirichlet": {"alpha": 0.1}}[kind]
    source = create_generator(kind, experts=64, top_k=8, layers=3, seed=1, groups=8, **more)
    counts = source.load(0, np.asarray([5, 16, 0])).counts
    per_group = counts.reshape(3, 3, 8, 8).sum(axis=3)
    np.testing.assert_array_equal(per_group, np.broadcast_to(np.asarray([[5], [16], [0]]), per_group.shape))
    assert counts.max() <= 16
    plain = create_generator(kind, experts=64, top_k=8, layers=3, seed=1, **more)
    one = create_generator(kind, experts=64, top_k=8, layers=3, seed=1, groups=1, **more)
    np.testing.assert_array_equal(plain.load(0, np.asarray([9])).counts, one.load(0, np.asarray([9])).counts)
    with pytest.raises(InputError, match="3 groups do not divide 64 experts"):
        create_generator(kind, experts=64, top_k=8, layers=1, seed=1, groups=3, **more)
