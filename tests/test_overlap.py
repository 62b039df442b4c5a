"""Overlap of communication and computation: who waits for what, and what that is worth."""

from __future__ import annotations

import json
from dataclasses import astuple
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moesim
from moesim.engine.events import Transfers, simulate_events
from moesim.engine.exposure import idle, pace
from moesim.engine.micro_batches import split
from moesim.engine.overlap import (
    BACKWARD,
    BESIDE_COMPUTE,
    Collective,
    Overlap,
    Schedule,
    Stage,
    schedule,
)
from moesim.engine.timeline import Segments, Timeline, lock_step
from moesim.errors import InputError
from moesim.results import Result
from moesim.routing.load import Load
from moesim.scenario import loads_scenario

Array = np.ndarray
FORWARD = 1 - BACKWARD


def run(overlap: Any = "none", **changes: Any) -> Result:
    """Run DeepSeek-V3's first layers on two nodes."""
    described = {
        "model": {"name": "DeepSeek-V3", "layers": 6},
        "cluster": {"name": "DGX-H100", "nodes": 2},
        "routing": {"generator": "uniform"},
        "workload": {"phase": "prefill", "steps": 1, "tokens_per_device": 4096, "context": 4096},
        "kernels": "deepep",
        "policies": ["ep"],
        "overlap": overlap,
    }
    return moesim.simulate(loads_scenario(json.dumps(described | changes)))


def segments(before: Any, experts: Any, exchange: Any, shared: Any = None) -> Segments:
    """Lay out work of one device; the last of ``before`` follows the last combine."""
    work = np.asarray(before, dtype=np.float64)[..., np.newaxis]
    routed = np.asarray(experts, dtype=np.float64)[..., np.newaxis]
    beside = (
        np.zeros_like(routed) if shared is None else np.asarray(shared, dtype=np.float64)[..., np.newaxis]
    )
    return Segments(np.zeros_like(work), work, beside, routed, np.asarray(exchange, dtype=np.float64))


def alternate(one: Segments, kind: Any = "two_batch") -> Timeline:
    return lock_step(schedule(Overlap(kind), one.experts.shape[1]), one)


def test_one_batch_computes_while_the_other_is_on_the_network() -> None:
    # A: 0-2, dispatch 2-4, experts 4-7, combine 7-9, after 10-11. B: 2-4, 4-6, 7-10, 10-12, 12-13.
    work = segments([[2, 1]] * 2, [[3]] * 2, [[[2], [2]]] * 2)
    time = alternate(work)
    assert time.begun.tolist() == [2, 4, 7, 10]
    assert time.done.tolist() == [4, 6, 9, 12]
    assert time.starts[:, 0].tolist() == [0, 2, 4, 7, 10, 10, 11, 12]
    assert time.latency == 13


def test_time_that_the_network_spends_on_the_batch_ahead_is_exposed_communication() -> None:
    # Both batches arrive long before the network is done with A's dispatch.
    time = alternate(segments([[1, 0]] * 2, [[1]] * 2, [[[10], [1]]] * 2))
    assert time.begun.tolist() == [1, 11, 21, 22]
    gaps = idle(time, np.zeros((2, 1)))
    # Before A's experts A's dispatch (2-11), before B's experts B's (12-21), then B's combine (22-23).
    assert gaps.exposed.ravel().tolist() == [18, 1]
    assert gaps.wait.tolist() == [0]
    assert gaps.busy.ravel().tolist() == [20, 2]
    assert time.latency == 4 + gaps.exposed.sum()


def test_a_device_that_is_early_waits_and_then_sees_communication() -> None:
    work = Segments(
        first=np.zeros((1, 2, 2)),
        before=np.asarray([[[1.0, 5.0], [0.0, 0.0]]]),
        shared=np.zeros((1, 1, 2)),
        experts=np.ones((1, 1, 2)),
        exchange=np.full((1, 2, 1), 2.0),
    )
    gaps = idle(alternate(work, "none"), np.zeros((1, 1)))
    assert gaps.waited.tolist() == [[4, 0]]
    assert gaps.wait.tolist() == [2]
    assert gaps.exposed.ravel().tolist() == [2, 2]


def test_weight_moves_that_outlast_a_dispatch_are_exposed_at_its_end() -> None:
    work = segments([[1, 0]], [[1]], [[[5], [1]]], shared=[[3]])
    gaps = idle(alternate(work, "shared_experts"), np.asarray([[1.5]]))
    assert (gaps.exposed[0, 0], gaps.moves[0], gaps.busy[0, 0]) == (2, 1.5, 5)


