"""Standard dispatch: who computes what when experts have replicas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.policies.base import ClusterView
from moesim.policies.dispatch import placement_index
from moesim.policies.dispatch.replica_choice import dealt, largest_remainder
from moesim.policies.dispatch.standard import Standard, StandardParameters
from moesim.policies.placement.blocks import Contiguous, RoundRobin
from moesim.policies.plan import Placement
from moesim.routing.load import Load
from moesim.testing import make_load, make_placement, make_view

NEAREST = Standard(StandardParameters(replica_choice="nearest"))


def place(*devices: list[int], experts: int) -> Placement:
    return Placement(np.asarray([devices], dtype=np.int64), experts)


def copies(plan, experts: int, devices: int) -> list[list[int]]:
    """Copies [devices][experts] of the first layer."""
    table = np.zeros((devices, experts), dtype=np.int64)
    table[plan.assignments.device, plan.assignments.expert] = plan.assignments.copies
    return table.tolist()


def test_contiguous_gives_neighbours_to_one_device():
    placement = Contiguous().place(np.zeros((1, 5), dtype=np.int64), make_view(2, 5))
    assert placement.slots.tolist() == [[[0, 1, 2], [3, 4, -1]]]


def test_round_robin_parts_neighbours():
    placement = RoundRobin().place(np.zeros((2, 5), dtype=np.int64), make_view(2, 5))
    assert placement.slots.tolist() == [[[0, 2, 4], [1, 3, -1]]] * 2


def test_copies_go_home():
    load = make_load([[[1, 2, 3, 4], [5, 6, 7, 8]]], 2)
    plan = Standard().plan(load, place([0, 1], [2, 3], experts=4), make_view(2, 4))
    assert plan.traffic.dense()[0].tolist() == [[3, 7], [11, 15]]
    assert not plan.planned.any()
    assert len(plan.moves) == 0


def test_every_source_shares_its_copies_evenly_over_replicas():
    load = make_load([[[7, 0], [0, 9], [10, 0]]], 3)
    plan = Standard().plan(load, place([0], [0], [1], experts=2), make_view(3, 2))
    assert plan.traffic.dense()[0].tolist() == [[4, 3, 0], [0, 0, 9], [5, 5, 0]]


def test_single_copies_of_different_sources_use_different_replicas():
    load = make_load([[[1]] * 4], 4)
    plan = Standard().plan(load, place([0], [0], [0], [0], experts=1), make_view(4, 1))
    assert plan.assignments.per_device(1, 4).tolist() == [[1, 1, 1, 1]]


def test_two_slots_of_a_device_count_twice():
    load = make_load([[[30, 0], [0, 0]]], 2)
    plan = Standard().plan(load, place([0, 0, -1], [0, 1, -1], experts=2), make_view(2, 2))
    assert copies(plan, 2, 2) == [[20, 0], [10, 0]]


def test_nearest_prefers_the_device_then_the_node_then_all():
    # Devices 0 and 1 form node 0, 2 and 3 node 1, 4 and 5 node 2; the expert stands on 1, 2 and 3.
    view = make_view(6, 2, nodes=3)
    placement = place([1], [0], [0], [0], [1], [1], experts=2)
    load = make_load([[[12, 0]] * 6], 6)
    sent = NEAREST.plan(load, placement, view).traffic.dense()[0]
    assert sent.tolist() == [
        [0, 12, 0, 0, 0, 0],
        [0, 12, 0, 0, 0, 0],
        [0, 0, 12, 0, 0, 0],
        [0, 0, 0, 12, 0, 0],
        [0, 4, 4, 4, 0, 0],
        [0, 4, 4, 4, 0, 0],
    ]


def test_nearest_shares_within_the_node():
    view = make_view(6, 1, nodes=2)
    load = make_load([[[9], [0], [0], [0], [0], [0]]], 6)
    sent = NEAREST.plan(load, place([-1], [0], [0], [0], [0], [0], experts=1), view).traffic.dense()[0]
    assert sent[0].tolist() == [0, 5, 4, 0, 0, 0]


def test_nearest_from_totals_agrees_with_equal_sources():
    view = make_view(6, 4, nodes=3)
    placement = make_placement(view, 2, replicas=5, seed=11)
    even = np.full((2, 6, 4), 60, dtype=np.int64)
    tokens = np.full(6, 10, dtype=np.int64)
    dense = NEAREST.plan(Load(even, tokens), placement, view)
    pooled = NEAREST.plan(Load(even.sum(axis=1, keepdims=True), tokens), placement, view)
    np.testing.assert_array_equal(dense.assignments.copies, pooled.assignments.copies)
    np.testing.assert_allclose(dense.traffic.dense(), pooled.traffic.dense(), atol=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(0, 10))
def test_totals_and_counts_per_source_give_the_same_work(seed, replicas):
    view = make_view(4, 6)
    counts = np.random.default_rng(seed).integers(0, 9, (2, 4, 6))
    tokens, placement = np.ones(4, dtype=np.int64), make_placement(view, 2, replicas=replicas, seed=seed)
    dense = Standard().plan(Load(counts, tokens), placement, view)
    pooled = Standard().plan(Load(counts.sum(axis=1, keepdims=True), tokens), placement, view)
    np.testing.assert_array_equal(dense.assignments.copies, pooled.assignments.copies)
    np.testing.assert_array_equal(dense.traffic.inbound, pooled.traffic.inbound)


@given(st.integers(0, 2**32 - 1), st.integers(0, 10))
def test_even_parts_differ_by_at_most_one_per_slot(seed, replicas):
    view = ClusterView(24, np.zeros(24, dtype=np.int64), 6, 1, 1, 1)
    slots = np.full(24, -1, dtype=np.int64)
    slots[: 6 + replicas] = np.concatenate(
        [np.arange(6), np.random.default_rng(seed).integers(0, 6, replicas)]
    )
    placement = Placement(slots.reshape(1, 24, 1), 6)
    counts = np.random.default_rng(seed + 1).integers(0, 20, (1, 24, 6))
    plan = Standard().plan(Load(counts, np.ones(24, dtype=np.int64)), placement, view)
    sent = plan.traffic.dense()[0]
    for expert in range(6):
        parts = np.c_[sent[:, slots == expert]]
        assert (parts.sum(axis=1) == counts[0, :, expert]).all()
        assert (parts.max(axis=1) - parts.min(axis=1) <= 1).all()
        assert np.ptp(parts.sum(axis=0)) <= 1


@given(st.integers(0, 60), st.integers(1, 6), st.data())
def test_dealt_counts_what_dealing_one_by_one_gives(numbers, replicas, data):
    first = data.draw(st.integers(0, replicas - 1))
    slots = data.draw(st.integers(1, replicas - first))
    expected = sum(first <= number % replicas < first + slots for number in range(numbers))
    arrays = (np.asarray([value]) for value in (numbers, first, slots, replicas))
    assert dealt(*arrays).tolist() == [expected]


def test_largest_remainder_rounds_each_group_to_its_total():
    ideal, group = np.asarray([1.5, 1.25, 1.25, 0.5, 0.5]), np.asarray([0, 0, 0, 1, 1])
    assert largest_remainder(ideal, group, np.asarray([4, 1])).tolist() == [2, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (make_load(np.ones((2, 2, 4)), 2), "the load has 2 layers, the placement 1"),
        (make_load(np.ones((1, 3, 4)), 3), "the load has 3 devices, the placement 2"),
        (make_load(np.ones((1, 2, 5)), 2), "the load has 5 experts, the placement 4"),
    ],
)
def test_a_load_that_does_not_fit_the_placement_is_refused(load, words):
    with pytest.raises(InputError, match=words):
        Standard().plan(load, place([0, 1], [2, 3], experts=4), make_view(2, 4))


def test_a_placement_is_indexed_once_and_forgotten_with_it():
    placement = place([0, 1], [2, 3], experts=4)
    assert placement_index.index_of(placement) is placement_index.index_of(placement)
    known = len(placement_index._KNOWN)
    del placement
    assert len(placement_index._KNOWN) == known - 1


@pytest.mark.parametrize("width", [1, 3, 16, 17])
@pytest.mark.parametrize("even", [True, False])
def test_sums_per_device_are_those_of_counting(width: int, even: bool) -> None:
    devices, layers = 4, 3
    slots = np.full((layers, devices, 2 * width), -1)
    slots[..., :width] = np.arange(devices * width).reshape(devices, width)
    if not even:  # a device with a copy more, and one that has given all it had to another
        slots[0, 1, width] = 0
        slots[1, 3, width:], slots[1, 2] = slots[1, 2, :width].copy(), -1
    index = placement_index.index_of(Placement(slots, devices * width))
    assert (index.run > 0) == (even and width <= 16)
    values = np.random.default_rng(width).integers(0, 1 << 40, (2, index.key.size))
    wanted = np.zeros((2, layers * devices), dtype=np.int64)
    np.add.at(wanted.T, index.layer * devices + index.device, values.T)
    np.testing.assert_array_equal(index.sum_per_device(values), wanted)
