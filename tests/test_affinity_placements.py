"""Placements by load and by affinity: ExFlow, Occult, GRACE and greedy do what they claim."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.policies import create_placement
from moesim.policies.past import Past
from moesim.policies.placement.affinity import Chain, search
from moesim.policies.placement.affinity_exact import best_chain
from moesim.policies.placement.grace import score
from moesim.policies.placement.grouping import inside, refine
from moesim.policies.placement.layout import contiguous, slots_of
from moesim.routing.affinity import Affinity
from moesim.testing import make_view

RATES = {"inside_bandwidth": 9e11, "between_bandwidth": 1e11}


def device_of(placement):
    """Return the device of each expert of a placement without copies, int64 [layers, experts]."""
    layers, devices, _ = placement.slots.shape
    found = np.full((layers, placement.experts), -1)
    for layer, device in product(range(layers), range(devices)):
        held = placement.slots[layer, device]
        found[layer, held[held >= 0]] = device
    return found


def recorded(ids, experts, view):
    """Give a machine the past of recorded tokens, int64 [tokens, layers, top_k]; also its counts."""
    counts = np.stack([np.bincount(layer.ravel(), minlength=experts) for layer in ids.transpose(1, 0, 2)])
    known = Affinity.of_tokens(ids, experts)
    past = Past(Past.of_counts(counts).windows_of, lambda: (known.together, known.onward))
    return counts, replace(view, past=past, top_k=ids.shape[2], **RATES)


def random_ids(seed, experts, layers, tokens=60, top_k=2):
    rng = np.random.default_rng(seed)
    share = rng.gamma(0.5, 1.0, experts) + 0.01
    keys = rng.random((tokens, layers, experts)) ** (1 / share)
    return np.argsort(-keys, axis=2)[:, :, :top_k]


cases = st.tuples(
    st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3)
)


@settings(max_examples=60, deadline=None)
@given(cases)
def test_affinity_placements_are_never_worse_than_blocks(case):
    seed, experts, layers, devices, nodes = case
    view = make_view(devices, experts, nodes=min(nodes, devices), interleaved=bool(seed % 2))
    counts, view = recorded(random_ids(seed, experts, layers), experts, view)
    blocks = device_of(create_placement("contiguous").place(counts, view))
    exflow = create_placement("exflow")
    chain = exflow.chain(counts, view)
    assert chain.score(device_of(exflow.place(counts, view))) >= chain.score(blocks) - 1e-6
    occult = device_of(create_placement("occult").place(counts, view))
    grace = device_of(create_placement("grace", {"redundant": 0}).place(counts, view))
    for weight, block, grouped, spread in zip(view.past.together, blocks, occult, grace, strict=True):
        assert inside(weight, grouped) >= inside(weight, block)
        assert score(weight, spread, view) >= score(weight, block, view) - 1e-6


def brute_chain(chain):
    experts, devices = chain.experts, chain.node_of.size
    ways = [
        np.asarray(way)
        for way in product(range(devices), repeat=experts)
        if np.bincount(way, minlength=devices).tolist() == chain.room.tolist()
    ]
    return max(chain.score(np.stack(choice)) for choice in product(ways, repeat=chain.layers))


@pytest.mark.parametrize(
    ("experts", "node_of", "layers"),
    [
        (4, [0, 0], 3),
        (4, [0, 0, 1, 1], 3),
        (4, [0, 1, 0, 1], 2),
        (5, [0, 0], 3),
        (6, [0, 1, 2], 2),
        (4, [0, 0, 1], 3),
    ],
)
def test_small_chains_are_the_best_of_all(experts, node_of, layers):
    rng = np.random.default_rng(experts)
    for near in (0.0, 0.7, 1.0):
        onward = rng.integers(0, 40, (layers - 1, experts, experts)).astype(float)
        chain = Chain(onward, np.asarray(node_of), near)
        found = best_chain(chain)
        assert found is not None
        assert chain.score(found) == pytest.approx(brute_chain(chain))
        assert chain.score(search(chain)) <= chain.score(found) + 1e-9


def test_exflow_follows_tokens_from_layer_to_layer():
    # Every token goes from expert e to expert 5e of the next layer, modulo 16: no hop is needed.
    start = np.arange(16).repeat(10)
    ids = np.stack([start * 5**layer % 16 for layer in range(4)], axis=1)[:, :, np.newaxis]
    counts, view = recorded(ids, 16, make_view(4, 16, nodes=2))
    placed = create_placement("exflow").place(counts, view)
    assert device_of(placed)[np.arange(4), ids[:, :, 0]].std(axis=1).max() == 0
    assert placed.notes[0].startswith("exflow: 100.0 % of next experts on the same device, 100.0 %")


def copies_per_token(ids, devices):
    """Count the devices that each token is sent to, on average over tokens and layers."""
    tokens, layers, _ = ids.shape
    sent = [set(devices[layer, ids[token, layer]]) for token in range(tokens) for layer in range(layers)]
    return sum(map(len, sent)) / len(sent)


@pytest.mark.parametrize(
    ("name", "parameters"), [("occult", {}), ("occult", {"refine": False}), ("grace", {"redundant": 0})]
)
def test_experts_used_together_share_a_device(name, parameters):
    # Four topics of four experts each, scattered over the numbers; a token stays with its topic.
    rng = np.random.default_rng(3)
    topics = rng.permutation(16).reshape(4, 4)
    ids = np.stack([rng.permutation(topics[t % 4])[:3] for t in range(400)])[:, np.newaxis]
    counts, view = recorded(ids, 16, make_view(4, 16, nodes=2))
    blocks = create_placement("contiguous").place(counts, view)
    placed = create_placement(name, parameters).place(counts, view)
    assert copies_per_token(ids, device_of(placed)) == 1.0 < copies_per_token(ids, device_of(blocks))


def test_grace_keeps_what_no_device_holds_in_a_node():
    # Two topics of four experts on four devices of two: each topic has a node.
    rng = np.random.default_rng(8)
    ids = np.stack([4 * (t % 2) + rng.permutation(4)[:2] for t in range(300)])[:, np.newaxis] * 5 % 8
    counts, view = recorded(ids, 8, make_view(4, 8, nodes=2, interleaved=True))
    placed = device_of(create_placement("grace", {"redundant": 0, "spread": 0}).place(counts, view))
    assert copies_per_token(ids, view.node_of[placed]) == 1.0


def test_grace_groups_may_differ_in_size_within_memory():
    weight = np.zeros((1, 6, 6))
    weight[0, :4, :4] = 10.0
    weight[0, np.arange(6), np.arange(6)] = 0.0
    past = Past(
        Past.of_counts(np.ones((1, 6), dtype=np.int64)).windows_of, lambda: (weight, np.zeros((0, 6, 6)))
    )
    for free, sizes in ((5, [2, 4]), (0, [3, 3])):
        view = replace(make_view(2, 6, free_expert_slots=free), past=past, **RATES)
        placed = create_placement("grace", {"redundant": 0, "spread": 1}).place(
            np.ones((1, 6), dtype=np.int64), view
        )
        assert sorted(placed.experts_per_device[0].tolist()) == sizes


def test_grace_copies_hot_experts_to_idle_devices():
    counts = np.asarray([[900, 10, 10, 10, 10, 10, 10, 10]])
    view = make_view(4, 8)
    placed = create_placement("grace").place(counts, view)
    share = counts[0] / placed.replicas[0]
    busiest = max(share[held[held >= 0]].sum() for held in placed.slots[0])
    assert placed.replicas[0, 0] == 4
    assert busiest < 300
    assert create_placement("grace").place(counts, replace(view, free_expert_slots=0)).replicas.max() == 1


def test_refining_swaps_until_nothing_helps():
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 20, (6, 6)).astype(float)
    weight = weight + weight.T
    np.fill_diagonal(weight, 0.0)
    found = refine(weight, np.asarray([0, 0, 0, 1, 1, 1]), 6, 6, 2)
    best = 0.0
    for group in combinations(range(6), 3):
        other = np.isin(np.arange(6), group).astype(np.int64)
        best = max(best, inside(weight, other))
    assert np.bincount(found).tolist() == [3, 3]
    for one, two in product(np.flatnonzero(found == 0), np.flatnonzero(found == 1)):
        swapped = found.copy()
        swapped[[one, two]] = 1, 0
        assert inside(weight, swapped) <= inside(weight, found) <= best


def carried(placement, counts, speed):
    share = counts / placement.replicas
    return (
        np.asarray(
            [[share[la][held[held >= 0]].sum() for held in layer] for la, layer in enumerate(placement.slots)]
        )
        / speed
    )


def test_greedy_gives_the_heaviest_to_the_least_loaded():
    placed = create_placement("greedy").place(np.asarray([[7, 1, 6, 5, 4, 1]]), make_view(2, 6))
    assert placed.slots.tolist() == [[[0, 4, 1], [2, 3, 5]]]
    freely = create_placement("greedy", {"counts": "memory"}).place(
        np.asarray([[9, 1, 1, 1, 1, 1]]), make_view(2, 6)
    )
    assert freely.slots.tolist() == [[[0, -1, -1, -1, -1], [1, 2, 3, 4, 5]]]
    tight = create_placement("greedy", {"counts": "memory"}).place(
        np.asarray([[9, 1, 1, 1, 1, 1]]), make_view(2, 6, free_expert_slots=1)
    )
    assert tight.experts_per_device.tolist() == [[2, 4]]


def test_greedy_regards_speeds():
    counts = np.random.default_rng(1).integers(1, 100, (3, 32))
    speed = np.asarray([1.0, 1.0, 0.5, 0.25])
    view = replace(make_view(4, 32), speed=speed)
    aware = create_placement("greedy", {"counts": "memory"}).place(counts, view)
    blind = create_placement("greedy", {"counts": "memory"}).place(counts, make_view(4, 32))
    assert carried(aware, counts, speed).max() < 0.7 * carried(blind, counts, speed).max()
    # Longest processing time first ends within twice the least possible (Gonzalez, Ibarra, Sahni 1977).
    assert (carried(aware, counts, speed).max(axis=1) <= 2 * counts.sum(axis=1) / speed.sum()).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 6), st.integers(0, 9))
def test_greedy_copies_hot_experts_apart(seed, experts, devices, redundant):
    counts = np.random.default_rng(seed).integers(0, 100, (2, experts))
    placed = create_placement("greedy", {"redundant": redundant}).place(counts, make_view(devices, experts))
    assert placed.replicas.sum(axis=1).tolist() == [experts + redundant] * 2
    assert int(np.ptp(placed.experts_per_device, axis=1).max()) <= 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("greedy", "greedy: 9 redundant experts need 7 slots .* holds 5 .*at most 4 fit"),
        ("grace", "at most 4 fit"),
    ],
)
def test_copies_that_do_not_fit_are_refused(name, words):
    view = make_view(4, 16, free_expert_slots=1)
    with pytest.raises(InputError, match=words):
        create_placement(name, {"redundant": 9}).place(np.ones((1, 16), dtype=np.int64), view)


def test_devices_of_experts_become_slots():
    assert slots_of(np.asarray([[1, 0, 1]]), 2).tolist() == [[[1, -1], [0, 2]]]
    assert contiguous(5, 2).tolist() == [0, 0, 0, 1, 1]
