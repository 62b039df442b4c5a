"""Cache policies: the contract over all registered ones, formulas, sizes, and published traces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.policies.cache.base import Access, CacheFrame, Precisions
from moesim.policies.cache.hobbit import hobbit_priority
from moesim.policies.cache.replay import replay
from moesim.policies.cache.scored import edgemoe_distance
from moesim.policies.cache.sizing import lru_miss_curves, sizes_by_demand, sizes_by_misses
from moesim.policies.registry import cache_names, create_cache

ESFT = Path(__file__).parents[2] / "shared" / "data" / "traces" / "esft_deepseek_v2_lite"


@st.composite
def traces(draw):
    experts = draw(st.integers(4, 10))
    k = draw(st.integers(1, 3))
    layers = draw(st.integers(1, 3))
    tokens = draw(st.integers(2, 20))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    ids = random.random((tokens, layers, experts)).argsort(axis=2)[..., :k]
    weights = random.dirichlet(np.ones(k), (tokens, layers))
    return ids, experts, weights, np.sort(random.integers(0, 3, tokens))


def run(name, trace, capacity, scope, watch=None):
    ids, experts, weights, sequence = trace
    return replay(create_cache(name), ids, experts, capacity, scope, weights, sequence, ids[:2], watch)


@pytest.mark.parametrize("name", cache_names())
@settings(max_examples=25)
@given(trace=traces(), scope=st.sampled_from(["layer", "global"]), extra=st.integers(0, 4))
def test_contract(name, trace, scope, extra):
    ids, experts, *_ = trace
    capacity = ids.shape[2] + extra + (4 if name == "hobbit" else 0)
    policy = create_cache(name)
    caches = ids.shape[1] if scope == "layer" else 1
    most = min(capacity, experts * ids.shape[1] // caches) * caches

    def watch(access, resident):
        assert resident.sum() <= most
        if policy.keeps == "loaded" and name != "hobbit":
            assert resident[access.rows, access.ids].all()

    done = run(name, trace, capacity, scope, watch)
    again = run(name, trace, capacity, scope)
    assert done.hits.tolist() == again.hits.tolist()
    assert done.accesses.sum() == ids.size
    misses = done.accesses - done.hits
    assert (misses >= 0).all()
    if name != "hobbit":
        assert (done.loads == misses).all()
    if policy.keeps == "loaded" and name not in ("hobbit", "expertflow", "adapmoe"):
        best = run("belady", trace, capacity, scope)
        assert best.hits.sum() >= done.hits.sum()


@given(trace=traces())
def test_more_cache_never_costs_belady_hits(trace):
    k, experts = trace[0].shape[2], trace[1]
    hits = [run("belady", trace, c, "layer").hits.sum() for c in range(k, experts + 1)]
    assert hits == sorted(hits)


@pytest.mark.parametrize(
    ("r", "f", "h", "t", "of", "now", "layers", "weights", "expected"),
    [
        (10, 4, 2, 12, 3, 0, 32, (0.25,) * 4, 0.559896),
        (12, 1, 0, 12, 31, 30, 32, (0.25,) * 4, 0.513021),
        (5, 9, 9, 20, 0, 31, 32, (0.1, 0.2, 0.6, 0.1), 0.481875),
        (20, 20, 10, 20, 5, 5, 32, (0.4, 0.3, 0.2, 0.1), 0.9),
    ],
)
def test_hobbit_priority(r, f, h, t, of, now, layers, weights, expected):
    one = [np.asarray([float(x)]) for x in (r, f, h)]
    ahead = np.asarray([(of - now) % layers / layers])
    assert hobbit_priority(*one, t, ahead, weights)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("uses", "of", "now", "forward", "printed"),
    [
        (5, 1, 2, 1.0, 5.0),
        (5, 3, 2, 5.0, 1.0),
        (5, 2, 2, 5 / 6, None),
        (1, 3, 2, 1.0, 0.2),
        (8, 0, 5, 8.0, 1.6),
    ],
)
def test_edgemoe_score(uses, of, now, forward, printed):
    of, now = np.asarray([float(of)]), np.asarray([float(now)])
    assert uses / edgemoe_distance(of, now, 6)[0] == pytest.approx(forward)
    if printed is not None:
        assert uses / edgemoe_distance(of, now, 6, as_printed=True)[0] == pytest.approx(printed)


def test_mrs_keeps_a_fading_sum_of_the_largest_scores():
    frame = CacheFrame(1, 8, 8, 1, np.asarray([8]), np.zeros((0, 1, 8), dtype=np.int64))
    state = create_cache("mrs", {"alpha": 0.5, "p": 4}).start(frame)
    rows = np.zeros((1, 1), dtype=np.int64)
    expected = ([0.2, 0.15, 0.05, 0.025, 0, 0, 0, 0], [0.1, 0.075, 0.275, 0.1125, 0.05, 0.05, 0, 0])
    scores = ([0.4, 0.3, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02], [0.02, 0.03, 0.5, 0.2, 0.1, 0.1, 0.03, 0.02])
    for step, (score, after) in enumerate(zip(scores, expected, strict=True)):
        weights = np.asarray([score])
        access = Access(step, rows, np.arange(8)[np.newaxis], weights, rows, slice(0, 8))
        state.see(access)
        assert state.priorities(access)[0] == pytest.approx(after, abs=1e-6)


def test_sizes_with_fewest_misses():
    curves = np.asarray([[9, 8, 7, 6], [9, 2, 0, 0]])
    assert sizes_by_misses(curves, 3).tolist() == [1, 2]
    assert sizes_by_misses(curves, 4, least=1).sum() == 4
    with pytest.raises(ValueError, match="do not give"):
        sizes_by_misses(curves, 1, least=1)


def test_sizes_by_demand_fill_the_first_layer_or_share():
    assert sizes_by_demand(np.asarray([3, 2]), 4, 1, 8, "depth").tolist() == [3, 1]
    assert sizes_by_demand(np.asarray([6, 4]), 5, 1, 8, "proportional").tolist() == [3, 2]


def test_miss_curve_of_one_expert_per_token_is_the_replay():
    ids = np.random.default_rng(1).integers(0, 6, (80, 2, 1))
    curves = lru_miss_curves(ids, 6)
    for size in range(1, 7):
        done = replay(create_cache("lru"), ids, 6, size)
        assert (done.accesses - done.hits).tolist() == curves[:, size].tolist()


def test_what_cannot_run_says_why():
    ids = np.zeros((3, 1, 1), dtype=np.int64)
    with pytest.raises(InputError, match="needs gate weights"):
        replay(create_cache("mrs"), ids, 4, 2)
    with pytest.raises(InputError, match="needs a profile"):
        replay(create_cache("static"), ids, 4, 2)
    with pytest.raises(InputError, match="the trace holds 1 scores"):
        replay(create_cache("mrs", {"p": 2}), ids, 4, 2, weights=np.ones((3, 1, 1)))
    with pytest.raises(InputError, match="must be 1"):
        create_cache("hobbit", {"w_lru": 1})


def test_any_policy_may_have_two_precisions():
    class Halves(type(create_cache("lru"))):
        needs_weights = True

        def precisions(self):
            return Precisions(t1=0.0, t2=1.0, low_share=0.5, low_size=0.5)

    ids = np.tile(np.asarray([[[0, 1]], [[2, 3]]]), (10, 1, 1))
    weights = np.tile(np.asarray([0.7, 0.3]), (20, 1, 1))
    done = replay(Halves(), ids, 4, 4, weights=weights)
    assert (done.loads.tolist(), done.low_loads.tolist(), done.skipped.tolist()) == ([2], [2], [0])
    assert done.low_hits.tolist() == [18]
    with pytest.raises(InputError, match=r"high-precision part of a cache, low_share 0\.5, of 1 experts"):
        replay(Halves(), ids, 4, 2, weights=weights)
    with pytest.raises(InputError, match="needs gate weights"):
        replay(Halves(), ids, 4, 4)


@pytest.mark.slow
def test_hit_rates_on_esft():
    """Measured values for DeepSeek-V2-Lite, 16 of 64 experts; the tasks they are of are not stated."""
    if not ESFT.is_dir():
        pytest.skip(f"no {ESFT.name} beside the repository")
    parts = [np.load(ESFT / f"{task}.npz") for task in ("intent", "summary")]
    ids = np.concatenate([p["ids"] for p in parts])
    weights = np.concatenate([p["weights_e4"] for p in parts]) / 1e4
    lengths = np.concatenate([p["seq_len"] for p in parts])
    sequence = np.repeat(np.arange(len(lengths)), lengths)

    def rate(name, **parameters):
        policy = create_cache(name, parameters)
        return 100 * replay(policy, ids, 64, 16, "layer", weights, sequence).hit_rate

    lru = rate("lru")
    assert lru == pytest.approx(49.8, abs=0.5)
    assert rate("lfu") == pytest.approx(52.1, abs=0.5)
    assert rate("random") == pytest.approx(48.1, abs=0.5)
    for alpha, expected in ((0.5, 50.4), (0.1, 52.3)):
        found = rate("mrs", alpha=alpha)
        assert found == pytest.approx(expected, abs=0.5)
        assert found > lru
