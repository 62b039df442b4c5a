from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.hardware.collectives import (
    CollectiveCost,
    all_gather,
    all_reduce,
    all_to_all,
    point_to_point,
    reduce_scatter,
)
from moesim.hardware.network import Network
from moesim.hardware.rings import ring_orders
from moesim.hardware.traffic import Traffic

NVLINK, NIC = 400e9, 50e9


@dataclass(frozen=True)
class Machine:
    graph: nx.DiGraph
    devices: list[str]
    network: Network
    node_of: np.ndarray
    collective_latency_s: float


def machine(nodes: int, per_node: int, start: float = 0.0, hop: float = 0.0) -> Machine:
    graph, devices = nx.DiGraph(), []

    def connect(a: str, b: str, bandwidth: float) -> None:
        graph.add_edge(a, b, bandwidth=bandwidth, latency=hop, link="wire")
        graph.add_edge(b, a, bandwidth=bandwidth, latency=hop, link="wire")

    for node in range(nodes):
        for slot in range(per_node):
            devices.append(f"n{node:02d}d{slot}")
            connect(devices[-1], f"n{node:02d}switch", NVLINK)
            connect(devices[-1], f"n{node:02d}nic{slot}", 2 * NIC)
            connect(f"n{node:02d}nic{slot}", "fabric", NIC)
    node_of = np.repeat(np.arange(nodes), per_node)
    return Machine(graph, devices, Network.from_graph(graph, devices), node_of, start)


def changed(
    cluster: Machine, change: Callable[[int, dict[str, float]], dict[str, float]], start: float
) -> Machine:
    graph = nx.DiGraph()
    for number, (a, b, data) in enumerate(cluster.graph.edges(data=True)):
        graph.add_edge(a, b, **data | change(number, data))
    network = Network.from_graph(graph, cluster.devices)
    return replace(cluster, graph=graph, network=network, collective_latency_s=start)


def seconds(cost: CollectiveCost) -> list[float]:
    return cost.seconds.tolist()


@pytest.mark.parametrize(("nodes", "per_node"), [(2, 1), (4, 1), (2, 8), (8, 4)])
def test_between_nodes_an_all_to_all_reaches_nodes_over_others_times_the_nic(
    nodes: int, per_node: int
) -> None:
    cluster = machine(nodes, per_node)
    size, held = nodes * per_node, float(2**30)
    equal = Traffic.of_pairs(np.full((size, size), held / size))
    cost = all_to_all(cluster, equal)
    assert held / cost.seconds[0] == pytest.approx(nodes / (nodes - 1) * NIC, rel=1e-14)
    totals = Traffic.pooled(np.full(size, held), np.full(size, 1 / size))
    assert all_to_all(cluster, totals).seconds[0] == pytest.approx(cost.seconds[0], rel=1e-12)


def test_an_all_to_all_costs_latency_hops_and_the_most_loaded_link() -> None:
    cluster = machine(2, 2, start=10e-6, hop=1e-6)
    matrix = np.zeros((3, 4, 4))
    matrix[0, 0, 1] = 4e6  # within a node: 2 links, 400 GB/s
    matrix[1, 0, 2] = matrix[1, 1, 2] = 1e6  # into one NIC: 4 links, 50 GB/s
    matrix[2, 3, 3] = 1e9  # to itself
    cost = all_to_all(cluster, Traffic.of_pairs(matrix))
    assert seconds(cost) == pytest.approx([10e-6 + 2e-6 + 10e-6, 10e-6 + 4e-6 + 40e-6, 0.0], rel=1e-12)
    assert cost.link_bytes.sum(axis=1).tolist() == [8e6, 8e6, 0.0]


