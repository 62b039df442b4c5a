"""A training step: the backward pass of one micro-batch beside the forward pass of another."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import moesim
from moesim.causes import CAUSES
from moesim.engine.exchange import ExchangePricer
from moesim.engine.exposure import idle
from moesim.engine.overlap import BACKWARD, Overlap, Schedule, schedule
from moesim.engine.step import StepRunner
from moesim.engine.timeline import Segments, Timeline, lock_step
from moesim.errors import InputError
from moesim.experiment import Bench, choose
from moesim.hardware import load_device
from moesim.hardware.analytic import AnalyticCosts
from moesim.hardware.traffic import Traffic
from moesim.policies.plan import Assignments, DispatchPlan, WeightMoves
from moesim.results import Result
from moesim.results.timeline import stream_timeline
from moesim.scenario import Scenario, loads_scenario

FORWARD = 1 - BACKWARD
COMPUTING = ("attention", "dense", "gate", "permute", "experts", "unpermute")
MODEL = {
    "num_layers": 4,
    "moe_layers": {"first": 1},
    "dense_intermediate_size": 4096,
    "hidden_size": 2048,
    "num_routed_experts": 16,
    "moe_intermediate_size": 1024,
    "num_shared_experts": 1,
    "top_k": 4,
    "attention": {"kind": "gqa", "heads": 16, "kv_heads": 4, "head_dim": 128},
}


def described(**changes: Any) -> Scenario:
    """Describe a training step of a small model on two nodes."""
    spec = {
        "model": MODEL,
        "cluster": {"name": "DGX-H100", "nodes": 2},
        "routing": {"generator": "zipf", "exponent": 0.6},
        "workload": {"phase": "prefill", "steps": 1, "tokens_per_device": 2048, "context": 1024},
        "kernels": "fused",
        "policies": ["ep"],
        "overlap": "dualpipe",
    }
    return loads_scenario(json.dumps(spec | changes))


def run(**changes: Any) -> Result:
    return moesim.simulate(described(**changes))


def segments(**changes: Any) -> Segments:
    """Return what devices and network do in the first step."""
    scenario = described(**changes)
    (policy,) = choose(scenario, None)
    return StepRunner(Bench(scenario).setup(policy)).run(0).segments


def alone(order: Schedule, batch: int) -> Schedule:
    """Return the order of one micro-batch by itself."""
    kept = [number for number, one in enumerate(order.collectives) if one.batch == batch]
    number = {old: new for new, old in enumerate(kept)} | {None: None}
    stages = [
        replace(stage, awaits=number[stage.awaits], feeds=number[stage.feeds])
        for stage in order.stages
        if stage.batch == batch
    ]
    return Schedule(tuple(stages), tuple(order.collectives[one] for one in kept))


def pair(work: Segments) -> Timeline:
    return lock_step(schedule(Overlap("dualpipe"), work.experts.shape[1]), work)


def apart(work: Segments) -> float:
    """Return how long both passes take one after the other."""
    order = schedule(Overlap("dualpipe"), work.experts.shape[1])
    return sum(lock_step(alone(order, batch), work).latency for batch in (BACKWARD, FORWARD))


def computing(work: Segments) -> float:
    """Return how long the busiest device computes."""
    parts = (work.before, work.own_weights, work.shared, work.experts, work.expert_weights)
    return float(sum(part.sum(axis=(0, 1)) for part in parts).max())


lasting = st.floats(0, 10, allow_subnormal=False)


@st.composite
def any_work(draw: st.DrawFn) -> Segments:
    """Draw what one device and the network do."""
    layers = draw(st.integers(1, 5))

    def drawn(*shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        return np.asarray(draw(st.lists(lasting, min_size=size, max_size=size))).reshape(shape)

    weights = [drawn(2, layers + extra, 1) for extra in (1, 0)]
    for one in weights:
        one[FORWARD] = 0.0
    return Segments(
        first=np.zeros((2, layers + 1, 1)),
        before=drawn(2, layers + 1, 1),
        shared=drawn(2, layers, 1),
        experts=drawn(2, layers, 1),
        exchange=drawn(2, 2, layers),
        own_weights=weights[0],
        expert_weights=weights[1],
    )


@given(any_work())
def test_a_pair_takes_no_longer_than_its_work_in_a_row_and_no_less_than_either_half(work: Segments) -> None:
    latency = pair(work).latency
    network = float(work.exchange.sum())
    assert latency <= (computing(work) + network) * (1 + 1e-12)
    assert latency >= max(computing(work), network) * (1 - 1e-12)


@pytest.mark.parametrize("tokens", [64, 4096])
@pytest.mark.parametrize("kernels", ["fused", "deepep", "eager", {"exchange": "gather"}])
def test_passes_beside_each_other_are_faster_than_one_after_the_other(kernels: Any, tokens: int) -> None:
    workload = {"phase": "prefill", "steps": 1, "tokens_per_device": tokens, "context": 1024}
    work = segments(kernels=kernels, workload=workload)
    latency = pair(work).latency
    assert latency < apart(work)
    assert latency >= max(computing(work), float(work.exchange.sum())) * (1 - 1e-12)


def test_gradients_of_weights_fill_gaps() -> None:
    work = segments()
    none = np.zeros_like(work.own_weights), np.zeros_like(work.expert_weights)
    # All gradients at once, before anything is sent on.
    together = replace(
        work,
        before=work.before + work.own_weights,
        experts=work.experts + work.expert_weights,
        own_weights=none[0],
        expert_weights=none[1],
    )
    order = alone(schedule(Overlap("dualpipe"), work.experts.shape[1]), BACKWARD)
    filled, waiting = (lock_step(order, one).latency for one in (work, together))
    hidden = waiting - filled
    assert 0.2 * computing(replace(work, before=none[0], shared=none[1], experts=none[1])) < hidden
    assert pair(work).latency <= pair(together).latency


def test_both_passes_take_multiples_of_the_forward_pass() -> None:
    # No exchange kernel holds compute units, so that only the passes differ.
    spread = {"parallelism": {"attention_tp": 2}}
    forward, both = (run(overlap=kind, **spread).breakdown_s for kind in ("none", "dualpipe"))
    for cause in ("dense", "gate", "permute", "experts", "unpermute"):
        assert both[cause] == pytest.approx(3 * forward[cause]), cause
    assert both["all_reduce"] == pytest.approx(2 * forward["all_reduce"])
    # Projections and norms three times, the core three and a half times.
    assert 3 < both["attention"] / forward["attention"] < 3.5
    linear = MODEL | {"attention": {"kind": "linear", "heads": 16, "kv_heads": 16, "head_dim": 128}}
    forward, both = (run(model=linear, overlap=kind).breakdown_s for kind in ("none", "dualpipe"))
    assert both["attention"] == pytest.approx(3 * forward["attention"])


def test_the_core_of_long_prompts_takes_most_of_both_passes() -> None:
    long = {"workload": {"phase": "prefill", "steps": 1, "tokens_per_device": 131072, "context": 131072}}
    forward, both = (run(overlap=kind, **long).breakdown_s for kind in ("none", "dualpipe"))
    assert 3.4 < both["attention"] / forward["attention"] < 3.5


def test_every_token_has_a_row_in_the_language_model_head() -> None:
    vocab, tokens = 50_000, 2048
    added = run(model=MODEL | {"vocab_size": vocab}).breakdown_s["dense"] - run().breakdown_s["dense"]
    head = AnalyticCosts(load_device("H100-SXM")).gemm(tokens, vocab, MODEL["hidden_size"], "bf16")
    assert added == pytest.approx(3 * float(head))


def test_a_step_handles_the_tokens_of_one_micro_batch_and_sends_them_in_both_passes() -> None:
    forward, both = run(overlap="none"), run()
    for name in ("tokens", "copies", "imbalance"):
        assert both.steps[name].tolist() == forward.steps[name].tolist(), name
    assert both.steps["tokens"].sum() == 16 * 2048
    assert both.devices["copies"].sum() == both.steps["copies"].sum() == 16 * 2048 * 4 * 3
    assert both.throughput_tokens_per_s * both.latency_s["mean"] == pytest.approx(16 * 2048)
    np.testing.assert_allclose(both.devices["received_bytes"], 2 * forward.devices["received_bytes"])
    np.testing.assert_allclose(both.links["bytes"], 2 * forward.links["bytes"])
    assert both.devices["experts"].tolist() == forward.devices["experts"].tolist()


def test_moved_weights_travel_in_both_passes_and_their_gradients_home() -> None:
    skewed = {"routing": {"generator": "zipf", "exponent": 1.2}, "policies": ["llep"]}
    forward, both = run(overlap="none", **skewed), run(**skewed)
    moved = forward.steps["moved_bytes"].sum()
    assert moved > 0
    # BF16 weights twice and BF16 gradients once; with FP8 weights, gradients are twice as large.
    assert both.steps["moved_bytes"].sum() == pytest.approx(3 * moved)
    narrow = {"model": MODEL | {"weight_dtype": "fp8"}}
    moved = run(overlap="none", **skewed, **narrow).steps["moved_bytes"].sum()
    assert run(**skewed, **narrow).steps["moved_bytes"].sum() == pytest.approx(4 * moved)
    assert both.layers["moves"].tolist() == forward.layers["moves"].tolist()
    # One plan for both passes.
    assert both.breakdown_s["planning"] == pytest.approx(forward.breakdown_s["planning"])


def test_links_carry_gradients_against_the_way_of_the_weights() -> None:
    skewed = {"routing": {"generator": "counts", "counts": [64] + [1] * 15}, "policies": ["llep"]}
    forward, both = run(overlap="none", **skewed), run(**skewed)
    tokens = run(overlap="none", **skewed | {"policies": ["ep"]})
    assert forward.steps["moved_bytes"].sum() > 0
    hot = both.links.set_index("link")["bytes"] - forward.links.set_index("link")["bytes"]
    assert (hot >= 0).all()
    assert hot.sum() > tokens.links["bytes"].sum()


def test_gradients_stand_in_memory_and_activations_of_one_micro_batch_beside_them() -> None:
    model = {
        "num_layers": 1,
        "hidden_size": 256,
        "num_routed_experts": 4,
        "moe_intermediate_size": 512,
        "top_k": 2,
        "attention": {"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 64},
    }
    tokens = 1024
    workload = {"phase": "prefill", "steps": 1, "tokens_per_device": tokens, "context": 512}
    cluster = {"device": "H100-SXM", "devices_per_node": 2, "intra": {"bandwidth": 4e11}}
    held = run(
        model=model, workload=workload, cluster=cluster, routing={"generator": "counts", "counts": [1] * 4}
    ).memory.set_index(["device", "owner"])["bytes"]
    expert = 3 * 256 * 512
    attention = 256 * (4 + 2 * 2) * 64 + 4 * 64 * 256
    norms, router = 3 * 256, 4 * 256
    copies = 2 * tokens
    # Inputs of norms, of products and of the core; the router's scores; what the last norm reads.
    own = (256 + 256 + 256) + (4 + 2 * 2) * 64 + (256 + 256 + 4) + 256
    routed = 256 + 512 + 2 * 512
    for device in range(2):
        assert held[device, "gradients"] == 4 * (2 * expert + attention + norms + router)
        assert held[device, "kept activations"] == 2 * (tokens * own + copies * routed)
        assert held[device, "KV cache"] == 0


def test_migrated_experts_take_their_gradients_along() -> None:
    model = {name: MODEL[name] for name in ("num_layers", "hidden_size", "top_k", "attention")}
    sizes = [{"count": 8, "kind": "ffn", "intermediate_size": wide} for wide in (256, 1024)]
    moving = {"name": "moving", "placement": {"kind": "eplb", "redundant": 16}, "refresh": {"every": 1}}
    result = run(
        model=model | {"experts": sizes},
        policies=[moving],
        workload={"phase": "prefill", "steps": 4, "tokens_per_device": 512, "context": 512},
        routing={"generator": "dirichlet", "alpha": 0.3},
    )
    assert result.steps["migrated_bytes"].sum() > 0
    held = result.memory.pivot(index="device", columns="owner", values="bytes")
    experts = held["experts"] + held["expert replicas"]
    assert experts.nunique() > 1
    # Gradients are twice as large as BF16 weights; those of all other weights are the same everywhere.
    rest = held["gradients"] - 2 * experts
    assert rest.max() - rest.min() <= 4
    assert rest.min() == pytest.approx(2 * held["model weights"].iloc[0])


POLICIES = [
    "ep",
    "eplb",
    "llep",
    *({"name": kind, "dispatch": kind} for kind in ("fastermoe", "janus", "harmoeny")),
]


@settings(max_examples=25)
@given(
    model=st.fixed_dictionaries(
        {
            "num_layers": st.integers(1, 4),
            "moe_layers": st.sampled_from([{"first": 0}, {"period": 2}]),
            "dense_intermediate_size": st.just(512),
            "hidden_size": st.sampled_from([64, 1024]),
            "num_routed_experts": st.sampled_from([8, 12]),
            "moe_intermediate_size": st.sampled_from([64, 700]),
            "num_shared_experts": st.integers(0, 1),
            "top_k": st.integers(1, 3),
            "vocab_size": st.sampled_from([0, 1000]),
            "weight_dtype": st.sampled_from(["bf16", "fp8"]),
            "attention": st.sampled_from(
                [{"kind": "none"}, {"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 64}]
            ),
        }
    ),
    tokens=st.one_of(st.integers(0, 600), st.lists(st.integers(0, 300), min_size=4, max_size=4)),
    policy=st.sampled_from(POLICIES),
    kernels=st.sampled_from(["fused", "eager", "deepep", {"exchange": "gather"}, {"sends": "devices"}]),
    slowdown=st.sampled_from([1.0, 1.43]),
    tp=st.sampled_from([1, 2]),
    moe_only=st.booleans(),
    seed=st.integers(0, 3),
)
def test_small_steps_keep_the_books_at_both_levels_of_detail(
    model: Any, tokens: Any, policy: Any, kernels: Any, slowdown: float, tp: int, moe_only: bool, seed: int
) -> None:
    small: dict[str, Any] = {
        "model": model,
        "cluster": {"name": "DGX-H100", "nodes": 2},
        "parallelism": {"ep": 4, "attention_tp": tp, "expert_tp": tp},
        "routing": {"generator": "dirichlet", "alpha": 0.3},
        "workload": {
            "phase": "prefill",
            "steps": 1,
            "tokens_per_device": tokens,
            "context": 100,
            "moe_only": moe_only,
        },
        "policies": [policy],
        "kernels": kernels,
        "overlap": {"kind": "dualpipe", "slowdown": slowdown},
        "seed": seed,
    }
    array, events = (run(**small, engine={"detail": detail}) for detail in ("array", "events"))
    for name in ("steps", "layers", "devices", "memory", "links", "spans", "critical_path"):
        one, other = getattr(array, name), getattr(events, name)
        assert one.shape == other.shape, name
        for column in one.select_dtypes("float").columns:
            np.testing.assert_allclose(one[column], other[column], rtol=1e-9, atol=1e-14, err_msg=column)
    latency = array.latency_s["mean"]
    assert sum(array.breakdown_s[cause] for cause in CAUSES) == pytest.approx(latency, rel=1e-9, abs=1e-15)
    assert array.bound_s <= latency * (1 + 1e-9)
    assert array.critical_path["seconds"].sum() == pytest.approx(latency, rel=1e-6, abs=1e-12)
    forward = run(**small | {"overlap": "none"})
    assert array.bound_s >= forward.bound_s * (1 - 1e-9)
    assert array.steps["copies"].tolist() == forward.steps["copies"].tolist()


def test_hosts_launch_both_passes() -> None:
    few = {"phase": "prefill", "steps": 1, "tokens_per_device": 16, "context": 16}
    slow = {"workload": few, "kernels": {"base": "fused", "graphs": False, "layer_ops": 60}}
    forward, both = (run(overlap=kind, **slow).breakdown_s["launch"] for kind in ("none", "dualpipe"))
    assert 0 < 1.5 * forward < both
    assert run(workload=few).breakdown_s["launch"] == 0


def test_a_decode_step_has_no_backward_pass() -> None:
    decode = {"phase": "decode", "steps": 1, "tokens_per_device": 16, "context": 100}
    with pytest.raises(InputError, match="a decode step has no backward pass"):
        run(workload=decode)
    with pytest.raises(InputError, match="no backward pass"):
        Overlap("dualpipe").check("decode")
    Overlap("two_batch").check("decode")


def test_gradients_of_weights_travel_against_the_way_of_the_weights() -> None:
    scenario = described(parallelism={"ep": 4}, model=MODEL | {"weight_dtype": "fp8"})
    (policy,) = choose(scenario, None)
    setup = Bench(scenario).setup(policy)
    devices, layers, size = 4, 3, 3 * 2048 * 1024
    nothing = Assignments(*(np.zeros(0, dtype=np.int64) for _ in range(4)))
    one = [np.asarray([number], dtype=np.int64) for number in (1, 5, 0, 3)]
    plan = DispatchPlan(
        assignments=nothing,
        traffic=Traffic.of_pairs(np.zeros((layers, devices, devices))),
        planned=np.zeros(layers, dtype=np.bool_),
        moves=WeightMoves(*one),
    )
    forward, backward = (ExchangePricer(setup, passing).price(plan) for passing in (False, True))
    there = np.zeros((devices, devices))
    there[0, 3] = size
    way, home = (setup.cluster.network.link_amounts(Traffic.of_pairs(one))[0] for one in (there, 2 * there.T))
    np.testing.assert_allclose(forward.dispatch_links[1], way)
    np.testing.assert_allclose(backward.dispatch_links[1], way)
    np.testing.assert_allclose(backward.combine_links[1], home)
    assert not forward.combine_links.any()
    assert forward.moved_in.tolist() == [[0] * 4, [0, 0, 0, size], [0] * 4]
    # One byte per weight and two per gradient.
    assert backward.moved_in.tolist() == [[0] * 4, [2 * size, 0, 0, size], [0] * 4]
    assert backward.moved_bytes.tolist() == [0, 3 * size, 0]
    assert backward.combine[1] > forward.combine[1] == 0


def test_time_on_the_network_is_booked_with_its_layer_in_both_passes() -> None:
    layers = 4
    rng = np.random.default_rng(0)
    work = Segments(
        first=np.zeros((2, layers + 1, 3)),
        before=rng.random((2, layers + 1, 3)),
        shared=rng.random((2, layers, 3)),
        experts=rng.random((2, layers, 3)),
        exchange=rng.random((2, 2, layers)) * 3,
        own_weights=rng.random((2, layers + 1, 3)),
        expert_weights=rng.random((2, layers, 3)),
    )
    gaps = idle(pair(work), np.zeros((2, layers)))
    np.testing.assert_allclose(gaps.busy, work.exchange.sum(axis=0))
    assert (gaps.exposed.sum(axis=0) > 0).any()


def test_spans_show_where_hosts_hold_both_passes_up() -> None:
    few = {"phase": "prefill", "steps": 1, "tokens_per_device": 16, "context": 16}
    slow = run(workload=few, kernels={"base": "fused", "graphs": False, "layer_ops": 60})
    for _, track in slow.spans.query("stream != 'network'").groupby("device"):
        moments = track.sort_values("start_s")[["start_s", "end_s"]].to_numpy()
        assert all(before[1] <= after[0] + 1e-12 for before, after in pairwise(moments))
    lasting = (slow.spans["end_s"] - slow.spans["start_s"]).groupby(slow.spans["cause"]).sum() / 16
    for cause in ("launch", "experts", "attention", "wait"):
        assert lasting[cause] == pytest.approx(slow.breakdown_s[cause], abs=1e-9), cause
    end = slow.spans["end_s"].max()
    assert end == pytest.approx(slow.latency_s["mean"])


def test_the_bound_of_both_passes_is_three_times_that_of_the_forward_pass() -> None:
    work = {"phase": "prefill", "steps": 1, "tokens_per_device": 4096, "context": 1024, "moe_only": True}
    alone = {"cluster": {"device": "H100-SXM", "devices_per_node": 1}, "workload": work}
    forward, both = (run(overlap=kind, **alone) for kind in ("none", "dualpipe"))
    assert both.bound_s == pytest.approx(3 * forward.bound_s)
    assert both.latency_s["mean"] == pytest.approx(3 * forward.latency_s["mean"])


def test_arrows_of_the_timeline_lead_from_dispatch_to_experts_to_combine_in_both_passes() -> None:
    out = io.StringIO()
    stream_timeline(run().spans, out)
    drawn = json.loads(out.getvalue())["traceEvents"]
    starts = {event["id"]: event for event in drawn if event["ph"] == "s"}
    ends = {event["id"]: event for event in drawn if event["ph"] == "f"}
    assert starts.keys() == ends.keys()
    # Two passes of three layers on 16 devices, in and out of experts.
    assert len(starts) == 2 * 3 * 16 * 2
    assert all(ends[number]["ts"] >= start["ts"] for number, start in starts.items())
