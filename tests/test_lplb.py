"""LPLB: the largest load of a device is the least possible, in whole copies."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.policies.dispatch.lplb import Lplb, LplbParameters
from moesim.policies.dispatch.min_max import Web, balance
from moesim.policies.dispatch.standard import Standard
from moesim.policies.plan import Placement
from moesim.routing.load import Load
from moesim.testing import dispatch_inputs, make_load, make_placement, make_view


def largest(plan, load):
    return plan.assignments.per_device(load.layers, load.devices).max(axis=1)


def linear_program(load: Load, placement: Placement, layer: int, speed: np.ndarray) -> float:
    """Optimum of SGLang's statement of the program, by a general solver."""
    linprog = pytest.importorskip("scipy.optimize").linprog
    held = [sorted({int(e) for e in row if e >= 0}) for row in placement.slots[layer]]
    pairs = [(device, expert) for device, row in enumerate(held) for expert in row]
    totals = load.per_expert[layer]
    above = np.zeros((load.devices, len(pairs) + 1))
    equal = np.zeros((load.experts, len(pairs) + 1))
    for column, (device, expert) in enumerate(pairs):
        above[device, column] = equal[expert, column] = 1
    above[:, -1] = -speed
    cost = np.zeros(len(pairs) + 1)
    cost[-1] = 1
    found = linprog(cost, A_ub=above, b_ub=np.zeros(load.devices), A_eq=equal, b_eq=totals, method="highs")
    assert found.status == 0
    return float(found.fun)


@settings(max_examples=60)
@given(dispatch_inputs())
def test_the_largest_load_is_the_optimum_of_the_linear_program_rounded_up(case):
    plan = Lplb().plan(case.load, case.placement, case.view)
    for layer, most in enumerate(largest(plan, case.load)):
        optimum = linear_program(case.load, case.placement, layer, np.ones(case.load.devices))
        assert most == math.ceil(round(optimum, 6))


@settings(max_examples=60)
@given(dispatch_inputs(), st.data())
def test_with_devices_of_different_speed_the_longest_time_is_within_one_copy_of_the_optimum(case, data):
    speed = np.asarray(data.draw(st.lists(st.sampled_from([1.0, 0.5, 0.31]), min_size=8, max_size=8)))
    speed = speed[: case.view.devices]
    plan = Lplb().plan(case.load, case.placement, replace(case.view, speed=speed))
    copies = plan.assignments.per_device(case.load.layers, case.load.devices)
    for layer, times in enumerate(copies / speed):
        optimum = linear_program(case.load, case.placement, layer, speed)
        assert optimum - 1e-6 <= times.max() <= optimum + 1 / speed.min() + 1e-6


def splits(total: int, parts: int):
    """Ways to put so many copies on so many devices."""
    for cuts in itertools.combinations(range(total + parts - 1), parts - 1):
        edges = (-1, *cuts, total + parts - 1)
        yield [b - a - 1 for a, b in itertools.pairwise(edges)]


@settings(max_examples=60)
@given(st.data())
def test_small_programs_agree_with_trying_everything(data):
    devices = data.draw(st.integers(2, 4))
    subsets = [s for n in (2, 3) for s in itertools.combinations(range(devices), n)]
    holders = data.draw(st.lists(st.sampled_from(subsets), min_size=1, max_size=3))
    totals = [data.draw(st.integers(0, 5)) for _ in holders]
    base = [data.draw(st.integers(0, 6)) for _ in range(devices)]
    speed = [data.draw(st.sampled_from([1.0, 0.5, 0.7])) for _ in range(devices)]
    for rates in (None, speed):
        best = math.inf
        for choice in itertools.product(*(splits(t, len(h)) for t, h in zip(totals, holders, strict=True))):
            loads = list(base)
            for places, parts in zip(holders, choice, strict=True):
                for place, part in zip(places, parts, strict=True):
                    loads[place] += part
            best = min(best, max(n / s for n, s in zip(loads, rates or [1.0] * devices, strict=True)))
        start, loads = [], list(base)
        for places, total in zip(holders, totals, strict=True):
            start += [total] + [0] * (len(places) - 1)
            loads[places[0]] += total
        copies, loads = balance(Web.of(devices, holders), start, loads, rates)
        assert min(copies) >= 0
        assert max(n / s for n, s in zip(loads, rates or [1.0] * devices, strict=True)) == pytest.approx(best)


