from __future__ import annotations

import pickle
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.hardware import link_sets
from moesim.hardware.network import Network
from moesim.hardware.traffic import Traffic


def connect(
    graph: nx.DiGraph, a: str, b: str, bandwidth: float, latency: float = 1e-6, **more: object
) -> None:
    for tail, head in ((a, b), (b, a)):
        graph.add_edge(tail, head, bandwidth=bandwidth, latency=latency, link="wire", **more)


def two_level(nodes: int, per_node: int, rails: bool = False) -> tuple[nx.DiGraph, list[str]]:
    graph, devices = nx.DiGraph(), []
    for node in range(nodes):
        for slot in range(per_node):
            device = f"node{node:02d}.device{slot}"
            graph.add_node(device, kind="device")
            devices.append(device)
            connect(graph, device, f"node{node:02d}.switch", 400e9, 0.25e-6)
            connect(graph, device, f"node{node:02d}.nic{slot}", 60e9, 0.5e-6)
            connect(graph, f"node{node:02d}.nic{slot}", f"rail{slot}" if rails else "fabric", 50e9, 2e-6)
    if rails:
        for slot in range(per_node):
            connect(graph, f"rail{slot}", "spine", 50e9 * nodes, 1e-6)
    return graph, devices


def by_paths(network: Network, matrix: np.ndarray) -> np.ndarray:
    amounts = np.zeros((matrix.shape[0], network.links))
    for source in range(network.devices):
        for target in range(network.devices):
            for link in network.path(source, target):
                amounts[:, link] += matrix[:, source, target]
    return amounts


@st.composite
def networks(draw: st.DrawFn) -> Network:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from(["random", "two_level", "rails", "ring"]))
    if shape in ("two_level", "rails"):
        graph, devices = two_level(draw(st.integers(1, 4)), draw(st.integers(1, 4)), shape == "rails")
    else:
        count, switches = draw(st.integers(1, 9)), draw(st.integers(0, 4)) if shape == "random" else 0
        graph, devices = nx.DiGraph(), [f"d{i}" for i in range(count)]
        nodes = devices + [f"s{i}" for i in range(switches)]
        graph.add_nodes_from(nodes)
        for a, b in pairwise([*nodes, nodes[0]] if shape == "ring" and count > 2 else nodes):
            connect(graph, a, b, float(rng.uniform(1, 9)), float(rng.integers(0, 4)))
        for _ in range(draw(st.integers(0, 12)) if shape == "random" and len(nodes) > 1 else 0):
            a, b = rng.choice(nodes, 2, replace=False)
            connect(graph, str(a), str(b), float(rng.uniform(1, 9)), float(rng.integers(0, 4)))
    return Network.from_graph(graph, [devices[i] for i in rng.permutation(len(devices))])


