"""Lina-like dispatch: devices in proportion to predicted popularity, corrected where that was wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.policies.dispatch.lina import Lina, LinaParameters
from moesim.policies.dispatch.popularity import quotas, schedule_experts
from moesim.policies.past import Past
from moesim.policies.placement.blocks import Contiguous
from moesim.policies.plan import Placement
from moesim.testing import make_load, make_view


def plan(per_expert, devices, *, past=None, free=1 << 30, **parameters):
    experts = len(per_expert)
    view = make_view(devices, experts, past=past, free_expert_slots=free)
    placement = Contiguous().place(np.zeros((1, experts), dtype=np.int64), view)
    counts = np.tile(np.asarray(per_expert), (1, devices, 1))
    return Lina(LinaParameters(**parameters)).plan(make_load(counts, devices), placement, view)


def per_device(found, devices):
    return found.assignments.per_device(1, devices)[0].tolist()


def test_devices_are_given_in_proportion():
    assert quotas(np.asarray([50, 25, 13, 12]), 8).tolist() == [4, 2, 1, 1]
    assert quotas(np.asarray([[0, 0], [1, 0]]), 4).tolist() == [[1, 1], [4, 1]]


def test_a_popular_expert_gets_its_devices_and_cold_ones_leave_them():
    # Expert 0 has half of the copies, so two of four devices; expert 1 shares its home.
    found = plan([60, 20, 10, 10, 5, 5, 5, 5], 4, alpha=1.0)
    assert max(per_device(found, 4)) < max(np.asarray([60 + 20, 20, 10, 10]) * 4)
    assert 0 in found.moves.expert.tolist()
    shares = found.assignments.copies[found.assignments.expert == 0]
    assert shares.tolist() == [120, 120]


def test_an_even_load_stays_where_it_is():
    found = plan([10] * 8, 4)
    assert len(found.moves) == 0
    assert per_device(found, 4) == [80] * 4


@pytest.mark.parametrize(("room", "moved"), [(0, 0), (1, 3), (9, 3)])
def test_devices_receive_what_their_memory_has_room_for(room, moved):
    found = plan([1000, 0, 0, 0], 4, free=room)
    assert len(found.moves) == moved
    assert max(per_device(found, 4)) == 4000 // (moved + 1)


def test_wrong_estimates_are_corrected_beyond_the_threshold():
    past = Past.of_counts([[1, 1, 1, 97]])
    wrong = {"predictor": "distribution", "past": past}
    kept = plan([97, 1, 1, 1], 4, correct_above=1, **wrong)
    corrected = plan([97, 1, 1, 1], 4, correct_above=0.5, **wrong)
    # Expert 3 was given devices it does not need, and expert 0 computes all at home.
    assert set(kept.moves.expert.tolist()) == {3}
    assert max(per_device(kept, 4)) >= 97 * 4
    assert set(corrected.moves.expert.tolist()) == {0}
    assert max(per_device(corrected, 4)) <= 104
    right = plan([97, 1, 1, 1], 4)
    assert corrected.traffic.dense().tolist() == right.traffic.dense().tolist()


def test_a_replica_is_used_first():
    view = make_view(3, 3)
    placement = Placement(np.asarray([[[0, -1], [1, -1], [2, 0]]]), 3)
    found = Lina().plan(make_load([[[100, 1, 1]] * 3], 3), placement, view)
    assert 2 not in found.moves.target[found.moves.expert == 0].tolist()


@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_schedules_keep_to_quotas_and_memory(devices, experts, seed, room):
    rng = np.random.default_rng(seed)
    popularity = rng.integers(0, 50, experts) * rng.choice([1, 9], experts)
    quota = quotas(popularity, devices)
    holders = [[int(d)] for d in rng.integers(0, devices, experts)]
    capacity = popularity.sum() / devices
    chosen = schedule_experts(popularity.tolist(), quota.tolist(), holders, devices, capacity, room)
    received = np.zeros(devices, dtype=int)
    for expert, where in chosen.items():
        assert 1 <= len(set(where)) == len(where) <= quota[expert]
        for device in where:
            received[device] += device not in holders[expert]
    assert received.max() <= room
    loads = np.zeros((2, devices))
    for expert in range(experts):
        loads[0, holders[expert][0]] += popularity[expert]
        for device in chosen.get(expert, holders[expert]):
            loads[1, device] += popularity[expert] / len(chosen.get(expert, holders[expert]))
    # A replica adds at most the rounding of its quota to a device.
    assert loads[1].max() <= max(loads[0].max(), 2.5 * capacity)