@given(dispatch_inputs())
def test_the_largest_load_is_never_above_that_of_even_shares(case):
    fewest = largest(Lplb().plan(case.load, case.placement, case.view), case.load)
    even = largest(Standard().plan(case.load, case.placement, case.view), case.load)
    assert (fewest <= even).all()


def test_copies_move_along_chains_of_replicas():
    # Devices 0 and 1 share expert 0, devices 1 and 2 expert 1; device 0 also has expert 2 for itself.
    placement = Placement(np.asarray([[[0, 2], [0, 1], [1, -1]]]), 3)
    load = make_load([[[4, 0, 6], [0, 8, 0], [0, 0, 0]]], 3)
    plan = Lplb().plan(load, placement, make_view(3, 3))
    assert plan.assignments.per_device(1, 3).tolist() == [[6, 6, 6]]


def test_every_source_sends_each_replica_its_share():
    placement = Placement(np.asarray([[[0, 1], [0, -1], [0, -1]]]), 2)
    load = make_load([[[60, 0], [30, 0], [30, 120]]], 3)
    sent = Lplb().plan(load, placement, make_view(3, 2)).traffic.dense()[0]
    # Device 0 is busy with expert 1; of the other two, device 1 takes two thirds of expert 0.
    assert sent.tolist() == [[0, 40, 20], [0, 20, 10], [120, 20, 10]]


@given(st.integers(0, 2**32 - 1))
def test_shares_of_sources_are_off_by_few_copies(seed):
    rng = np.random.default_rng(seed)
    view = make_view(6, 5)
    placement = make_placement(view, 2, replicas=6, seed=seed)
    counts = rng.integers(0, 60, (2, 6, 5))
    load = Load(counts, np.ones(6, dtype=np.int64))
    plan = Lplb().plan(load, placement, view)
    matrix, rows = plan.traffic.dense(), plan.assignments
    for layer in range(2):
        expected = np.zeros((6, 6))
        here = rows.layer == layer
        for expert, device, copies in zip(
            rows.expert[here], rows.device[here], rows.copies[here], strict=True
        ):
            total = counts[layer, :, expert].sum()
            expected[:, device] += counts[layer, :, expert] * (copies / total if total else 0)
        holding = (placement.slots[layer] >= 0).sum(axis=1)
        assert (np.abs(matrix[layer] - expected) <= 2 * holding).all()


def test_planning_is_charged_where_there_is_a_choice():
    placement = Placement(np.asarray([[[0, 1], [0, -1]], [[0, -1], [1, -1]], [[0, 1], [1, -1]]]), 2)
    load = make_load([[[5, 5], [5, 5]], [[5, 5], [5, 5]], [[5, 0], [5, 0]]], 2)
    policy = Lplb(LplbParameters(planning_s="20 us"))
    assert policy.plan(load, placement, make_view(2, 2)).planned.tolist() == [True, False, False]
    assert policy.planning_seconds(2, 2) == pytest.approx(20e-6)


def test_two_slots_of_one_device_are_no_choice():
    placement = Placement(np.asarray([[[0, 0, -1], [1, -1, -1]]]), 2)
    load = make_load([[[7, 1], [2, 3]]], 2)
    plan = Lplb().plan(load, placement, make_view(2, 2))
    assert plan.assignments.per_device(1, 2).tolist() == [[9, 4]]
    assert not plan.planned.any()
