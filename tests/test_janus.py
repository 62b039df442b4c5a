"""Janus fetches experts where that moves fewer bytes, once per node."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.policies.dispatch.fetching import fetch_once_per_node
from moesim.policies.dispatch.janus import Janus, JanusParameters
from moesim.policies.dispatch.standard import Standard
from moesim.policies.placement.blocks import Contiguous
from moesim.policies.plan import Placement
from moesim.testing import check_dispatch_policy, make_load, make_view


def plan(counts, view, **parameters):
    experts = np.asarray(counts).shape[2]
    placement = Contiguous().place(np.zeros((len(counts), experts), dtype=np.int64), view)
    return Janus(JanusParameters(**parameters)).plan(make_load(counts, view.devices), placement, view)


# One copy each way is 2 KiB, an expert 1 MiB: 512 remote copies weigh as much as an expert.
@pytest.mark.parametrize(("copies", "fetches"), [(512, False), (513, True)])
def test_the_fewer_bytes_move(copies, fetches):
    found = plan([[[0, copies], [0, 5]]], make_view(2, 2))
    assert len(found.moves) == int(fetches)
    expected = [[copies, 0], [0, 5]] if fetches else [[0, copies], [0, 5]]
    assert found.traffic.dense()[0].tolist() == expected


def test_each_layer_chooses_for_itself():
    found = plan([[[0, 600], [0, 0]], [[0, 6], [0, 0]]], make_view(2, 2))
    assert found.moves.layer.tolist() == [0]
    assert found.planned.tolist() == [True, True]


def test_an_expert_crosses_to_a_node_once():
    # Devices 0, 1 | 2, 3. Expert 0 stands on device 0; 1, 2 and 3 need it.
    need = np.zeros((1, 4, 2), dtype=bool)
    held = np.zeros_like(need)
    need[0, 1:, 0] = held[0, 0, 0] = held[0, 3, 1] = True
    found = fetch_once_per_node(need, held, np.asarray([[0, 3]]), np.asarray([0, 0, 1, 1]))
    moves = zip(found.moves.source.tolist(), found.moves.target.tolist(), strict=True)
    assert sorted(moves) == [(0, 1), (0, 2), (2, 3)]
    assert found.crossing.tolist() == [1]
    assert found.inside.tolist() == [2]


def test_experts_of_a_node_take_turns_in_who_receives():
    need = np.zeros((1, 4, 2), dtype=bool)
    held = np.zeros_like(need)
    held[0, 0] = True
    need[0, 2:] = True
    found = fetch_once_per_node(need, held, np.zeros((1, 2), dtype=np.int64), np.asarray([0, 0, 1, 1]))
    crossing = found.moves.source == 0
    assert sorted(found.moves.target[crossing].tolist()) == [2, 3]


def test_replicas_of_the_own_node_are_used():
    view = make_view(4, 2, nodes=2)
    placement = Placement(np.asarray([[[0, -1], [1, -1], [0, -1], [1, -1]]]), 2)
    counts = [[[0, 0], [900, 0], [0, 0], [900, 0]]]
    found = Janus(JanusParameters(bytes="all")).plan(make_load(counts, 4), placement, view)
    moves = zip(found.moves.source.tolist(), found.moves.target.tolist(), strict=True)
    assert sorted(moves) == [(0, 1), (2, 3)]


def test_only_bytes_between_nodes_count_unless_told():
    # 600 copies inside the node would be worth a fetch; none cross.
    counts = [[[0, 600, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]
    view = make_view(4, 4, nodes=2)
    assert len(plan(counts, view).moves) == 0
    assert len(plan(counts, view, bytes="all").moves) == 1


@pytest.mark.parametrize("pooled", [True, False])
def test_layers_that_need_more_experts_than_fit_send_tokens(pooled):
    counts = np.full((1, 4, 8), 5000)
    if pooled:
        counts = counts.sum(axis=1, keepdims=True)
    for room, fetches in ((5, False), (6, True)):
        view = make_view(4, 8, free_expert_slots=room)
        found = plan(counts, view)
        assert len(found.moves) == (24 if fetches else 0)
        placement = Contiguous().place(np.zeros((1, 8), dtype=np.int64), view)
        standard = Standard().plan(make_load(counts, 4), placement, view)
        assert fetches or (found.traffic.dense() == standard.traffic.dense()).all()


def test_wrong_predictions_still_give_whole_plans():
    check_dispatch_policy(Janus(JanusParameters(factor=1e6, predictor="distribution")))
