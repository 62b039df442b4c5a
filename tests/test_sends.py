"""How copies travel: nothing is lost, and nothing is sent twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.engine.sends import once_per_device, once_per_node, reached
from moesim.hardware.traffic import Traffic


def uniform(devices: int, tokens: int, top_k: int) -> Traffic:
    return Traffic.of_pairs(np.full((1, devices, devices), tokens * top_k / devices))


def test_uniform_routing_reaches_as_many_ranks_as_a_monte_carlo_says() -> None:
    sent = once_per_device(uniform(8, 4096, 8), np.full(8, 4096.0), 8)
    assert sent.outbound[0, 0] / 4096 == pytest.approx(5.28, rel=0.01)


@pytest.mark.parametrize(("nodes", "expected"), [(2, 1.99), (4, 3.60)])
def test_uniform_routing_reaches_as_many_nodes_as_a_monte_carlo_says(nodes: int, expected: float) -> None:
    devices = 8 * nodes
    node_of = np.repeat(np.arange(nodes), 8)
    sent = once_per_node(uniform(devices, 4096, 8), np.full(devices, 4096.0), 8, node_of).traffic
    assert sent.matrix is not None
    crossing = sent.matrix[0, 0, node_of != 0].sum() / 4096
    assert crossing == pytest.approx(expected * (nodes - 1) / nodes, rel=0.01)


def test_a_token_that_sends_all_copies_to_one_device_goes_once() -> None:
    copies = np.zeros((1, 4, 4))
    copies[0, 0, 2] = 10 * 8
    sent = once_per_device(Traffic.of_pairs(copies), np.full(4, 10.0), 8)
    assert sent.matrix is not None
    assert sent.matrix[0, 0, 2] == pytest.approx(10)
    assert sent.matrix.sum() == pytest.approx(10)


def test_relays_have_the_index_of_the_source() -> None:
    copies = np.zeros((1, 4, 4))
    copies[0, 1, 2] = 8.0
    sent = once_per_node(Traffic.of_pairs(copies), np.full(4, 8.0), 1, np.asarray([0, 0, 1, 1])).traffic
    assert sent.matrix is not None
    assert sent.matrix[0, 1, 3] == pytest.approx(8)
    assert sent.matrix[0, 3, 2] == pytest.approx(8)
    assert np.count_nonzero(sent.matrix) == 2


@given(st.integers(0, 10_000), st.integers(1, 8), st.floats(0, 1))
def test_never_more_messages_than_copies_or_tokens(tokens: int, top_k: int, share: float) -> None:
    copies = np.asarray(tokens * top_k * share)
    sent = float(reached(copies, np.asarray(float(tokens)), top_k))
    assert 0 <= sent <= min(float(copies), tokens) * (1 + 1e-9) + 1e-9


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 100))
def test_both_forms_of_traffic_agree(devices: int, top_k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    tokens = random.integers(1, 50, devices).astype(float)
    inbound = random.dirichlet(np.ones(devices)) * tokens.sum() * top_k
    pooled = Traffic.pooled(inbound, tokens / tokens.sum())
    dense = once_per_device(Traffic.of_pairs(pooled.dense()), tokens, top_k)
    assert once_per_device(pooled, tokens, top_k).dense() == pytest.approx(dense.dense(), rel=1e-9)
