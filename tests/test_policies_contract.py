"""Every registered policy keeps the contract, and a policy that breaks it is told how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings

from moesim.errors import InputError
from moesim.policies import create_dispatch, create_placement, dispatch_names, placement_names
from moesim.policies.base import Parameters
from moesim.policies.placement.blocks import Contiguous, NoParameters
from moesim.policies.plan import Placement
from moesim.testing import (
    check_dispatch_policy,
    check_placement,
    check_placement_policy,
    check_plan,
    dispatch_inputs,
    placement_inputs,
)

PLACEMENTS = [(name, {}) for name in placement_names()] + [
    ("eplb", {"redundant": 3}),
    ("eplb", {"redundant": 16}),
    ("eplb", {"mode": "global"}),
    ("eplb", {"keep_slots": True}),
    ("eplb_vec", {"redundant": 3, "windows": 3}),
    ("eplb_online", {"updates": 1}),
    ("flexmoe", {"redundant": 3, "moves": 5}),
    ("greedy", {"counts": "memory"}),
    ("greedy", {"redundant": 5}),
    ("moetuner", {"objective": "max", "solver": "search"}),
    ("moetuner", {"solver": "highs", "tolerance": 0.0}),
    ("exflow", {"near": 0.5}),
    ("occult", {"refine": False}),
    ("grace", {"spread": 3, "redundant": 0}),
    ("eplb", {"mode": "hierarchical"}),
]
DISPATCHES = [(name, {}) for name in dispatch_names()] + [
    ("standard", {"replica_choice": "nearest"}),
    ("llep", {"threshold": 0, "min_tokens_per_gemm": 1}),
    ("llep", {"alpha": 0.5, "min_tokens_per_gemm": 0, "threshold": 1}),
    ("llep", {"alpha": 2.0, "min_tokens_per_gemm": 30, "threshold": 1}),
    ("fastermoe", {"network_bandwidth": 1e14}),
    ("fastermoe", {"network_bandwidth": 1e14, "iteration": "training", "predictor": "distribution"}),
    ("harmoeny", {"block": 1}),
    ("harmoeny", {"block": 30, "alpha": 0.5}),
    ("janus", {"factor": 1e9, "predictor": {"kind": "token_to_expert", "accuracy": 0.4}}),
    ("janus", {"factor": 1e9, "bytes": "all"}),
    ("prophet", {"predictor": "oracle"}),
    ("prophet", {"predictor": "moving_average", "max_experts": 1}),
    ("lina", {"alpha": 0.5}),
    ("lina", {"predictor": {"kind": "token_to_expert", "accuracy": 0.1}, "correct_above": 1}),
]


@pytest.mark.parametrize(("name", "parameters"), PLACEMENTS)
def test_placements_keep_the_contract(name, parameters):
    check_placement_policy(create_placement(name, parameters))


@pytest.mark.parametrize(("name", "parameters"), DISPATCHES)
def test_dispatches_keep_the_contract(name, parameters):
    check_dispatch_policy(create_dispatch(name, parameters))


@pytest.mark.parametrize(("name", "parameters"), PLACEMENTS[:-1])
@settings(max_examples=40)
@given(placement_inputs())
def test_placements_keep_the_contract_on_any_input(name, parameters, case):
    check_placement(create_placement(name, parameters), case)


@pytest.mark.parametrize(("name", "parameters"), DISPATCHES)
@settings(max_examples=80)
@given(dispatch_inputs())
def test_dispatches_keep_the_contract_on_any_input(name, parameters, case):
    check_plan(create_dispatch(name, parameters), case)


@dataclass(frozen=True)
class Base:
    parameters: NoParameters = field(default_factory=NoParameters)
    name: ClassVar[str] = "mine"
    summary: ClassVar[str] = "a policy of these tests"
    source: ClassVar[str] = "these tests"
    parameters_type: ClassVar[type[Parameters]] = NoParameters

    def place(self, statistics, view):
        return Contiguous().place(statistics, view)


CALLS: list[int] = []


class NoName(Base):
    summary = ""


class WrongParameters(Base):
    parameters_type = type("Other", (Parameters,), {})


class ForgetsAnExpert(Base):
    def place(self, statistics, view):
        placement = super().place(statistics, view)
        slots = placement.slots.copy()
        slots[slots == view.experts - 1] = -1
        return Placement(slots, view.experts)


class OneLayerOnly(Base):
    def place(self, statistics, view):
        return super().place(statistics[:1], view)


class EverythingEverywhere(Base):
    def place(self, statistics, view):
        shape = (statistics.shape[0], view.devices, view.experts)
        return Placement(np.broadcast_to(np.arange(view.experts), shape).copy(), view.experts)


class SmallIntegers(Base):
    def place(self, statistics, view):
        placement = super().place(statistics, view)
        return Placement(placement.slots.astype(np.int32), view.experts)


class SortsItsInput(Base):
    def place(self, statistics, view):
        statistics[:] = 0
        return super().place(statistics, view)


class Remembers(Base):
    def place(self, statistics, view):
        CALLS.append(1)
        rolled = super().place(statistics, view)
        return Placement(np.roll(rolled.slots, len(CALLS), axis=1), view.experts)


class DividesByZero(Base):
    def place(self, statistics, view):
        return 1 // 0


class ReturnsSlots(Base):
    def place(self, statistics, view):
        return super().place(statistics, view).slots


class Refuses(Base):
    def place(self, statistics, view):
        raise InputError("not today")


@dataclass(frozen=True)
class HoldsALambda(Base):
    score: Any = field(default_factory=lambda: lambda: 0)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (NoName(), "description: 'summary' is empty"),
        (WrongParameters(), "'parameters' is NoParameters, not its parameters_type"),
        (ForgetsAnExpert(), "expert .* has no slot"),
        (OneLayerOnly(), r"expected 16 experts in \(3, 4, slots\)"),
        (EverythingEverywhere(), "no memory to spare: a device holds 16 experts of a layer, its share is 4"),
        (SmallIntegers(), "slots are int32, not int64"),
        (SortsItsInput(), "it changed its input"),
        (Remembers(), "gave another decision the second time"),
        (DividesByZero(), "it raised ZeroDivisionError"),
        (ReturnsSlots(), "did not return a Placement"),
        (Refuses(), "skewed loads: it refused: not today"),
        (HoldsALambda(), "cannot be pickled"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Base) else "",
)
def test_broken_placements_are_told_how(policy, words):
    with pytest.raises(AssertionError, match=words):
        check_placement_policy(policy)