@pytest.mark.parametrize("devices", [2, 3, 8])
@pytest.mark.parametrize(("collective", "factor"), [(all_gather, 1), (reduce_scatter, 1), (all_reduce, 2)])
def test_collectives_on_one_switch_follow_the_bus_bandwidth_convention(
    collective: Callable[..., CollectiveCost], factor: int, devices: int
) -> None:
    cost = collective(machine(1, devices), [1e6, 0.0, 1e9])
    expected = [factor * (devices - 1) / devices * size / NVLINK for size in (1e6, 0.0, 1e9)]
    assert seconds(cost) == pytest.approx(expected, rel=1e-12)
    assert cost.link_bytes.shape == (3, machine(1, devices).network.links)


@pytest.mark.parametrize(("nodes", "per_node"), [(2, 1), (5, 1), (2, 8), (4, 4), (3, 2)])
def test_between_nodes_rings_use_every_nic(nodes: int, per_node: int) -> None:
    size = nodes * per_node
    bus = min(NIC * per_node, NVLINK * per_node / max(per_node - 1, 1))
    cost = all_reduce(machine(nodes, per_node), 1e9)
    limit = 2 * (size - 1) / size * 1e9 / bus
    assert cost.seconds[0] <= limit * (1 + 1e-12)
    # Sending directly is never faster than what each node must take in from the others.
    assert cost.seconds[0] >= 2 * (nodes - 1) / nodes * 1e9 / (NIC * per_node) * (1 - 1e-12)
    if per_node == 1:
        assert cost.seconds[0] == pytest.approx(limit, rel=1e-12)


def test_small_messages_go_directly_and_large_ones_in_rings() -> None:
    cluster = machine(4, 2, start=1e-6, hop=1e-6)
    small, large = all_gather(cluster, [8.0, 1e9]).seconds
    assert small == pytest.approx(1e-6 + 4e-6, rel=1e-3)
    assert large == pytest.approx(1e-6 + 7 * 4e-6 + 7 / 8 * 1e9 / (2 * NIC))


def test_a_full_mesh_uses_all_its_links() -> None:
    graph = nx.DiGraph()
    names = [f"npu{i}" for i in range(8)]
    for a in names:
        for b in names:
            if a != b:
                graph.add_edge(a, b, bandwidth=25e9, latency=0.0, link="hccs")
    cluster = Machine(graph, names, Network.from_graph(graph, names), np.zeros(8, dtype=np.int64), 0.0)
    assert seconds(all_gather(cluster, 8e9)) == pytest.approx([7 / 8 * 8e9 / (7 * 25e9)], rel=1e-12)


@pytest.mark.parametrize("zigzag", [False, True])
def test_rings_visit_every_device_once_and_cross_each_nic_once(zigzag: bool) -> None:
    node_of = np.repeat(np.arange(4), 4)
    rings = ring_orders(node_of, range(16), zigzag)
    assert len(rings) == 4
    leaves, enters = [], []
    for ring in rings:
        assert sorted(ring.tolist()) == list(range(16))
        crossing = node_of[ring] != node_of[np.roll(ring, -1)]
        assert crossing.sum() == 4
        leaves.extend(ring[crossing].tolist())
        enters.extend(np.roll(ring, -1)[crossing].tolist())
        assert [device % 4 for device in ring[crossing]] == [d % 4 for d in np.roll(ring, -1)[crossing]]
    assert sorted(leaves) == sorted(enters) == list(range(16))
    assert len(ring_orders(np.array([0, 0, 0, 1]), range(4), zigzag)) == 1


def test_zigzag_rings_use_every_link_of_a_mesh_once() -> None:
    rings = ring_orders(np.zeros(8, dtype=np.int64), range(8), zigzag=True)
    steps = [step for ring in rings for step in pairwise(ring.tolist())]
    assert sorted(steps) == [(a, b) for a in range(8) for b in range(8) if a != b]


def test_a_group_leaves_other_devices_alone() -> None:
    cluster = machine(2, 4)
    cost = all_reduce(cluster, 1e6, group=[0, 2])
    assert seconds(cost) == pytest.approx([1e6 / NVLINK])
    used = {cluster.network.names[link] for link in np.flatnonzero(cost.link_bytes[0])}
    assert used == {"n00d0->n00switch", "n00d2->n00switch", "n00switch->n00d0", "n00switch->n00d2"}


