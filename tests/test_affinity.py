"""Which experts share tokens, counted or assumed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.policies.past import Past
from moesim.routing.affinity import Affinity
from moesim.routing.generators import create_generator


def test_pairs_of_recorded_tokens_are_counted() -> None:
    ids = np.asarray([[[0, 1], [2, 3]], [[0, 2], [2, 1]]])
    found = Affinity.of_tokens(ids, 4)
    assert found.recorded
    assert found.together[0].tolist() == [[0, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    # Expert 0 of the first layer leads to 2 twice, and to 3 and 1 once each.
    assert found.onward[0, 0].tolist() == [0, 1, 2, 1]
    assert found.onward.sum() == 2 * 2 * 2


@given(
    seed=st.integers(0, 10_000), top_k=st.integers(1, 4), layers=st.integers(1, 3), tokens=st.integers(1, 40)
)
def test_independence_keeps_the_totals_of_counted_pairs(
    seed: int, top_k: int, layers: int, tokens: int
) -> None:
    rng = np.random.default_rng(seed)
    ids = np.stack([np.stack([rng.permutation(6)[:top_k] for _ in range(layers)]) for _ in range(tokens)])
    counted = Affinity.of_tokens(ids, 6)
    copies = np.stack([np.bincount(ids[:, layer].ravel(), minlength=6) for layer in range(layers)])
    assumed = Affinity.independent(copies, top_k)
    assert not assumed.recorded
    np.testing.assert_allclose(counted.together, counted.together.transpose(0, 2, 1))
    assert np.einsum("lee->le", counted.together).sum() == 0
    for one in (counted, assumed):
        if (copies > 0).sum(axis=1).min() > 1:
            np.testing.assert_allclose(one.together.sum(axis=(1, 2)), tokens * top_k * (top_k - 1))
        np.testing.assert_allclose(one.onward.sum(axis=(1, 2)), tokens * top_k**2)


def test_layers_that_are_repeated_follow_independently_where_the_recording_ends() -> None:
    ids = np.asarray([[[0], [1]], [[1], [1]], [[0], [0]]])
    cycled = Affinity.of_tokens(ids, 2).cycled(np.asarray([0, 1, 0]))
    assert cycled.together.shape == (3, 2, 2)
    assert cycled.onward[0].tolist() == [[1, 1], [0, 1]]
    assert cycled.onward[1].shape == (2, 2)


@pytest.mark.parametrize("kind", ["uniform", "zipf"])
def test_a_past_has_windows_that_look_like_its_totals(kind: str) -> None:
    more = {"exponent": 1.0} if kind == "zipf" else {}
    source = create_generator(kind, experts=16, top_k=2, layers=2, seed=3, **more)
    windows = source.windows(4)
    assert windows.shape == (4, 2, 16)
    share = windows.sum(axis=0) / windows.sum(axis=(0, 2))[:, np.newaxis]
    whole = source.profile() / source.profile().sum(axis=1, keepdims=True)
    np.testing.assert_allclose(share, whole, atol=0.01)
    past = Past.of_counts(source.profile(), top_k=2)
    assert past.windows(3).sum(axis=0).tolist() == source.profile().tolist()
    np.testing.assert_allclose(past.together.sum(), 2 * 65536 * 2)
