"""The gate that takes experts from few groups."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.routing.gates import group_limited_gate

GOLDEN = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "goldens" / "dsv3_gate.json"


@pytest.mark.skipif(not GOLDEN.exists(), reason="the shared reference data are not there")
def test_experts_and_weights_are_those_of_the_reference():
    for case in json.loads(GOLDEN.read_text())["cases"]:
        given_, expected = case["inputs"], case["outputs"]
        experts, weights = group_limited_gate(
            given_["logits"],
            top_k=given_["top_k"],
            groups=given_["num_groups"],
            limited_groups=given_["num_limited_groups"],
            bias=given_["bias"],
            score=given_["score_func"],
            scale=given_["route_scale"],
        )
        assert experts.tolist() == expected["expert_ids"], case["name"]
        # The reference is written with six digits.
        np.testing.assert_allclose(weights, expected["weights"], rtol=0, atol=6e-7)


def test_a_group_counts_as_its_two_best_experts_if_there_is_a_bias():
    # The best expert is in group 0, the best pair in group 1.
    logits = [[3.0, -3.0, 1.0, 1.1]]
    choose = {"top_k": 1, "groups": 2, "limited_groups": 1}
    assert group_limited_gate(logits, **choose)[0].tolist() == [[0]]
    assert group_limited_gate(logits, bias=np.zeros(4), **choose)[0].tolist() == [[3]]


def test_the_bias_chooses_but_does_not_weigh():
    experts, weights = group_limited_gate([[0.0, 0.0, 2.0]], top_k=2, bias=[1.0, 0.9, 0.0])
    assert experts.tolist() == [[0, 1]]
    assert weights.tolist() == [[0.5, 0.5]]


def test_of_equal_scores_the_lower_index_wins():
    experts, _ = group_limited_gate(np.zeros((2, 8)), top_k=3, groups=4, limited_groups=2)
    assert experts.tolist() == [[0, 1, 2]] * 2
    tied = [[0.0, 1.0, 1.0, 0.0, 1.0, 1.0]]
    assert group_limited_gate(tied, top_k=3, groups=3, limited_groups=2)[0].tolist() == [[1, 2, 0]]


def test_softmax_weights_are_probabilities_times_the_scale():
    logits = np.log([[0.1, 0.2, 0.7]])
    experts, weights = group_limited_gate(logits, top_k=2, score="softmax", scale=2.0)
    assert experts.tolist() == [[2, 1]]
    np.testing.assert_allclose(weights, [[1.4, 0.4]], rtol=1e-6)


def test_huge_logits_do_not_overflow():
    experts, weights = group_limited_gate([[-1e4, 1e4, 50.0, -50.0]], top_k=2)
    assert experts.tolist() == [[1, 2]]
    assert weights.tolist() == [[0.5, 0.5]]


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4, 8]), st.data())
def test_experts_are_distinct_from_few_groups_and_weights_add_up(seed, groups, data):
    limit = data.draw(st.integers(1, groups))
    per_group = 32 // groups
    top_k = data.draw(st.integers(1, limit * per_group))
    logits = np.random.default_rng(seed).normal(size=(5, 32))
    experts, weights = group_limited_gate(
        logits, top_k=top_k, groups=groups, limited_groups=limit, bias=np.zeros(32), scale=2.5
    )
    for chosen in experts:
        assert len(set(chosen.tolist())) == top_k
        assert len(set((chosen // per_group).tolist())) <= limit
    np.testing.assert_allclose(weights.sum(axis=1), 2.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_k": 1, "groups": 3}, "3 groups do not divide 8 experts"),
        ({"top_k": 1, "groups": 4, "limited_groups": 5}, "1 experts from 5 of 4 groups"),
        ({"top_k": 3, "groups": 4, "limited_groups": 1}, "cannot take 3 experts from 1 of 4 groups of 2"),
    ],
)
def test_impossible_groups_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        group_limited_gate(np.zeros((1, 8)), **options)


def test_a_gate_needs_a_row_per_token():
    with pytest.raises(InputError, match=r"logits \[tokens, experts\]"):
        group_limited_gate(np.zeros(8), top_k=1)
