"""What every registered policy promises, and what some promise besides, for any input.

Names come from the registry, so that a new policy is tried as soon as it is registered. Parameters other
than the defaults, promises about labels and documented bounds stand in the tables below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.policies import create_dispatch, create_placement, dispatch_names, placement_names
from moesim.policies.dispatch.capacity import capacity_of
from moesim.policies.dispatch.llep import capacity_of as llep_capacity
from moesim.policies.past import Past
from moesim.policies.plan import DispatchPlan, Placement
from moesim.routing.load import Load
from moesim.testing import (
    DispatchCase,
    PlacementCase,
    check_placement,
    check_plan,
    dispatch_inputs,
    loads,
    placement_inputs,
)

Array = np.ndarray

MORE: dict[str, list[dict[str, Any]]] = {
    "standard": [{"replica_choice": c} for c in ("nearest", "static", "round_robin", "random")],
    "llep": [{"threshold": 1, "min_tokens_per_gemm": 4}, {"threshold": 0, "min_tokens_per_gemm": 0}],
    "capacity": [{"factor": 1, "overflow": "reroute"}, {"factor": 0.3, "overflow": "reroute"}],
    "fastermoe": [{"network_bandwidth": 1e14}],
    "harmoeny": [{"block": 1}, {"block": 20, "alpha": 0.7}],
    "janus": [{"factor": 1e9}],
    "lina": [{"predictor": "last_window"}, {"predictor": {"kind": "token_to_expert"}, "correct_above": 1}],
    "prophet": [{"predictor": "oracle"}, {"predictor": "moving_average"}],
    "eplb": [{"redundant": 3}, {"mode": "global"}],
}
"""Parameters to try besides the defaults."""


def with_parameters(names: list[str]) -> list[Any]:
    return [
        pytest.param(name, given, id="-".join([name, *map(str, given.values())]))
        for name in names
        for given in ({}, *MORE.get(name, []))
    ]


def per_device(plan: DispatchPlan, load: Load) -> Array:
    return plan.assignments.per_device(load.layers, load.devices)


def activated(plan: DispatchPlan, load: Load) -> Array:
    rows = plan.assignments
    keys = (rows.layer * load.devices + rows.device)[rows.copies > 0]
    return np.bincount(keys, minlength=load.layers * load.devices).reshape(load.layers, load.devices)


def evenly(case: DispatchCase) -> DispatchPlan:
    return create_dispatch("standard").plan(case.load, case.placement, case.view)


def bound_lplb(case: DispatchCase, plan: DispatchPlan, given: Any) -> None:
    """No device has more copies than the fullest one with even shares."""
    most, even = (per_device(one, case.load).max(axis=1) for one in (plan, evenly(case)))
    assert (most <= even).all()


def bound_metro(case: DispatchCase, plan: DispatchPlan, given: Any) -> None:
    """No device activates more experts than the fullest one with even shares."""
    most, even = (activated(one, case.load).max(axis=1) for one in (plan, evenly(case)))
    assert (most <= even).all()


def bound_capacity(case: DispatchCase, plan: DispatchPlan, given: Any) -> None:
    """No expert computes more than its capacity."""
    total = case.load.per_expert.sum(axis=1)
    most = capacity_of(total, case.load.experts, given.factor)[:, np.newaxis]
    assert (plan.assignments.per_expert(case.load.layers, case.load.experts) <= most).all()


def bound_llep(case: DispatchCase, plan: DispatchPlan, given: Any) -> None:
    """Where helpers may take slices of any size, no device has more than its capacity or its native load."""
    if given.min_tokens_per_gemm > 1 or given.alpha < 1:
        return
    bounded_by_capacity(case, plan, given.alpha, case.load.devices)


def bound_harmoeny(case: DispatchCase, plan: DispatchPlan, given: Any) -> None:
    """No device has more than its capacity or the fullest device's native load."""
    bounded_by_capacity(case, plan, given.alpha, 0)


