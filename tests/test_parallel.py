"""Tensor parallelism: shares add up, and what all share costs nobody twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moesim
from moesim.engine.parallel import Parallelism
from moesim.errors import InputError
from moesim.hardware.traffic import Traffic
from moesim.model import load_model, model_names
from moesim.model.expert import ExpertSpec
from moesim.model.sharded import sharded
from moesim.policies.plan import Assignments, DispatchPlan
from moesim.results import Result
from moesim.scenario import loads_scenario

BASE = """
model: Mixtral-8x7B
cluster: DGX-H100
routing: {generator: zipf, exponent: 0.5}
workload: {phase: %s, steps: 1, tokens_per_device: %s, context: 1000}
policies: [%s]
parallelism: {attention_tp: %d, expert_tp: %d}
kernels: {exchange: %s}
"""


def run(
    attention_tp: int = 1, expert_tp: int = 1, exchange: str = "nccl", tokens: Any = 64, policy: str = "ep"
) -> Result:
    text = BASE % ("decode", tokens, policy, attention_tp, expert_tp, exchange)
    return moesim.simulate(loads_scenario(text))


@pytest.mark.parametrize("kind", ["gated", "plain", "low_rank"])
@pytest.mark.parametrize("parts", [1, 2, 8])
def test_shares_of_an_expert_add_up(kind: str, parts: int) -> None:
    whole = {
        "gated": ExpertSpec.gated(512, 256),
        "plain": ExpertSpec.plain(512, 256),
        "low_rank": ExpertSpec.low_rank(512, 256, 1),
    }[kind]
    share = whole.sharded(parts)
    split = sum(g.weights for g in share.gemms) * parts
    # What maps the token to the rank and back is kept by every device.
    kept = 0 if kind != "low_rank" else 3 * 512 * (parts - 1)
    assert split == sum(g.weights for g in whole.gemms) + kept
    assert share.intermediate == 256 // parts


@pytest.mark.parametrize("name", model_names())
def test_every_model_can_be_split_in_two_and_loses_no_weights(name: str) -> None:
    model = load_model(name)
    half = sharded(model, 2, 2)
    assert model.weight_bytes <= 2 * half.weight_bytes * (1 + 1e-9)
    assert half.weight_bytes < 0.6 * model.weight_bytes
    assert half.sequence_bytes(4096) <= model.sequence_bytes(4096)
    assert sharded(model, 1, 1) is model


def test_what_cannot_be_split_is_told() -> None:
    model = load_model("Mixtral-8x7B")
    with pytest.raises(InputError, match="32 attention heads cannot be split over 3 devices"):
        sharded(model, 3, 1)
    with pytest.raises(InputError, match="an expert of width 14336 cannot be split over 3 devices"):
        sharded(model, 1, 3)
    for key in ("attention_tp", "expert_tp"):
        with pytest.raises(InputError, match=f"'{key}' is 3, which does not divide the 8 devices"):
            run(**{key: 3})


def test_split_attention_is_summed_and_its_cache_is_split() -> None:
    alone, together = run(), run(attention_tp=8)
    assert alone.breakdown_s["all_reduce"] == 0
    assert together.breakdown_s["all_reduce"] > 0
    weights, cache = (
        [float(r.memory[r.memory["owner"] == owner]["bytes"].sum()) for r in (alone, together)]
        for owner in ("model weights", "KV cache")
    )
    assert weights[0] > 6 * weights[1]
    # Eight KV heads: every device keeps one of each sequence of the group.
    assert cache[0] == pytest.approx(cache[1], rel=1e-6)


def test_experts_split_over_all_devices_need_no_balance() -> None:
    split = run(expert_tp=8, attention_tp=8, exchange="gather")
    whole = run(expert_tp=1, attention_tp=8, exchange="gather")
    assert split.imbalance == pytest.approx(1.0)
    assert whole.imbalance > 1.05
    assert split.breakdown_s["wait"] == pytest.approx(0.0, abs=1e-12)
    experts = ("experts", "expert replicas")
    held = [float(r.memory[r.memory["owner"].isin(experts)]["bytes"].sum()) for r in (split, whole)]
    assert held[0] == pytest.approx(held[1], rel=1e-9)


def test_gathered_tokens_reach_all_devices_whatever_the_policy() -> None:
    once = run(exchange="gather", policy="ep").breakdown_s
    other = run(exchange="gather", policy="round_robin").breakdown_s
    assert once["dispatch"] == other["dispatch"] > 0
    assert once["combine"] == other["combine"] > 0
    assert run(attention_tp=8, exchange="gather").breakdown_s["dispatch"] == 0


def test_tokens_of_one_device_keep_its_whole_group_busy() -> None:
    few = run(attention_tp=4, tokens=[8, 0, 0, 0, 0, 0, 0, 0])
    busy = few.spans.query("cause == 'attention'").groupby("device")["end_s"].count()
    assert set(busy.index) == {0, 1, 2, 3}


@given(
    parts=st.sampled_from([1, 2, 3]),
    ranks=st.integers(1, 4),
    seed=st.integers(0, 1000),
    pooled=st.booleans(),
)
def test_spreading_a_plan_sends_every_copy_to_every_share(
    parts: int, ranks: int, seed: int, pooled: bool
) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 50, ranks * parts)
    rank_tokens = Parallelism(1, parts).by_rank(tokens)
    copies = rng.integers(0, 9, (1, ranks, ranks)) * (rank_tokens[:, np.newaxis] > 0)
    received = copies.sum(axis=1)
    total = max(1, int(rank_tokens.sum()))
    traffic = Traffic.pooled(received, rank_tokens / total) if pooled else Traffic.of_pairs(copies)
    rows = Assignments(
        np.zeros(ranks, dtype=np.int64), np.arange(ranks), np.arange(ranks), received[0].astype(np.int64)
    )
    plan = DispatchPlan(rows, traffic, np.ones(1, dtype=np.bool_))
    spread = Parallelism(1, parts).spread(plan, tokens)
    per_device = spread.assignments.per_device(1, ranks * parts)
    np.testing.assert_array_equal(per_device[0], np.repeat(received[0], parts))
    np.testing.assert_allclose(spread.traffic.inbound, per_device)
    sent = spread.traffic.dense()[0].sum(axis=1).reshape(ranks, parts).sum(axis=1)
    np.testing.assert_allclose(sent, parts * traffic.dense()[0].sum(axis=1), atol=1e-9)
    assert (spread.traffic.dense()[0][tokens == 0] == 0).all() or rank_tokens.min() == 0
