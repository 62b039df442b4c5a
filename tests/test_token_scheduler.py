"""ExpertFlow's token scheduler against enumeration and planted batches."""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.policies.offload.token_scheduler import centre_of, needed, regroup, similarity


def drawn(seed, half, layers, experts, k):
    random = np.random.default_rng(seed)
    ids = random.random((2 * half, layers, experts)).argsort(axis=2)[..., :k]
    routes = np.zeros((2 * half, layers, experts), dtype=bool)
    np.put_along_axis(routes, ids, True, axis=2)
    return routes.reshape(2 * half, -1)


def planted(seed, half, layers, experts, noise):
    """Return tokens of two kinds, shuffled, whose experts are of the lower or the upper half."""
    random = np.random.default_rng(seed)
    kind = random.permutation(np.repeat([0, 1], half))
    ids = random.integers(0, experts // 2, (2 * half, layers, 1)) + kind[:, None, None] * (experts // 2)
    wrong = random.random(ids.shape) < noise
    ids = np.where(wrong, random.integers(0, experts, ids.shape), ids)
    routes = np.zeros((2 * half, layers, experts), dtype=bool)
    np.put_along_axis(routes, ids, True, axis=2)
    return routes.reshape(2 * half, -1), kind


def best_of_all(routes):
    everyone = set(range(len(routes)))
    return min(
        needed(routes, np.asarray(first), np.asarray(sorted(everyone - set(first))))
        for first in combinations(range(len(routes)), len(routes) // 2)
    )


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    half=st.integers(1, 4),
    layers=st.integers(1, 4),
    experts=st.integers(2, 6),
)
def test_between_the_best_of_all_splits_and_the_given_one(seed, half, layers, experts):
    routes = drawn(seed, half, layers, experts, min(2, experts))
    found = regroup(routes)
    assert sorted([*found.first, *found.second]) == list(range(2 * half))
    assert len(found.first) == len(found.second) == half
    assert found.needed == needed(routes, found.first, found.second)
    assert found.given == needed(routes, np.arange(half), np.arange(half, 2 * half))
    assert best_of_all(routes) <= found.needed <= found.given
    again = regroup(routes)
    assert (again.first.tolist(), again.rounds) == (found.first.tolist(), found.rounds)


def test_most_of_what_there_is_to_save_is_saved():
    given_, found, best = np.sum(
        [
            (one.given, one.needed, best_of_all(routes))
            for routes in (planted(seed, 5, 4, 8, 0.15)[0] for seed in range(40))
            for one in [regroup(routes)]
        ],
        axis=0,
    )
    assert given_ - found > 0.7 * (given_ - best)


@pytest.mark.parametrize("seed", range(10))
def test_two_kinds_of_tokens_are_told_apart(seed):
    routes, kind = planted(seed, 32, 32, 8, 0.0)
    found = regroup(routes)
    assert len(set(kind[found.first])) == 1
    assert found.needed < 0.6 * found.given


def test_similarity_is_one_less_the_share_of_places_that_differ():
    routes = np.asarray([[1, 0, 1, 0], [1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 0, 1]], dtype=bool)
    assert similarity(routes)[0] == pytest.approx([1, 1, 0.5, 0])


def test_the_centre_is_the_token_most_similar_to_its_batch():
    routes = np.asarray([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=bool)
    same = similarity(routes)
    assert centre_of(same, np.asarray([0, 1, 2])) == 1
    assert centre_of(same, np.asarray([1, 2, 3])) == 2
    assert centre_of(same, np.asarray([0, 3])) == 0


def test_a_good_split_stays_and_the_first_batch_keeps_its_name():
    routes = np.zeros((4, 4), dtype=bool)
    routes[[0, 1], 0] = routes[[2, 3], 3] = True
    assert regroup(routes).first.tolist() == [0, 1]
    assert regroup(routes[[0, 2, 1, 3]]).first.tolist() == [0, 2]
    assert regroup(np.zeros((4, 4), dtype=bool)).first.tolist() == [0, 1]
    with pytest.raises(InputError, match="3 tokens are not two batches"):
        regroup(routes[:3])


def test_a_batch_of_64_takes_milliseconds():
    routes = planted(1, 32, 32, 8, 0.3)[0]
    took = []
    for _ in range(20):
        began = time.perf_counter()
        regroup(routes)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.01