def bounded_by_capacity(case: DispatchCase, plan: DispatchPlan, alpha: float, rounding: int) -> None:
    """No device has more than its capacity and so many copies, or the fullest device's native load.

    What is left of an even share in whole copies may come on top.
    """
    home = np.zeros((case.load.layers, case.load.devices), dtype=np.int64)
    for layer, slots in enumerate(case.placement.slots):
        for expert in range(case.load.experts):
            device = int(np.argwhere((slots == expert).any(axis=1))[0, 0])
            home[layer, device] += case.load.per_expert[layer, expert]
    total = case.load.per_expert.sum(axis=1)
    most = [llep_capacity(int(copies), case.load.devices, alpha) for copies in total]
    allowed = np.maximum(np.asarray(most)[:, np.newaxis] + rounding, home.max(axis=1, keepdims=True))
    assert (per_device(plan, case.load) <= allowed).all()


BOUNDS: dict[str, Callable[[DispatchCase, DispatchPlan, Any], None]] = {
    "lplb": bound_lplb,
    "metro": bound_metro,
    "capacity": bound_capacity,
    "llep": bound_llep,
    "harmoeny": bound_harmoeny,
}
"""What the documentation of a dispatch policy promises about its plans."""

LABEL_FREE: dict[str, Callable[[DispatchPlan, Load], Array]] = {
    "standard": per_device,
    "capacity": lambda plan, load: plan.dropped,
    "lplb": lambda plan, load: per_device(plan, load).max(axis=1),
    "metro": lambda plan, load: activated(plan, load).max(axis=1),
}
"""What of a plan does not depend on how experts are numbered."""


@pytest.mark.parametrize(("name", "parameters"), with_parameters(dispatch_names()))
@settings(max_examples=80)
@given(dispatch_inputs())
def test_dispatches_keep_the_contract_and_their_bounds(name, parameters, case):
    policy = create_dispatch(name, parameters)
    plan = check_plan(policy, case)
    assert (plan.assignments.copies >= 0).all()
    if name in BOUNDS:
        BOUNDS[name](case, plan, policy.parameters)


@pytest.mark.parametrize(("name", "parameters"), with_parameters(placement_names()))
@settings(max_examples=80)
@given(placement_inputs())
def test_placements_keep_the_contract(name, parameters, case):
    check_placement(create_placement(name, parameters), case)


@pytest.mark.parametrize("name", placement_names())
@settings(max_examples=20)
@given(placement_inputs(), st.data())
def test_every_dispatch_works_on_every_placement(name, case: PlacementCase, data):
    try:
        placement = create_placement(name).place(case.statistics, case.view)
    except InputError:
        return
    load = data.draw(loads(case.view, case.statistics.shape[0]))
    for dispatch in dispatch_names():
        check_plan(create_dispatch(dispatch), DispatchCase(f"on {name}", load, placement, case.view))


@pytest.mark.parametrize("name", sorted(LABEL_FREE))
@settings(max_examples=80)
@given(dispatch_inputs(), st.randoms(use_true_random=False))
def test_other_labels_for_experts_change_nothing(name, case, random):
    order = list(range(case.load.experts))
    random.shuffle(order)
    assume(order != sorted(order) or case.load.experts == 1)
    label = np.asarray([*order, -1])  # empty slots stay empty
    slots = label[case.placement.slots]
    counts = np.empty_like(case.load.counts)
    counts[:, :, order] = case.load.counts
    policy, told = create_dispatch(name), LABEL_FREE[name]
    load = Load(counts, case.load.tokens)
    before = told(policy.plan(case.load, case.placement, case.view), case.load)
    after = told(policy.plan(load, Placement(slots, case.load.experts), case.view), load)
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", dispatch_names())
@settings(max_examples=20)
@given(dispatch_inputs())
def test_layers_are_planned_by_themselves(name, case):
    policy = create_dispatch(name)
    whole = policy.plan(case.load, case.placement, case.view)
    for layer in range(case.load.layers):
        load = Load(case.load.counts[layer : layer + 1], case.load.tokens)
        placement = Placement(case.placement.slots[layer : layer + 1], case.placement.experts)
        view = case.view
        if view.past is not None:
            view = replace(view, past=Past.of_counts(view.past.windows(1)[0][layer : layer + 1]))
        alone = policy.plan(load, placement, view)
        np.testing.assert_array_equal(per_device(alone, load)[0], per_device(whole, case.load)[layer])
        assert alone.planned[0] == whole.planned[layer]
