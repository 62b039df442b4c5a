"""The engine does not believe a third-party policy that breaks its contract."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest

from moesim.engine import Setup, run
from moesim.errors import InputError, PolicyError
from moesim.hardware import load_cluster
from moesim.hardware.kernels import kernel_style
from moesim.hardware.traffic import Traffic
from moesim.model import load_model
from moesim.policies import create_policy
from moesim.policies.base import Parameters, Policy
from moesim.policies.dispatch.standard import Standard
from moesim.policies.placement.blocks import Contiguous, NoParameters
from moesim.routing.generators import create_generator
from moesim.workload import Workload


@dataclass(frozen=True)
class Odd:
    """Standard dispatch with one fault."""

    fault: str = ""
    parameters: NoParameters = field(default_factory=NoParameters)
    name: ClassVar[str] = "odd"
    summary: ClassVar[str] = "a policy of these tests"
    source: ClassVar[str] = "these tests"
    exact: ClassVar[bool] = False
    parameters_type: ClassVar[type[Parameters]] = NoParameters

    def plan(self, load, placement, view):
        plan = Standard().plan(load, placement, view)
        copies = plan.assignments.copies
        if self.fault == "drops in silence":
            return dataclasses.replace(
                plan, assignments=dataclasses.replace(plan.assignments, copies=copies // 2)
            )
        if self.fault == "sends elsewhere":
            turned = Traffic.of_pairs(np.roll(plan.traffic.dense(), 1, axis=2))
            return dataclasses.replace(plan, traffic=turned)
        if self.fault == "drops and says so":
            halved = dataclasses.replace(plan.assignments, copies=copies // 2)
            computed = halved.per_device(load.layers, load.devices)
            dropped = load.counts.sum(axis=(1, 2)) - computed.sum(axis=1)
            return dataclasses.replace(
                plan, assignments=halved, traffic=Traffic.pooled(computed, load.share), dropped=dropped
            )
        if self.fault == "falls over":
            message = "boom"
            raise RuntimeError(message)
        return plan

    def planning_seconds(self, experts, devices):
        return {"plans back in time": -1.0, "plans for ever": float("nan")}.get(self.fault, 0.0)


def setup(fault: str) -> Setup:
    model = load_model("Mixtral-8x7B").with_layers(2)
    return Setup(
        model=model,
        cluster=load_cluster("DGX-H100"),
        routing=create_generator("zipf", experts=8, top_k=2, layers=2, seed=0, exponent=1.0),
        workload=Workload("prefill", 1, 64, 64),
        policy=Policy("mine", Contiguous(), Odd(fault)),
        kernels=kernel_style("fused"),
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("drops in silence", r"'odd' handles \d+ of 1024 copies in MoE layer 0"),
        ("sends elsewhere", "'odd' sends devices other copies than they compute"),
        ("plans back in time", "'odd' plans for -1.0 seconds"),
        ("plans for ever", "'odd' plans for nan seconds"),
    ],
)
def test_a_plan_that_loses_copies_or_time_is_refused(fault, message):
    with pytest.raises(InputError, match=message):
        run(setup(fault))


def test_a_policy_may_drop_copies_if_it_says_so():
    fewer, all_of_them = run(setup("drops and says so")), run(setup(""))
    assert fewer.steps[0]["latency_s"] < all_of_them.steps[0]["latency_s"]


@pytest.mark.parametrize("detail", ["array", "events"])
def test_of_devices_that_arrive_together_the_first_is_named(detail):
    even = create_generator("hot_experts", experts=8, top_k=2, layers=2, seed=0, fraction=0.0)
    same = dataclasses.replace(setup(""), routing=even, policy=create_policy("ep"), detail=detail)
    recording = run(same)
    assert not np.concatenate([columns["straggler"] for columns in recording.layer_columns]).any()


def test_a_policy_that_falls_over_is_named():
    with pytest.raises(PolicyError, match=r"policy 'mine' failed while planning a step: RuntimeError: boom"):
        run(setup("falls over"))
