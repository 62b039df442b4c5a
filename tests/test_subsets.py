"""Prophet-like dispatch gives hot experts to the subsets of devices that its model finds best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.policies.dispatch.prophet import Prophet, ProphetParameters
from moesim.policies.dispatch.subsets import LayerModel, Work, plan_subsets
from moesim.policies.past import Past
from moesim.policies.placement.blocks import Contiguous
from moesim.testing import make_load, make_view


def model(expert_bytes: float, devices: int, token_bytes: float = 0.0) -> LayerModel:
    return LayerModel(np.ones(devices), token_bytes, expert_bytes, 1.0)


def subsets(counts, expert_bytes, *, homes=None, room=99, most=99, token_bytes=0.0):
    table = np.asarray(counts)
    devices, experts = table.shape
    where = np.arange(experts) % devices if homes is None else np.asarray(homes)
    held = np.zeros((devices, experts), dtype=bool)
    held[where, np.arange(experts)] = True
    found = plan_subsets(table, where, held, model(expert_bytes, devices, token_bytes), room, most)
    return [(int(e), int(d)) for e, d in zip(*np.nonzero(found.T), strict=True)]


def test_the_devices_with_most_tokens_for_an_expert_get_it():
    # Expert 0 has 40 + 30 + 20 + 1 copies. Weights of 15 are worth 30 copies and 20, not the last one.
    assert subsets([[40, 0, 0, 0], [30, 0, 0, 0], [20, 0, 0, 0], [1, 0, 0, 0]], 15) == [(0, 1), (0, 2)]


def test_nothing_is_given_that_costs_more_than_it_saves():
    assert subsets([[40, 0], [10, 30]], 10) == []
    assert subsets([[40, 0], [10, 30]], 9) == [(0, 1)]


def test_copies_that_stay_save_the_way_both_ways():
    assert subsets([[40, 0], [10, 30]], 29, token_bytes=1.0) == [(0, 1)]
    assert subsets([[40, 0], [10, 30]], 30, token_bytes=1.0) == []


def test_experts_are_given_until_the_time_rises():
    counts = [[0, 0, 30], [20, 0, 0], [0, 19, 0]]
    homes = [0, 0, 0]
    assert subsets(counts, 1, homes=homes) == [(0, 1), (1, 2)]
    assert subsets(counts, 1, homes=homes, most=1) == [(0, 1)]
    assert subsets(counts, 1, homes=homes, room=1) == [(0, 1), (1, 2)]
    assert subsets(counts, 1, homes=homes, room=0) == []


@settings(max_examples=60)
@given(st.integers(2, 6), st.integers(1, 8), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 5.0, 60.0]))
def test_the_modelled_time_never_rises(devices, experts, seed, expert_bytes):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 40, (devices, experts)) * rng.choice([1, 6], experts)
    homes = rng.integers(0, devices, experts)
    held = np.zeros((devices, experts), dtype=bool)
    held[homes, np.arange(experts)] = True
    rates = model(expert_bytes, devices, 1.0)
    given_ = plan_subsets(counts, homes, held, rates, experts, experts)
    assert not (given_ & held).any()
    times = []
    for stays in (held, held | given_):
        pairs = np.zeros((devices, devices))
        for device, expert in np.ndindex(devices, experts):
            target = device if stays[device, expert] else homes[expert]
            pairs[device, target] += counts[device, expert]
        weights = np.zeros((devices, devices))
        for device, expert in zip(*np.nonzero(stays & ~held), strict=True):
            weights[homes[expert], device] += expert_bytes
        own = pairs.diagonal()
        work = Work(
            pairs.sum(axis=0),
            pairs.sum(axis=0) - own,
            pairs.sum(axis=1) - own,
            weights.sum(axis=0),
            weights.sum(axis=1),
        )
        times.append(float(rates.seconds(work)))
    assert times[1] <= times[0] + 1e-9


def plan(counts, past, **parameters):
    devices, experts = np.asarray(counts).shape[1:]
    view = replace(make_view(devices, experts, past=past), flops=1.0, expert_flops=1.0)
    placement = Contiguous().place(np.zeros((len(counts), experts), dtype=np.int64), view)
    return Prophet(ProphetParameters(**parameters)).plan(make_load(counts, devices), placement, view)


def test_copies_of_a_mispredicted_expert_go_home():
    counts = [[[50, 0, 0], [50, 0, 0], [50, 0, 0]]]
    wrong = plan(counts, Past.of_counts([[0, 0, 150]]))
    assert set(wrong.moves.expert.tolist()) == {2}
    assert wrong.traffic.dense()[0].tolist() == [[50, 0, 0]] * 3
    right = plan(counts, Past.of_counts([[150, 0, 0]]))
    assert set(right.moves.expert.tolist()) == {0}
    assert right.traffic.dense()[0].tolist() == np.diag([50, 50, 50]).tolist()


@pytest.mark.parametrize("pooled", [True, False])
def test_subsets_of_all_layers_are_chosen_apart(pooled):
    counts = np.zeros((2, 2, 2), dtype=np.int64)
    counts[0, :, 0] = counts[1, :, 1] = 100
    if pooled:
        counts = counts.sum(axis=1, keepdims=True)
    load = make_load(counts, 2)
    load = replace(load, tokens=np.asarray([100, 100]))
    view = replace(make_view(2, 2), flops=1.0, expert_flops=1.0)
    placement = Contiguous().place(np.zeros((2, 2), dtype=np.int64), view)
    found = Prophet(ProphetParameters(predictor="oracle")).plan(load, placement, view)
    rows = zip(
        found.moves.layer.tolist(), found.moves.expert.tolist(), found.moves.target.tolist(), strict=True
    )
    assert list(rows) == [(0, 0, 1), (1, 1, 0)]
    assert found.assignments.per_device(2, 2).tolist() == [[100, 100]] * 2
