"""FasterMoE shadows the experts that its prototype shadows, and its tokens stay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.policies.base import ClusterView
from moesim.policies.dispatch.fastermoe import FasterMoe, FasterMoeParameters
from moesim.policies.dispatch.shadowing import ShadowCosts, shadow_counts, shadow_order
from moesim.policies.placement.blocks import Contiguous
from moesim.policies.plan import Placement
from moesim.testing import make_load, make_view

CASES = json.loads((Path(__file__).parent / "data" / "fastermoe_shadows.json").read_text())
PROTOTYPE = FasterMoe(FasterMoeParameters(iteration="prototype"))


def literal(tokens, copy_s, exchange_s, shadow_s):
    """The prototype's rule step by step, for one expert per worker; tokens [owners, sources]."""
    workers = len(tokens)
    loads = [sum(row) for row in tokens]
    order = sorted(range(workers), key=lambda w: -loads[w])
    without = max(loads) * (copy_s + exchange_s)
    best, adopted = float("inf"), workers - 1
    for k, worker in enumerate(order):
        loads[worker] = 0
        loads = [load + tokens[worker][source] for source, load in enumerate(loads)]
        seconds = max(loads) * copy_s + (k + 1) * shadow_s
        if seconds > best:
            adopted = k
            break
        best = min(best, seconds)
    return sorted(order[:adopted]) if without > best else []


def machine(case) -> ClusterView:
    """The machine that the prototype has in mind."""
    workers, width, ratio = case["world_size"], case["d_model"], case["hidden_over_d_model"]
    return ClusterView(
        devices=workers,
        node_of=np.zeros(workers, dtype=np.int64),
        experts=workers,
        top_k=1,
        expert_bytes=2 * ratio * width**2 * case["data_bytes"],
        token_bytes=width * case["data_bytes"],
        flops=case["gemm_flops_per_s"],
        expert_flops=4.0 * ratio * width**2,
        inside_bandwidth=case["net_bytes_per_s"],
        hidden=width,
    )


def shadowed(policy, tokens, view) -> list[int]:
    """Experts sent anywhere, of tokens [owners, sources]."""
    workers = view.devices
    placement = Contiguous().place(np.zeros((1, workers), dtype=np.int64), view)
    plan = policy.plan(make_load([np.asarray(tokens).T], workers), placement, view)
    moves = set(zip(plan.moves.expert.tolist(), plan.moves.target.tolist(), strict=True))
    experts = sorted({expert for expert, _ in moves})
    assert moves == {(e, device) for e in experts for device in range(workers) if device != e}
    return experts


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_shadows(case):
    tokens, view = case["tokens_owner_by_source"], machine(case)
    assert shadowed(PROTOTYPE, tokens, view) == case["shadowed_workers"]
    costs = PROTOTYPE.costs(view)
    without = max(sum(row) for row in tokens) * (costs.copy_s + costs.exchange_s)
    assert without == pytest.approx(case["no_shadow_latency_s"], rel=1e-12)


@settings(max_examples=150)
@given(st.integers(2, 9), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 30.0, 400.0]))
def test_any_shadows_are_the_prototypes(workers, seed, shadow_s):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 12, (3, workers, workers)) * rng.choice([1, 10], (3, 1, workers))
    homes = np.tile(np.arange(workers), (3, 1))
    found = shadow_counts(counts, homes, ShadowCosts(1.0, 0.5, shadow_s))
    order = shadow_order(counts)
    for layer in range(3):
        mine = sorted(order[layer, : found[layer]].tolist())
        assert mine == literal(counts[layer].T.tolist(), 1.0, 0.5, shadow_s)


def test_if_the_time_never_rises_the_last_expert_has_no_shadow():
    counts = np.zeros((1, 3, 3), dtype=np.int64)
    counts[:, :, 0] = 10
    assert shadow_counts(counts, np.asarray([[0, 1, 2]]), ShadowCosts(1, 1, 0)).tolist() == [2]


def test_copies_for_shadows_stay_and_others_go_home():
    view = ClusterView(
        2, np.zeros(2, dtype=np.int64), 4, 1, 20, 1, flops=1, expert_flops=1, inside_bandwidth=1
    )
    load = make_load([[[30, 1, 2, 3], [50, 4, 5, 6]]], 2)
    placement = Contiguous().place(np.zeros((1, 4), dtype=np.int64), view)
    plan = FasterMoe().plan(load, placement, view)
    assert plan.moves.expert.tolist() == [0]
    assert plan.moves.source.tolist() == [0]
    assert plan.moves.target.tolist() == [1]
    assert plan.traffic.dense()[0].tolist() == [[31, 5], [4, 61]]
    rows = zip(*(getattr(plan.assignments, c).tolist() for c in ("expert", "device", "copies")), strict=True)
    assert sorted(rows) == [(0, 0, 30), (0, 1, 50), (1, 0, 5), (2, 1, 7), (3, 1, 9)]


def test_a_replica_takes_no_broadcast():
    view = make_view(3, 3)
    placement = Placement(np.asarray([[[0, 1], [0, -1], [2, -1]]]), 3)
    load = make_load([[[9000, 1, 1]] * 3], 3)
    plan = FasterMoe(FasterMoeParameters(network_bandwidth=1e12)).plan(load, placement, view)
    moves = zip(
        plan.moves.expert.tolist(), plan.moves.source.tolist(), plan.moves.target.tolist(), strict=True
    )
    assert (0, 0, 2) in set(moves)
    assert not ((plan.moves.expert == 0) & (plan.moves.target == 1)).any()


def test_shadows_fit_the_memory():
    load = make_load([[[5000, 400, 100, 1]] * 4], 4)
    for room in (0, 1, 2):
        view = make_view(4, 4, free_expert_slots=room)
        placement = Contiguous().place(np.zeros((1, 4), dtype=np.int64), view)
        plan = FasterMoe(FasterMoeParameters(network_bandwidth=1e15)).plan(load, placement, view)
        assert len(set(plan.moves.expert.tolist())) == room


def test_what_an_iteration_counts():
    view = machine(
        {"world_size": 2, "d_model": 8, "hidden_over_d_model": 2, "data_bytes": 4}
        | {"gemm_flops_per_s": 512.0, "net_bytes_per_s": 64.0}
    )
    forward, training = (
        FasterMoe(FasterMoeParameters(iteration=i)).costs(view) for i in ("forward", "training")
    )
    assert forward == ShadowCosts(copy_s=1.0, exchange_s=1.0, shadow_s=16.0)
    assert training == ShadowCosts(copy_s=3.0, exchange_s=2.0, shadow_s=32.0)
    assert PROTOTYPE.costs(view) == ShadowCosts(copy_s=12.0, exchange_s=2.0, shadow_s=32.0)