def test_shared_experts_run_while_tokens_travel() -> None:
    none, beside = run("none"), run("shared_experts")
    share = 20 / 132
    layer = none.layers[none.layers["dispatch_s"] > 0].iloc[0]
    hidden = layer["dispatch_s"] - beside.layers.loc[layer.name, "dispatch_s"]
    assert hidden == pytest.approx(layer["dense_s"] / (1 - share))
    assert beside.latency_s["mean"] < none.latency_s["mean"]


def test_computation_beside_exchange_kernels_runs_on_the_units_that_are_left() -> None:
    held, free = run("two_batch"), run("two_batch", kernels={"base": "deepep", "exchange_sms": 1})
    for cause in ("attention", "experts", "gate"):
        assert held.breakdown_s[cause] / free.breakdown_s[cause] == pytest.approx(131 / 112)


def test_collectives_take_longer_beside_computation() -> None:
    quick, slow = run({"kind": "two_batch", "slowdown": 1}), run("two_batch")
    for name in ("dispatch_busy_s", "combine_busy_s"):
        assert slow.layers[name].sum() / quick.layers[name].sum() == pytest.approx(BESIDE_COMPUTE)


@pytest.mark.parametrize("kind", ["two_batch", "pipeline", "shared_experts"])
def test_a_device_alone_gains_nothing(kind: str) -> None:
    alone = {"cluster": {"device": "H200-SXM", "devices_per_node": 1}, "kernels": "fused"}
    slower, plain = (run(one, **alone).latency_s["mean"] for one in (kind, "none"))
    assert slower >= plain * (1 - 1e-9)


@pytest.mark.parametrize(
    "overlap", ["two_batch", {"kind": "two_batch", "slowdown": 1}, "pipeline", "shared_experts"]
)
@pytest.mark.parametrize("tokens", [1, 7, 512])
def test_a_step_takes_no_less_than_its_busiest_device_and_its_network(overlap: Any, tokens: int) -> None:
    decode = {"phase": "decode", "steps": 1, "tokens_per_device": tokens, "context": 1000}
    result = run(overlap, workload=decode, kernels="deepep_low_latency")
    latency, layers = result.latency_s["mean"], result.layers
    assert latency >= result.devices.groupby("device")["busy_s"].sum().max()
    assert latency >= layers["dispatch_busy_s"].sum() + layers["combine_busy_s"].sum()
    assert result.bound_s <= latency
    exposed = sum(result.breakdown_s[cause] for cause in ("dispatch", "weight_move", "combine"))
    assert exposed <= layers["dispatch_busy_s"].sum() + layers["combine_busy_s"].sum()


def test_without_overlap_moments_are_those_of_a_plain_chain_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    before, experts, exchange = rng.random((1, 6, 7)), rng.random((1, 5, 7)), rng.random((1, 2, 5))
    time = alternate(Segments(np.zeros_like(before), before, np.zeros((1, 5, 7)), experts, exchange), "none")
    longest = [before[0, :-1].max(axis=1), exchange[0, 0], experts[0].max(axis=1), exchange[0, 1]]
    chain = np.cumsum(np.stack(longest, axis=1).ravel()).reshape(5, 4)
    assert time.done.tolist() == chain[:, [1, 3]].ravel().tolist()
    assert time.ready.tolist() == time.begun.tolist() == chain[:, [0, 2]].ravel().tolist()
    assert time.finished.tolist() == (chain[-1, -1] + before[0, -1]).tolist()
    gaps = idle(time, np.zeros((1, 5)))
    assert gaps.exposed.tolist() == gaps.busy.tolist() == (chain[:, [1, 3]] - chain[:, [0, 2]]).T.tolist()


def test_nothing_is_hidden_without_overlap() -> None:
    layers = run().layers
    total = layers["dispatch_s"] + layers["weight_move_s"]
    np.testing.assert_allclose(layers["dispatch_busy_s"], total, rtol=1e-12)
    np.testing.assert_allclose(layers["combine_busy_s"], layers["combine_s"], rtol=1e-12)


@pytest.mark.parametrize("overlap", ["two_batch", "pipeline", "dualpipe", "shared_experts"])
def test_spans_of_a_stream_never_overlap_and_show_all_work(overlap: str) -> None:
    result = run(overlap, routing={"generator": "zipf", "exponent": 0.8}, policies=["llep"])
    spans = result.spans
    for _, track in spans.groupby(["device", "stream"]):
        moments = track.sort_values("start_s")[["start_s", "end_s"]].to_numpy()
        assert all(before[1] <= after[0] + 1e-12 for before, after in pairwise(moments))
    lasts = (spans["end_s"] - spans["start_s"]).groupby(spans["cause"]).sum() / 16
    for cause in ("attention", "dense", "experts", "unpermute", "wait"):
        assert lasts.get(cause, 0.0) == pytest.approx(result.breakdown_s[cause], rel=1e-6, abs=1e-9), cause
    network = sum(lasts.get(cause, 0.0) for cause in ("dispatch", "weight_move", "combine"))
    busy = result.layers[["dispatch_busy_s", "combine_busy_s"]].to_numpy().sum()
    assert network == pytest.approx(busy)


