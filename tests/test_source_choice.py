"""Replicas that each source chooses by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.policies.dispatch.standard import Standard, StandardParameters
from moesim.policies.plan import Placement
from moesim.routing.load import Load
from moesim.testing import dispatch_inputs, make_load, make_placement, make_view


def standard(choice: str, seed: int = 0) -> Standard:
    return Standard(StandardParameters(replica_choice=choice, seed=seed))


def place(*devices: list[int], experts: int) -> Placement:
    return Placement(np.asarray([devices], dtype=np.int64), experts)


def sent(choice: str, counts, placement: Placement, view) -> list[list[float]]:
    load = make_load(counts, view.devices)
    return standard(choice).plan(load, placement, view).traffic.dense()[0].tolist()


def test_static_gives_each_source_one_replica_the_nearest():
    # Nodes are devices 0-1, 2-3 and 4-5; the expert stands on 1, 2 and 3.
    placement = place([1], [0], [0], [0], [1], [1], experts=2)
    found = sent("static", [[[12, 0]] * 6], placement, make_view(6, 2, nodes=3))
    assert found == [
        [0, 12, 0, 0, 0, 0],
        [0, 12, 0, 0, 0, 0],
        [0, 0, 12, 0, 0, 0],
        [0, 0, 0, 12, 0, 0],
        [0, 12, 0, 0, 0, 0],
        [0, 0, 12, 0, 0, 0],
    ]


def test_static_sources_of_a_node_without_a_slot_of_their_own_take_its_first():
    placement = place([-1], [0], [0], [-1], experts=1)
    found = sent("static", [[[5]] * 4], placement, make_view(4, 1))
    assert found == [[0, 5, 0, 0], [0, 5, 0, 0], [0, 0, 5, 0], [0, 5, 0, 0]]


def test_static_deals_far_sources_to_slots():
    # Node 1 has no replica; of the three slots in node 0 device 0 has two.
    placement = place([0, 0], [0, -1], [1, -1], [-1, -1], [-1, -1], [-1, -1], experts=2)
    view = make_view(6, 2, nodes=3)
    found = sent("static", [[[3, 0]] * 6], placement, view)
    assert [row[0] for row in found] == [3, 0, 3, 3, 0, 3]
    assert [row[1] for row in found] == [0, 3, 0, 0, 3, 0]


def test_round_robin_sources_do_not_know_of_each_other():
    placement = place([0], [0], [1], [-1], experts=2)
    found = sent("round_robin", [[[1, 0], [1, 0], [3, 0], [0, 0]]], placement, make_view(4, 2))
    assert found == [[1, 0, 0, 0], [0, 1, 0, 0], [2, 1, 0, 0], [0, 0, 0, 0]]


@given(dispatch_inputs())
def test_round_robin_parts_of_a_source_differ_by_at_most_one_per_slot(case):
    if case.load.is_pooled:
        return
    alone = np.zeros_like(case.load.counts)
    alone[:, -1] = case.load.counts[:, -1]
    rows = standard("round_robin").plan(Load(alone, case.load.tokens), case.placement, case.view).assignments
    placed = case.placement.slots[rows.layer, rows.device]
    slots = (placed == rows.expert[:, np.newaxis]).sum(axis=1)
    for layer in range(case.load.layers):
        for expert in range(case.load.experts):
            mine = (rows.layer == layer) & (rows.expert == expert)
            low, high = rows.copies[mine] // slots[mine], -(-rows.copies[mine] // slots[mine])
            assert high.max() - low.min() <= 1


def test_random_copies_are_uniform_over_slots():
    placement = place([0, 0], [0, -1], [0, -1], experts=1)
    load = make_load([[[100_000]] * 3], 3)
    found = standard("random").plan(load, placement, make_view(3, 1)).traffic.dense()[0]
    assert found.sum(axis=1).tolist() == [100_000] * 3
    # Six standard deviations of a binomial distribution are about 950 copies.
    np.testing.assert_allclose(found, np.asarray([[50_000, 25_000, 25_000]] * 3), atol=950)
    assert len(np.unique(found)) > 3


def test_random_choices_depend_on_seed_and_load_only():
    view = make_view(4, 6)
    placement = make_placement(view, 2, replicas=6, seed=3)
    counts = np.random.default_rng(0).integers(50, 90, (2, 4, 6))
    load = Load(counts, np.ones(4, dtype=np.int64))
    one, same, other = (
        standard("random", seed).plan(load, placement, view).assignments.copies for seed in (0, 0, 1)
    )
    assert one.tolist() == same.tolist() != other.tolist()
    doubled = standard("random").plan(Load(2 * counts, load.tokens), placement, view).assignments.copies
    assert doubled.tolist() != (2 * one).tolist()


def test_random_is_less_even_than_dealing():
    view = make_view(8, 4)
    placement = Placement(np.arange(8).reshape(1, 8, 1) % 4, 4)
    load = Load(np.full((1, 8, 4), 64), np.ones(8, dtype=np.int64))
    dealt, drawn = (
        standard(choice).plan(load, placement, view).assignments.per_device(1, 8).max()
        for choice in ("even", "random")
    )
    assert dealt == 256 < drawn < 256 + 6 * 11.4


@pytest.mark.parametrize("choice", ["static", "nearest"])
@given(st.integers(0, 2**32 - 1))
def test_totals_agree_with_equal_sources(choice, seed):
    view = make_view(6, 4, nodes=3)
    placement = make_placement(view, 2, replicas=5, seed=seed)
    even = np.full((2, 6, 4), 60, dtype=np.int64)
    tokens = np.full(6, 10, dtype=np.int64)
    dense = standard(choice).plan(Load(even, tokens), placement, view)
    pooled = standard(choice).plan(Load(even.sum(axis=1, keepdims=True), tokens), placement, view)
    np.testing.assert_array_equal(dense.assignments.copies, pooled.assignments.copies)
    np.testing.assert_allclose(dense.traffic.dense(), pooled.traffic.dense(), atol=1e-9)
