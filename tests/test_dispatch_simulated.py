"""Where dispatch policies help and where they must not, and what misprediction costs."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from moesim.engine import Setup, run
from moesim.engine.step import StepRunner
from moesim.hardware import load_cluster
from moesim.hardware.kernels import kernel_style
from moesim.model import load_model
from moesim.policies import create_policy
from moesim.routing.generators import create_generator
from moesim.workload import Workload

MIXTRAL, OSS = "Mixtral-8x7B", "gpt-oss-120b"
HOT, EVEN = {"kind": "hot_experts", "fraction": 0.6}, {"kind": "hot_experts", "fraction": 0.0}
PREFILL = {"phase": "prefill", "tokens": 16384, "nodes": 1}
DECODE = {"phase": "decode", "tokens": 16, "nodes": 1}


def setup(policy, model, routing, phase="prefill", tokens=16384, nodes=1, source=None) -> Setup:
    shape = load_model(model).with_layers(2)
    kind, rest = routing["kind"], {key: value for key, value in routing.items() if key != "kind"}
    made = create_generator(kind, experts=shape.experts, top_k=shape.top_k, layers=2, seed=0, **rest)
    return Setup(
        model=shape,
        cluster=load_cluster("DGX-H100", nodes=nodes),
        routing=made if source is None else source(made),
        workload=Workload(phase, 3, tokens, 1024),
        policy=create_policy(policy),
        kernels=kernel_style("fused"),
    )


def latency(policy, model, routing, source=None, **machine) -> float:
    recording = run(setup(policy, model, routing, source=source, **machine))
    return float(np.mean([step["latency_s"] for step in recording.steps]))


@functools.cache
def baseline(model, routing, machine) -> float:
    return latency("ep", model, dict(routing), **dict(machine))


def ratio(policy, model, routing, machine) -> float:
    """Latency of a policy by that of standard expert parallelism."""
    slow = baseline(model, tuple(routing.items()), tuple(machine.items()))
    return latency(policy, model, routing, **machine) / slow


@pytest.mark.parametrize(
    ("policy", "model", "routing", "machine", "most"),
    [
        ("fastermoe", MIXTRAL, HOT, PREFILL, 0.5),
        ("harmoeny", MIXTRAL, HOT, PREFILL, 0.5),
        ("prophet", MIXTRAL, HOT, PREFILL, 0.5),
        ("lina", MIXTRAL, HOT, PREFILL, 0.5),
        # Few, small experts and many tokens that would cross between nodes.
        ("janus", OSS, EVEN, {"phase": "prefill", "tokens": 32768, "nodes": 2}, 0.9),
    ],
)
def test_where_policies_help(policy, model, routing, machine, most):
    assert ratio(policy, model, routing, machine) < most


@pytest.mark.parametrize(
    ("policy", "model", "routing", "machine"),
    [
        ("fastermoe", MIXTRAL, EVEN, PREFILL),
        ("harmoeny", MIXTRAL, HOT, DECODE),
        ("prophet", MIXTRAL, EVEN, PREFILL),
        ("janus", MIXTRAL, HOT, PREFILL),
    ],
)
def test_where_policies_must_not_help_they_send_no_weights(policy, model, routing, machine):
    recording = run(setup(policy, model, routing, **machine))
    assert sum(step["moved_bytes"] for step in recording.steps) == 0
    assert 1 <= ratio(policy, model, routing, machine) < 1.25


def test_weights_moved_for_a_handful_of_tokens_cost_more_than_they_save():
    assert ratio("lina", MIXTRAL, HOT, DECODE) > 2


def test_the_prototypes_model_of_shadowing_overlooks_what_is_left_to_exchange():
    # It adopts a shadow of an even load between nodes, because only the time without shadows counts exchange.
    machine = {"phase": "prefill", "tokens": 32768, "nodes": 2}
    assert ratio("fastermoe", OSS, EVEN, machine) > 1


@dataclass(frozen=True)
class OtherPast:
    """Routing whose past has the experts in another order."""

    inner: Any

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def profile(self):
        return self.inner.profile()[:, ::-1].copy()

    def windows(self, count):
        return self.inner.windows(count)[:, :, ::-1].copy()


def mispredicted(accuracy, **others):
    predictor = {"kind": "token_to_expert", "accuracy": accuracy}
    policy = {"name": "mine", "dispatch": {"kind": "lina", "predictor": predictor, **others}}
    return latency(policy, MIXTRAL, HOT, source=OtherPast, **PREFILL)


def test_misprediction_costs():
    known, half, unknown = (mispredicted(accuracy, correct_above=1) for accuracy in (1, 0.5, 0))
    assert known < half < unknown
    assert known == pytest.approx(latency("lina", MIXTRAL, HOT, **PREFILL))
    # Corrected after the gate, a wrong prediction is as good as knowing.
    assert mispredicted(0, correct_above=0.1) == pytest.approx(known)


def test_the_overhead_of_a_predictor_is_paid_in_every_layer():
    free, paid = (
        latency(
            {"name": "mine", "dispatch": {"kind": "lina", "predictor": {"kind": "oracle", "overhead_s": s}}},
            MIXTRAL,
            HOT,
            **PREFILL,
        )
        for s in (0.0, 1e-3)
    )
    assert paid - free == pytest.approx(2e-3, rel=1e-6)


def test_the_last_step_tells_more_than_another_past():
    policy = {"name": "mine", "dispatch": {"kind": "prophet", "predictor": "last_window"}}
    steps = run(setup(policy, MIXTRAL, HOT, source=OtherPast, **PREFILL)).steps
    assert steps[1]["latency_s"] < 0.6 * steps[0]["latency_s"]


def test_policies_may_look_back_on_the_last_steps():
    runner = StepRunner(setup("prophet", MIXTRAL, HOT, **PREFILL))
    past = runner.view.past
    np.testing.assert_array_equal(past.latest(4), past.windows(4))
    loads = [runner.run(step).load.per_expert for step in range(3)]
    np.testing.assert_array_equal(past.latest(2), loads[1:])
    np.testing.assert_array_equal(past.latest(9), loads)