@given(
    counts=st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=2, max_size=2),
    top_k=st.integers(1, 4),
    pooled=st.booleans(),
)
def test_halves_of_a_load_are_whole_copies_and_add_up(
    counts: list[list[int]], top_k: int, pooled: bool
) -> None:
    rows = np.asarray([counts], dtype=np.int64)
    tokens = -(-rows[0].sum(axis=1) // top_k)
    load = Load(rows.sum(axis=1, keepdims=True) if pooled else rows, tokens)
    first, second = split(load, tokens - tokens // 2)
    np.testing.assert_array_equal(first.counts + second.counts, load.counts)
    np.testing.assert_array_equal(first.tokens + second.tokens, load.tokens)
    assert first.counts.min() >= 0
    assert second.counts.min() >= 0
    share = (tokens - tokens // 2).sum() / max(1, tokens.sum()) if pooled else None
    for half, part in ((first, share), (second, None if share is None else 1 - share)):
        parts = half.tokens / np.maximum(tokens, 1) if part is None else np.asarray([part])
        assert (np.abs(half.counts[0] - load.counts[0] * parts[:, np.newaxis]) < 1).all()


def test_copies_of_single_tokens_are_not_all_dealt_to_one_half() -> None:
    load = Load(np.ones((1, 8, 8), dtype=np.int64), np.full(8, 8))
    first, second = split(load, np.full(8, 4))
    assert first.counts.sum(axis=(0, 1)).tolist() == [4] * 8
    assert second.counts.sum(axis=(0, 2)).tolist() == [4] * 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": "tree_batch"}, "two_batch"),
        ({"overlap": {"kind": "two_batch", "slowdown": 0.5}}, "slowdown"),
        ({"overlap": 3}, "mapping with 'kind'"),
        ({"overlap": "two_batch", "kernels": {"base": "deepep", "exchange_sms": 132}}, "nothing is left"),
    ],
)
def test_impossible_overlap_is_one_clear_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(**changes)


def chunk(
    computing: float, sending: float, attention: float, backward_attention: float
) -> tuple[Schedule, Segments]:
    """Lay out four layers of a forward and a backward chunk as DualPipe does.

    Micro-batch 0 is the backward chunk: gradients of inputs of a layer's experts, of their weights, of inputs
    of its attention, of its weights. Weights' gradients follow when their inputs' are on the way. Collectives
    last in proportion to those of the profile, a third of the computation is forward, half of the experts'
    backward and a quarter of attention's are gradients of weights.

    Args:
        computing: computation of both chunks.
        sending: communication of both chunks.
        attention: share of attention in the forward chunk.
        backward_attention: the same in the backward chunk.
    """
    layers = 4
    stages: list[Stage] = [Stage(0, 0, "before", None, 0), Stage(1, 0, "before", None, 1)]
    ways = [Collective(0, 0, 0), Collective(1, 0, 0)]
    for layer in range(layers):
        final = layer == layers - 1
        incoming, returning = 4 * layer, 4 * layer + 2
        stages += [
            Stage(0, layer, "experts", incoming, returning),
            Stage(0, 2 * layer, "shared"),
            Stage(1, layer, "experts", incoming + 1, returning + 1),
            Stage(0, layer + 1, "before", returning, None if final else returning + 2),
            Stage(0, 2 * layer + 1, "shared"),
            Stage(1, layer + 1, "before", returning + 1, None if final else returning + 3),
        ]
        ways += [Collective(batch, layer, 1) for batch in (0, 1)]
        ways += [] if final else [Collective(batch, layer + 1, 0) for batch in (0, 1)]
    forward, backward = computing / 3 / layers, 2 * computing / 3 / layers
    before, experts = np.zeros((2, layers + 1, 1)), np.zeros((2, layers, 1))
    shared = np.zeros((2, 2 * layers, 1))
    before[0, 1:] = backward * backward_attention * 3 / 4
    experts[0] = backward * (1 - backward_attention) / 2
    shared[0, ::2], shared[0, 1::2] = experts[0], before[0, 1:] / 3
    before[1, :-1], experts[1] = forward * attention, forward * (1 - attention)
    profile = np.asarray([[3.41, 6.18], [4.35, 6.18]])
    lasting = profile * sending / (profile.sum() * layers)
    exchange = np.broadcast_to(lasting[:, :, np.newaxis], (2, 2, layers))
    return Schedule(tuple(stages), tuple(ways)), Segments(
        np.zeros_like(before), before, shared, experts, np.asarray(exchange)
    )


@pytest.mark.parametrize("attention", [0.4, 0.5, 0.6])
@pytest.mark.parametrize("backward_attention", [0.4, 0.5, 0.6])
def test_busy_times_of_deepseeks_training_profile_give_its_span(
    attention: float, backward_attention: float
) -> None:
    """Published: span 129.0 ms, computation 124.3, communication 113.4, 96 % of it hidden.

    How computation divides into attention and experts is not published; any even-handed division will do.
    """
    order, work = chunk(124.3, 113.4, attention, backward_attention)
    time = lock_step(order, work)
    assert time.latency == pytest.approx(129.0, rel=0.04)
    hidden = 1 - (time.latency - 124.3) / 113.4
    assert hidden == pytest.approx(0.96, abs=0.05)
    chain = pace(time)
    spent = sum(work.of(stage)[0] for i, stage in enumerate(order.stages) if chain.device[i] == 0)
    spent += (time.done - time.begun)[chain.exchanged].sum()
    assert spent == pytest.approx(time.latency)


def orders(schedule: Schedule) -> list[tuple[str, Any, Any]]:
    """Name the stages of a pair of four layers, with what they await and feed, in the profile's own terms.

    Layers count from the first that a micro-batch runs. Shared experts are part of a layer's experts there,
    and gradients of weights have even and odd numbers.
    """
    last = max(one.layer for one in schedule.collectives)

    def turned(layer: int, batch: int, ends: int) -> int:
        return layer if batch == FORWARD else ends - layer

    def named(number: int | None) -> tuple[str, int, int] | None:
        if number is None:
            return None
        one = schedule.collectives[number]
        return "FB"[one.batch == BACKWARD], turned(one.layer, one.batch, last), one.way

    found = []
    for stage in schedule.stages:
        place = turned(stage.layer, stage.batch, last + (stage.part in ("before", "own_weights")))
        what = f"{stage.part} {place}"
        if stage.part == "expert_weights":
            what = f"shared {2 * place}"
        elif stage.part == "own_weights":
            what = f"shared {2 * place - 1}"
        elif stage.part == "shared":
            continue
        found.append((f"{'FB'[stage.batch == BACKWARD]} {what}", named(stage.awaits), named(stage.feeds)))
    return found


def test_the_order_of_dualpipe_is_that_of_deepseeks_training_profile() -> None:
    golden, _ = chunk(124.3, 113.4, 0.5, 0.5)
    # Counted from the first layer that runs, the profile's backward micro-batch need not be turned.
    stages = []
    for stage in golden.stages:
        ways = [
            None
            if number is None
            else ("BF"[golden.collectives[number].batch], *astuple(golden.collectives[number])[1:])
            for number in (stage.awaits, stage.feeds)
        ]
        stages.append((f"{'BF'[stage.batch]} {stage.part} {stage.layer}", *ways))
    made = schedule(Overlap("dualpipe"), 4)
    mine = orders(made)
    assert mine.pop(1) == ("B shared -1", None, None)  # of what follows the last layer: not in the profile
    assert mine == stages
    assert ["BF"[one.batch] for one in golden.collectives] == [
        "FB"[one.batch == BACKWARD] for one in made.collectives
    ]
    assert [one.way for one in golden.collectives] == [one.way for one in made.collectives]


def test_both_levels_run_any_order() -> None:
    order, work = chunk(124.3, 113.4, 0.5, 0.6)
    links = np.zeros((2, 2, 4, 1)) + work.exchange[..., np.newaxis]
    transfers = Transfers(np.zeros((2, 2, 4)), links, np.ones(1))
    one, other = lock_step(order, work), simulate_events(order, work, transfers)
    for name in ("starts", "ends", "ready", "begun", "done"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12)


def test_the_pipeline_hides_every_exchange_behind_half_of_the_others_attention() -> None:
    layers, half, moe, flight = 4, 3.0, 2.0, 2.5
    spent = np.full((2, layers + 1, 1), half)
    work = Segments(
        first=spent,
        before=spent,
        shared=np.zeros((2, layers, 1)),
        experts=np.full((2, layers, 1), moe),
        exchange=np.full((2, 2, layers), flight),
    )
    hidden = alternate(work, "pipeline")
    busy = 2 * ((layers + 1) * 2 * half + layers * moe)
    assert hidden.latency == pytest.approx(busy)
    # Whole attention blocks in a row leave the experts' exchange beside experts alone, which are too short.
    whole = Segments(np.zeros_like(spent), 2 * spent, work.shared, work.experts, work.exchange)
    assert alternate(whole, "two_batch").latency > busy


def test_the_pipeline_does_the_same_work_as_two_batches() -> None:
    two, five = run("two_batch"), run("pipeline")
    for cause in ("attention", "dense", "gate", "permute", "experts", "unpermute"):
        assert five.breakdown_s[cause] == pytest.approx(two.breakdown_s[cause], rel=1e-12)