def test_nothing_between_different_devices_takes_exactly_no_time() -> None:
    cluster = machine(2, 2, start=1e-5, hop=1e-6)
    assert seconds(all_to_all(cluster, Traffic.of_pairs(np.diag([1e9, 1.0, 3.0, 0.1])))) == [0.0]
    assert seconds(all_to_all(cluster, Traffic.pooled([[7.7, 0, 0, 0]], [0.3, 0, 0, 0]))) == [0.0]
    assert seconds(all_gather(cluster, 5.0, group=[1])) == [0.0]
    assert seconds(all_reduce(cluster, [0.0, 0.0])) == [0.0, 0.0]
    assert seconds(point_to_point(cluster, 1, 1, 5.0)) == [0.0]
    assert seconds(point_to_point(cluster, 0, 1, 0.0)) == [0.0]


def test_a_transfer_takes_its_path() -> None:
    cluster = machine(2, 2, start=1e-5, hop=1e-6)
    assert seconds(point_to_point(cluster, 0, 1, [4e6, 8e6])) == pytest.approx([22e-6, 32e-6])
    cost = point_to_point(cluster, 0, 3, 5e6)
    assert seconds(cost) == pytest.approx([1e-5 + 4e-6 + 100e-6])
    assert sorted(cost.link_bytes[0].tolist())[-5:] == [0.0, 5e6, 5e6, 5e6, 5e6]


def prices(cluster: Machine, rng: np.random.Generator) -> np.ndarray:
    size = cluster.network.devices
    matrix = rng.integers(0, 1 << 20, (2, size, size)) * (rng.random((2, size, size)) < 0.5)
    amounts = rng.integers(0, 1 << 24, 4).astype(float)
    costs = [
        all_to_all(cluster, Traffic.of_pairs(matrix)),
        all_to_all(cluster, Traffic.pooled(matrix[:, 0] * 64.0, np.full(size, 1 / size))),
        all_gather(cluster, amounts),
        all_reduce(cluster, amounts),
        reduce_scatter(cluster, amounts),
        point_to_point(cluster, 0, size - 1, amounts),
    ]
    return np.concatenate([cost.seconds for cost in costs])


shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))


@given(shapes, st.floats(1.0, 100.0))
@settings(max_examples=60, deadline=None)
def test_more_bandwidth_on_any_link_is_never_slower(shape: tuple[int, int, int], factor: float) -> None:
    nodes, per_node, seed = shape
    cluster = machine(nodes, per_node, start=2e-6, hop=1e-6)
    lucky = seed % cluster.graph.number_of_edges()
    better = changed(
        cluster, lambda n, data: {"bandwidth": data["bandwidth"] * (factor if n == lucky else 1)}, 2e-6
    )
    before, after = (prices(c, np.random.default_rng(seed)) for c in (cluster, better))
    assert (after <= before).all()


@given(shapes)
@settings(max_examples=60, deadline=None)
def test_twice_the_bandwidth_at_half_the_latency_takes_exactly_half(shape: tuple[int, int, int]) -> None:
    nodes, per_node, seed = shape
    cluster = machine(nodes, per_node, start=2e-6, hop=1.1e-6)
    faster = changed(
        cluster,
        lambda _, data: {"bandwidth": data["bandwidth"] * 2, "latency": data["latency"] / 2},
        cluster.collective_latency_s / 2,
    )
    before, after = (prices(c, np.random.default_rng(seed)) for c in (cluster, faster))
    np.testing.assert_array_equal(after, before / 2)


def test_impossible_requests_are_refused() -> None:
    cluster = machine(1, 2)
    with pytest.raises(InputError, match="named twice"):
        all_gather(cluster, 1.0, group=[0, 0])
    with pytest.raises(InputError, match="no device 2 in a cluster of 2"):
        point_to_point(cluster, 0, 2, 1.0)
    with pytest.raises(InputError, match="not negative"):
        all_reduce(cluster, -1.0)