@given(networks(), st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_both_forms_of_traffic_load_links_as_the_paths_say(
    network: Network, seed: int, per_layer: bool, sparse: bool
) -> None:
    rng, size = np.random.default_rng(seed), network.devices
    inbound = rng.integers(0, 1000, (3, size)) * (rng.random((3, size)) < (0.4 if sparse else 1.0))
    share = rng.random((3, size) if per_layer else size) * (rng.random(size) < (0.5 if sparse else 1.0))
    pooled = Traffic.pooled(inbound, share)
    dense = Traffic.of_pairs(pooled.dense())
    expected = by_paths(network, pooled.dense())
    limit = 1e-9 * max(1.0, float(expected.max(initial=0.0)))
    np.testing.assert_allclose(network.link_amounts(pooled), expected, rtol=1e-9, atol=limit * 1e-3)
    np.testing.assert_allclose(network.link_amounts(dense), expected, rtol=1e-9, atol=limit * 1e-3)
    np.testing.assert_array_equal(network.latency_seconds(pooled), network.latency_seconds(dense))
    np.testing.assert_array_equal(network.crossing(pooled), network.crossing(dense))
    different = ~np.eye(size, dtype=bool)
    sends = (pooled.dense() > 0) & different
    np.testing.assert_array_equal(network.crossing(dense), sends.any(axis=(1, 2)))
    worst = np.where(sends, network.hop_latency, 0.0).max(axis=(1, 2))
    np.testing.assert_array_equal(network.latency_seconds(dense), worst)


@given(networks())
@settings(max_examples=60, deadline=None)
def test_paths_are_connected_and_add_up_to_the_hop_latency(network: Network) -> None:
    ends = [name.split("->") for name in network.names]
    for source in range(network.devices):
        assert network.path(source, source) == ()
        for target in set(range(network.devices)) - {source}:
            path = network.path(source, target)
            assert all(ends[a][1] == ends[b][0] for a, b in pairwise(path))
            assert len({ends[link][0] for link in path}) == len(path) > 0
            latency = sum(network.latency[link] for link in path)
            assert network.hop_latency[source, target] == pytest.approx(latency, rel=1e-12)


@given(networks(), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_links_without_set_structure_agree_when_sets_are_too_many(network: Network, seed: int) -> None:
    inbound = np.random.default_rng(seed).random((2, network.devices))
    traffic = Traffic.pooled(inbound, np.ones(network.devices))
    before = network.link_amounts(traffic)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link_sets, "_MAX_CELLS", -1)
        plain = link_sets.LinkSets.from_routes(network._routes, network.links)
    np.testing.assert_allclose(plain.pooled(traffic.share, traffic.inbound).T, before, rtol=1e-9, atol=1e-12)


def test_switches_are_used_between_nodes_and_within() -> None:
    graph, devices = two_level(2, 2)
    network = Network.from_graph(graph, devices)
    inside = [network.names[link] for link in network.path(0, 1)]
    assert inside == ["node00.device0->node00.switch", "node00.switch->node00.device1"]
    across = [network.names[link] for link in network.path(0, 3)]
    assert across == [
        "node00.device0->node00.nic0",
        "node00.nic0->fabric",
        "fabric->node01.nic1",
        "node01.nic1->node01.device1",
    ]
    assert network.hop_latency[0, 3] == pytest.approx(5e-6)
    assert set(network.kinds) == {"wire"}


def test_devices_forward_only_where_there_is_no_other_way() -> None:
    graph, devices = two_level(2, 2, rails=True)
    network = Network.from_graph(graph, devices)
    # Over the neighbour's NIC the latency would be lower, but the neighbour is no switch.
    assert [network.names[link] for link in network.path(0, 3)][1:3] == ["node00.nic0->rail0", "rail0->spine"]
    chain = nx.DiGraph()
    connect(chain, "a", "b", 1.0)
    connect(chain, "b", "c", 1.0)
    network = Network.from_graph(chain, ["a", "b", "c"])
    assert [network.names[link] for link in network.path(0, 2)] == ["a->b", "b->c"]


def test_equally_good_paths_are_chosen_by_name_whatever_the_order_of_edges() -> None:
    chosen = set()
    for names in (["east", "west", "mid"], ["west", "mid", "east"]):
        graph = nx.DiGraph()
        for name in names:
            connect(graph, name, "b", 1.0, 0.1)
            connect(graph, "a", name, 1.0, 0.2)
        network = Network.from_graph(graph, ["a", "b"])
        chosen.add(tuple(network.names[link] for link in network.path(0, 1)))
    assert chosen == {("a->east", "east->b")}


def test_routing_cost_overrides_latency() -> None:
    graph = nx.DiGraph()
    connect(graph, "a", "fast", 1.0, 1e-6, cost=5.0)
    connect(graph, "fast", "b", 1.0, 1e-6, cost=5.0)
    connect(graph, "a", "wide", 1.0, 1e-3, cost=1.0)
    connect(graph, "wide", "b", 1.0, 1e-3, cost=1.0)
    network = Network.from_graph(graph, ["a", "b"])
    assert network.hop_latency[0, 1] == pytest.approx(2e-3)


def test_a_collective_ends_when_its_most_loaded_link_has_drained() -> None:
    graph = nx.DiGraph()
    connect(graph, "a", "switch", 10.0)
    connect(graph, "b", "switch", 5.0)
    connect(graph, "c", "switch", 4.0)
    network = Network.from_graph(graph, ["a", "b", "c"])
    traffic = Traffic.of_pairs([[7, 10, 20], [0, 9, 10], [0, 0, 3]])
    # a sends 30 at 10/s, b receives 10 at 5/s, c receives 30 at 4/s: c ends last.
    assert network.drain_seconds(traffic).tolist() == [7.5]
    assert network.drain_seconds(traffic.scaled(0.0)).tolist() == [0.0]
    assert network.latency_seconds(Traffic.of_pairs(np.diag([5.0, 5.0, 5.0]))).tolist() == [0.0]


def test_one_device_alone_has_an_empty_network() -> None:
    graph = nx.DiGraph()
    graph.add_node("only", kind="device")
    network = Network.from_graph(graph, ["only"])
    traffic = Traffic.pooled([[5.0], [0.0]], [1.0])
    assert network.link_amounts(traffic).shape == (2, 0)
    assert network.drain_seconds(traffic).tolist() == [0.0, 0.0]
    assert network.latency_seconds(traffic).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, float("nan"), float("inf")])
def test_a_link_without_bandwidth_is_refused_by_name(bandwidth: float) -> None:
    graph = nx.DiGraph()
    connect(graph, "left", "right", bandwidth)
    with pytest.raises(InputError, match=r"'(left|right)' to '(left|right)' has no usable bandwidth"):
        Network.from_graph(graph, ["left", "right"])


def test_a_link_with_an_impossible_latency_is_refused() -> None:
    graph = nx.DiGraph()
    connect(graph, "left", "right", 1.0, -1.0)
    with pytest.raises(InputError, match="latency -1 s"):
        Network.from_graph(graph, ["left", "right"])


def test_devices_that_cannot_reach_each_other_are_named() -> None:
    graph = nx.DiGraph()
    connect(graph, "a", "b", 1.0)
    graph.add_edge("c", "a", bandwidth=1.0, latency=0.0)
    with pytest.raises(InputError, match="no path from 'a' to 'c'"):
        Network.from_graph(graph, ["a", "b", "c"])
    with pytest.raises(InputError, match="'nowhere' is not a node"):
        Network.from_graph(graph, ["a", "nowhere"])
    with pytest.raises(InputError, match="named twice"):
        Network.from_graph(graph, ["a", "a"])


def test_a_network_survives_pickling() -> None:
    network = Network.from_graph(*two_level(2, 2))
    traffic = Traffic.of_pairs(np.arange(16.0).reshape(4, 4))
    copy = pickle.loads(pickle.dumps(network))
    np.testing.assert_array_equal(copy.link_amounts(traffic), network.link_amounts(traffic))
