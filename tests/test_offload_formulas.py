"""Formulas of offloading systems against worked examples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.policies.offload.adapmoe import one_is_enough
from moesim.policies.offload.daop import Ahead, plan_next_layer, swaps_after_prompt
from moesim.policies.offload.fiddler import cpu_is_faster, prototype_cpu_experts
from moesim.policies.offload.hybrimoe import (
    ExpertTimes,
    rank_prefetches,
    split_as_paper,
    split_as_repository,
)
from moesim.policies.offload.ktransformers import gpu_experts
from moesim.policies.offload.precision import precision_of, unimportance

GOLDENS = Path(__file__).parents[2] / "shared" / "data" / "goldens"


def golden(name):
    file = GOLDENS / name
    if not file.is_file():
        pytest.skip(f"no {name} beside the repository")
    return json.loads(file.read_text())


def test_hobbit_precision_examples():
    gates = np.asarray([0.3, 0.25, 0.2, 0.15, 0.07, 0.03])
    assert unimportance(gates) == pytest.approx([0, 0.3, 0.55, 0.75, 0.9, 0.97])
    assert precision_of(gates).tolist() == [0, 0, 0, 1, 1, 2]
    assert precision_of(gates[::-1]).tolist() == [2, 1, 1, 0, 0, 0]
    for case in golden("offload_formula_examples.json")["hobbit_unimportance"]:
        gate = np.asarray(case["gate"])
        assert unimportance(gate) == pytest.approx([r["score"] for r in case["result"]], abs=1e-6)
        names = [("high", "low", "skip")[c] for c in precision_of(gate, case["T1"], case["T2"])]
        assert names == [r["class"] for r in case["result"]]


def test_hybrimoe_repository():
    for case in golden("hybrimoe_hss.json")["cases"]:
        p = case["params"]
        times = ExpertTimes(
            p["cpu_time_per_token"],
            p["cpu_first_expert_overhead"],
            p["gpu_time_per_expert"],
            p["gpu_first_expert_overhead"],
            p["transfer_time"],
        )
        load = {int(e): n for e, n in case["tokens_per_expert"].items()}
        split = split_as_repository(case["cached"], case["uncached"], load, times)
        assert (list(split.cpu), list(split.gpu)) == (case["cpu_order"], case["gpu_order"])


def test_hybrimoe_figure_5():
    load = {0: 1, 1: 1, 2: 3, 3: 4, 4: 1}
    split = split_as_paper([3, 4], [0, 1, 2], load, ExpertTimes(1, 0, 1, 0, 3), gpu_starts=1)
    assert (split.cpu, split.gpu, split.loaded, split.makespan) == ((0, 1, 4), (3, 2), (2,), 4)


def test_prefetch_ranks_by_gain():
    times = ExpertTimes(1, 0, 0.1, 0, 3)
    assert rank_prefetches([], [0, 1, 2], {0: 1, 1: 5, 2: 9}, times) == [1, 2, 0]


def test_ktransformers_holds_the_most_used():
    assert gpu_experts(np.asarray([[1, 5, 5, 0], [2, 2, 2, 3]]), 2).tolist() == [
        [False, True, True, False],
        [True, False, False, True],
    ]


def test_fiddler():
    assert cpu_is_faster(10, 0, 10)
    assert not cpu_is_faster(11, 0, 10)
    for case in golden("fiddler_decision.json")["cases"]:
        found = prototype_cpu_experts(
            case["tokens"], case["resident_on_gpu"], case["cpu_ms_per_token"], case["gpu_ms_with_transfer"]
        )
        assert found == (case["cpu_experts"], case["total_cost"])


def test_daop_computes_absent_experts_early():
    scores = [0.1, 0.4, 0.2, 0.3]
    assert plan_next_layer(scores, {1, 3}) == Ahead((1, 3), ())
    assert plan_next_layer(scores, {0, 3}) == Ahead((3,), (1,))
    assert plan_next_layer(scores, {0, 1}) == Ahead((1,), (3,))
    assert plan_next_layer(scores, {0, 2}) == Ahead((2,), (1,), 3)
    assert plan_next_layer(scores, {0}) == Ahead((0,), (1,), 3)
    assert plan_next_layer(scores, set()) == Ahead((), (1, 3))
    assert plan_next_layer(scores, {0}, top_k=1) == Ahead((), (1,))


@given(
    scores=st.lists(st.floats(0, 1), min_size=3, max_size=8),
    k=st.integers(1, 3),
    data=st.data(),
)
def test_daop_computes_as_many_experts_as_the_token_has(scores, k, data):
    resident = data.draw(st.sets(st.integers(0, len(scores) - 1)))
    plan = plan_next_layer(scores, resident, k)
    assert len({*plan.gpu, *plan.early}) == k
    assert set(plan.gpu) <= resident
    assert not set(plan.early) & resident
    assert plan.replaced not in {*plan.gpu, *plan.early}
    if plan.replaced is not None:
        assert scores[plan.replaced] >= scores[plan.gpu[0]]


def test_daop_swaps_hot_experts_in():
    assert swaps_after_prompt([5, 0, 9, 3, 1], {0, 1, 4}) == [(2, 1), (3, 4)]
    assert swaps_after_prompt([5, 2, 2], {0, 1}) == []


def test_adapmoe_drops_a_weak_second_expert():
    weights = np.asarray([[0.9, 0.1], [0.2, 1.8], [0.89, 0.11], [0.5, 0.5]])
    # sqrt(0.005 / 0.5) = 0.1
    assert one_is_enough(weights, 0.4998).tolist() == [True, True, False, False]
    assert one_is_enough(weights, 0.51).tolist() == [False] * 4
    assert one_is_enough(weights, 0.01).tolist() == [True] * 4
    assert one_is_enough(weights, 0.01, tau=0.0).tolist() == [False] * 4
