"""Placements that start from the one in force: kept slots, few updates, FlexMoE's moves; EPLB over time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.engine.migration import updates
from moesim.errors import InputError
from moesim.policies.base import ClusterView
from moesim.policies.past import Past
from moesim.policies.placement.eplb_online import EplbOnline, EplbOnlineParameters
from moesim.policies.placement.eplb_policy import Eplb, EplbParameters
from moesim.policies.placement.eplb_vec import (
    EplbVec,
    EplbVecParameters,
    replicate_over_time,
    serpentine,
)
from moesim.policies.placement.flexmoe import FlexMoe, FlexMoeParameters
from moesim.policies.placement.kept_slots import reordered
from moesim.policies.plan import Placement
from moesim.testing import make_view


def busiest(placement: Placement, loads: np.ndarray) -> np.ndarray:
    """Return the load of the busiest device, [layers]."""
    share = np.concatenate([loads / placement.replicas, np.zeros((len(loads), 1))], axis=1)
    rows = np.arange(len(loads))[:, np.newaxis, np.newaxis]
    return share[rows, placement.slots].sum(axis=2).max(axis=1)


def after(view: ClusterView, placement: Placement, loads: np.ndarray) -> ClusterView:
    return replace(view, past=Past.of_counts(loads, 1, placement))


@st.composite
def drifts(draw) -> tuple[ClusterView, np.ndarray, np.ndarray]:
    """Draw a machine with loads before and after a drift."""
    devices, each = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    nodes = draw(st.sampled_from([n for n in (1, 2, 3) if devices % n == 0]))
    experts = devices * each
    view = make_view(devices, experts, nodes=nodes, groups=nodes, interleaved=draw(st.booleans()))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    loads = rng.pareto(1.0, size=(2, 3, experts)) * 100
    return view, *loads.astype(np.int64)


def changed(old: Placement, new: Placement) -> np.ndarray:
    """Return the slots of each device that are filled anew, over all layers [devices]."""
    return ((old.slots != new.slots) & (new.slots >= 0)).sum(axis=(0, 2))


def test_experts_keep_their_slots_and_newcomers_fill_the_others_in_order() -> None:
    old = np.asarray([[4, 7, 7, 2], [0, 1, 2, 3]])
    new = np.asarray([[7, 5, 2, 6], [3, 2, 1, 0]])
    assert reordered(new, old).tolist() == [[5, 7, 6, 2], [0, 1, 2, 3]]


@given(drifts())
def test_kept_slots_hold_the_same_experts_and_never_change_more(case) -> None:
    view, before, now = case
    plain, kept = Eplb(), Eplb(EplbParameters(keep_slots=True))
    old = plain.place(before, view)
    fresh = after(view, old, now)
    free, orderly = plain.place(now, fresh), kept.place(now, fresh)
    assert (np.sort(free.slots, axis=2) == np.sort(orderly.slots, axis=2)).all()
    assert (changed(old, orderly) <= changed(old, free)).all()
    moves = updates(old, orderly, view.node_of)
    # A copy inside a device is made only for an expert that has more slots there than before.
    inside = np.flatnonzero(moves.source == moves.target)
    for layer, expert, device in zip(
        moves.layer[inside], moves.expert[inside], moves.target[inside], strict=True
    ):
        held = [(one.slots[layer, device] == expert).sum() for one in (old, orderly)]
        assert held[1] > held[0]
    away = updates(old, free, view.node_of)
    assert (moves.source != moves.target).sum() == (away.source != away.target).sum()


def test_a_copy_goes_where_it_lowers_the_sum_of_the_largest_loads() -> None:
    # A copy of expert 0 leaves 6 + 9, of expert 1 10 + 6, of expert 2 10 + 9; in all, expert 2 has most.
    steps = np.asarray([[[10.0, 0.0, 6.0]], [[0.0, 9.0, 6.0]]])
    items, count = replicate_over_time(steps, np.arange(3)[np.newaxis] * 1e-4, 4)
    assert items.tolist() == [[0, 1, 2, 0]]
    assert count.tolist() == [[2, 1, 1]]
    view = make_view(2, 3)
    known = Past(lambda n: steps[:n].astype(np.int64), None)
    sums = steps.sum(axis=0).astype(np.int64)
    over_time = EplbVec(EplbVecParameters(windows=2, redundant=1)).place(sums, replace(view, past=known))
    assert over_time.replicas.tolist() == [[2, 1, 1]]
    assert Eplb(EplbParameters(redundant=1)).place(sums, view).replicas.tolist() == [[1, 1, 2]]


def test_of_equal_experts_the_last_one_counts_as_busiest() -> None:
    items, _ = replicate_over_time(np.full((1, 1, 3), 5.0), np.arange(3)[np.newaxis] * 1e-4, 5)
    assert items.tolist() == [[0, 1, 2, 2, 1]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 6), st.integers(0, 6))
def test_copies_over_time_are_those_of_trying_every_expert(seed, steps, experts, extra) -> None:
    loads = np.random.default_rng(seed).integers(0, 1000, size=(steps, 1, experts)).astype(np.float64)
    tie = np.arange(experts)[np.newaxis] * 1e-4
    items, _ = replicate_over_time(loads, tie, experts + extra)
    count = np.ones(experts)
    for chosen in items[0, experts:]:
        sums = []
        for expert in range(experts):
            total = 0.0
            for load in loads[:, 0]:
                score = (load + tie[0]) / count
                if score.argmax() == expert:
                    score[expert] = load[expert] / (count[expert] + 1)
                total += score.max()
            sums.append(total)
        assert sums[chosen] <= min(sums) + 1e-9
        count[chosen] += 1


def test_copies_are_dealt_back_and_forth() -> None:
    loads = np.asarray([[9.0, 7.0, 5.0, 4.0, 2.0, 1.0]])
    assert serpentine(loads, np.asarray([3, 3])).tolist() == [[0, 3, 4, 1, 2, 5]]
    assert serpentine(loads[:, :5], np.asarray([2, 3])).tolist() == [[0, 3, 1, 2, 4]]
    assert serpentine(loads[:, ::-1], np.ones(6, dtype=np.int64)).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_groups_stay_in_their_node_over_time() -> None:
    view = make_view(4, 16, nodes=2, groups=4)
    loads = np.random.default_rng(0).integers(1, 99, size=(2, 16))
    placed = EplbVec(EplbVecParameters(mode="hierarchical")).place(loads, view)
    node = view.node_of[np.nonzero(placed.slots >= 0)[1]]
    group = placed.slots[placed.slots >= 0] // 4
    layer = np.nonzero(placed.slots >= 0)[0]
    homes = {(la, g, n) for la, g, n in zip(layer, group, node, strict=True)}
    assert len(homes) == 2 * 4


@pytest.mark.parametrize("policy", [Eplb, EplbVec, EplbOnline])
def test_dead_devices_hold_nothing_and_the_others_are_balanced_as_if_alone(policy) -> None:
    loads = np.random.default_rng(1).integers(1, 999, size=(2, 12))
    made = policy(policy.parameters_type(dead=[1, 4], redundant=12, mode="global"))
    placed = made.place(loads, make_view(6, 12, nodes=2, groups=2))
    alive = [0, 2, 3, 5]
    alone = policy(policy.parameters_type(redundant=4, mode="global")).place(loads, make_view(4, 12))
    assert (placed.slots[:, [1, 4]] == -1).all()
    assert (placed.slots[:, alive] == alone.slots).all()


@pytest.mark.parametrize(
    ("dead", "message"), [([6], "device 6 cannot be dead"), ([0, 3], "8 slots are left for 12 experts")]
)
def test_too_many_or_unknown_dead_devices_are_refused(dead, message) -> None:
    with pytest.raises(InputError, match=message):
        Eplb(EplbParameters(dead=dead, redundant=0)).place(np.ones((1, 12), dtype=np.int64), make_view(6, 12))


@given(drifts())
def test_online_updates_are_as_good_as_eplb_with_the_fewest_updates(case) -> None:
    view, before, now = case
    old = Eplb().place(before, view)
    fresh = after(view, old, now)
    online = EplbOnline().place(now, fresh)
    kept = Eplb(EplbParameters(keep_slots=True)).place(now, fresh)
    assert (busiest(online, now) <= np.minimum(busiest(kept, now), busiest(old, now)) + 1e-3).all()
    assert changed(old, online).sum() <= changed(old, kept).sum()
    again = EplbOnline().place(now, after(view, online, now))
    assert (again.slots == online.slots).all()


@given(drifts(), st.integers(1, 5))
def test_online_updates_keep_to_their_budget_and_never_harm(case, budget) -> None:
    view, before, now = case
    policy = EplbOnline(EplbOnlineParameters(updates=budget))
    old = policy.place(before, view)
    new = policy.place(now, after(view, old, now))
    assert changed(old, new).max() <= budget
    assert (busiest(new, now) <= busiest(old, now)).all()


def test_online_updates_arrive_over_several_refreshes() -> None:
    rng = np.random.default_rng(3)
    before, now = (rng.pareto(1.0, size=(4, 32)) * 1000 for _ in range(2))
    before, now = before.astype(np.int64), now.astype(np.int64)
    view = make_view(8, 32)
    policy = EplbOnline(EplbOnlineParameters(updates=4))
    placement = first = policy.place(before, view)
    for _ in range(8):
        placement = policy.place(now, after(view, placement, now))
    target = EplbOnline().place(now, after(view, first, now))
    assert busiest(first, now).sum() > 1.3 * busiest(target, now).sum()
    assert busiest(placement, now).sum() < 1.1 * busiest(target, now).sum()


FAST = {"expert_flops": 1e9, "flops": 1e12, "inside_bandwidth": 1e9}
"""A copy takes 1 ms, loading an expert of 1 MiB about 1 ms."""


def test_flexmoe_gives_a_hot_expert_a_copy_where_there_is_room() -> None:
    view = replace(make_view(2, 4), **FAST)
    old = Placement(np.asarray([[[0, 1, -1], [2, 3, -1]]]), 4)
    loads = np.asarray([[100, 10, 5, 5]])
    new = FlexMoe().place(loads, after(view, old, loads))
    assert new.slots.tolist() == [[[0, 1, -1], [2, 3, 0]]]


def test_flexmoe_swaps_experts_where_copies_have_no_room() -> None:
    view = replace(make_view(2, 4), **FAST)
    policy = FlexMoe(FlexMoeParameters(redundant=0))
    old = Placement(np.asarray([[[0, 1], [2, 3]]]), 4)
    loads = np.asarray([[50, 50, 10, 10]])
    new = policy.place(loads, after(view, old, loads))
    assert sorted(map(sorted, new.slots[0].tolist())) in ([[0, 2], [1, 3]], [[0, 3], [1, 2]])


@pytest.mark.parametrize("change", [{"horizon": 0.0}, {"threshold": 3.0}])
def test_flexmoe_leaves_what_is_not_worth_moving(change) -> None:
    view = replace(make_view(2, 4), **FAST)
    old = Placement(np.asarray([[[0, 1, -1], [2, 3, -1]]]), 4)
    loads = np.asarray([[100, 10, 5, 5]])
    new = FlexMoe(FlexMoeParameters(**change)).place(loads, after(view, old, loads))
    assert (new.slots == old.slots).all()


def test_flexmoe_weighs_gain_against_the_time_to_load() -> None:
    old = Placement(np.asarray([[[0, 1, -1], [2, 3, -1]]]), 4)
    loads = np.asarray([[100, 10, 5, 5]])
    slow, fast = (
        FlexMoe().place(
            loads, after(replace(make_view(2, 4), **FAST | {"inside_bandwidth": rate}), old, loads)
        )
        for rate in (2e7, 4e7)
    )
    # The copy spares the busiest device 50 ms and takes 52 or 26 ms to load.
    assert (slow.slots == old.slots).all()
    assert not (fast.slots == old.slots).all()


@given(drifts())
def test_flexmoe_never_makes_the_busiest_device_busier(case) -> None:
    view, before, now = case
    policy = FlexMoe()
    old = policy.place(before, view)
    new = policy.place(now, after(view, old, now))
    assert (busiest(new, now) <= busiest(old, now) * (1 + 1e-9)).all()
    assert (new.replicas >= 1).all()
