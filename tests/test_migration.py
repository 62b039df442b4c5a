"""From one placement to the next: who loads what from whom, and when it counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.engine.migration import Migration, holders, updates
from moesim.policies.plan import Placement
from moesim.testing import make_placement, make_view


def placed(*devices: list[int], experts: int) -> Placement:
    return Placement(np.asarray([devices], dtype=np.int64), experts)


def rows(moves) -> list[tuple[int, ...]]:
    return list(zip(moves.layer, moves.expert, moves.source, moves.target, strict=True))


NODES = np.asarray([0, 0, 1, 1])


def test_a_slot_is_filled_from_its_own_device_else_its_node_else_anywhere() -> None:
    old = placed([0, 1], [1, 2], [2, 3], [3, 0], experts=4)
    new = placed([1, 0], [3, 2], [2, 0], [3, 1], experts=4)
    assert rows(updates(old, new, NODES)) == [
        (0, 1, 0, 0),  # its own other slot
        (0, 0, 0, 0),
        (0, 3, 2, 1),  # nobody in node 0 has expert 3
        (0, 0, 3, 2),  # device 3 of the same node
        (0, 1, 0, 3),  # both devices of node 0 have expert 1
    ]


def test_equally_near_devices_send_in_turn() -> None:
    old = placed([0], [0], [1], [1], experts=2)
    new = placed([1], [1], [0], [0], experts=2)
    assert [(s, t) for _, _, s, t in rows(updates(old, new, NODES))] == [(2, 0), (3, 1), (0, 2), (1, 3)]


def test_a_second_copy_on_a_device_is_made_from_the_first() -> None:
    old = placed([0, 1], [2, 3], experts=4)
    new = Placement(np.asarray([[[0, 1, 2, 2], [2, 3, -1, -1]]]), 4)
    assert rows(updates(old, new, np.zeros(2, dtype=np.int64))) == [(0, 2, 1, 0), (0, 2, 0, 0)]


def test_from_the_host_comes_what_a_device_does_not_have() -> None:
    old, new = placed([0, 1], [2, 3], experts=4), placed([1, 2], [0, 3], experts=4)
    moves = updates(old, new, np.zeros(2, dtype=np.int64), from_host=True)
    assert rows(moves) == [(0, 1, 0, 0), (0, 2, -1, 0), (0, 0, -1, 1)]


@st.composite
def changes(draw) -> tuple[Placement, Placement, np.ndarray]:
    devices, experts, layers = draw(st.integers(1, 6)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    view = make_view(devices, experts, nodes=draw(st.integers(1, devices)))
    pair = [
        make_placement(view, layers, replicas=draw(st.integers(0, 5)), seed=draw(st.integers(0, 99)))
        for _ in range(2)
    ]
    return pair[0], pair[1], view.node_of


@given(changes())
def test_devices_load_exactly_the_experts_they_lack(case) -> None:
    old, new, node_of = case
    moves = updates(old, new, node_of)
    away = moves.source != moves.target
    loaded = {(la, e, t) for la, e, s, t in rows(moves) if s != t}
    assert len(loaded) == away.sum()
    had, has = holders(old), holders(new)
    assert loaded == {tuple(place) for place in np.argwhere(has & ~had)}
    for layer, expert, source, target in rows(moves):
        if source != target:
            assert had[layer, expert, source]
            near = had[layer, expert] & (node_of == node_of[target])
            assert not near.any() or near[source]


@given(changes(), st.sampled_from([None, 1, 2]), st.sampled_from([None, 1, 3]))
def test_a_migration_keeps_to_its_budgets_and_ends_at_its_target(case, layers, per_device) -> None:
    old, new, node_of = case
    migration = Migration.between(old, new, node_of, from_host=False)
    placement, done, steps = old, 0, 0
    while not migration.over:
        chosen = migration.next(layers, per_device)
        taken = migration.chosen(chosen)
        if layers is not None:
            assert np.unique(taken.layer).size <= layers
        if per_device is not None:
            assert np.bincount(taken.target, minlength=1).max() <= per_device
        done += len(taken)
        placement = migration.land(chosen, layers, placement)
        for layer in range(old.layers):
            mine = holders(placement)[layer]
            assert any((mine == holders(one)[layer]).all() for one in (old, new))
        steps += 1
        assert steps < 1000
    assert done == len(migration.moves)
    assert (holders(placement) == holders(new)).all()
    assert (placement.replicas == new.replicas).all()


def test_a_layer_counts_once_all_of_its_updates_are_done() -> None:
    old, new = placed([0, 1], [2, 3], experts=4), placed([2, 3], [0, 1], experts=4)
    migration = Migration.between(old, new, np.zeros(2, dtype=np.int64), from_host=False)
    first = migration.next(None, 1)
    assert migration.land(first, None, old) is old
    assert migration.loaded().tolist() == first.tolist()
    second = migration.next(None, 1)
    assert not (first & second).any()
    assert migration.land(second, None, old).slots.tolist() == new.slots.tolist()
    assert migration.over
    assert not migration.loaded().any()


@pytest.mark.parametrize("per_device", [None, 1])
def test_experts_that_only_leave_take_no_updates(per_device) -> None:
    old, new = placed([0, 1], [1, 0], experts=2), placed([0, -1], [1, -1], experts=2)
    migration = Migration.between(old, new, np.zeros(2, dtype=np.int64), from_host=False)
    chosen = migration.next(None, per_device)
    assert not chosen.any()
    assert migration.land(chosen, None, old).experts_per_device.tolist() == [[1, 1]]
    assert migration.over
