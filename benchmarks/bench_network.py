"""How fast the network model is: compile, load links, price an all-to-all, share flows.

Run ``python benchmarks/bench_network.py``; it prints the best of several runs in milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import networkx as nx
import numpy as np

from moesim.hardware.collectives import all_reduce, all_to_all
from moesim.hardware.fluid import Flow, FluidNetwork
from moesim.hardware.network import Network
from moesim.hardware.traffic import Traffic


@dataclass(frozen=True)
class Machine:
    network: Network
    node_of: np.ndarray
    collective_latency_s: float = 10e-6


def two_level(nodes: int, per_node: int = 8) -> tuple[nx.DiGraph, list[str]]:
    """Nodes with a switch inside and one NIC per device; rails outside, joined by a spine."""
    graph, devices = nx.DiGraph(), []

    def connect(a: str, b: str, bandwidth: float, latency: float) -> None:
        graph.add_edge(a, b, bandwidth=bandwidth, latency=latency, link="wire")
        graph.add_edge(b, a, bandwidth=bandwidth, latency=latency, link="wire")

    for node in range(nodes):
        for slot in range(per_node):
            name = f"n{node:03d}d{slot}"
            graph.add_node(name, kind="device")
            devices.append(name)
            connect(name, f"n{node:03d}switch", 360e9, 0.3e-6)
            connect(name, f"n{node:03d}nic{slot}", 55e9, 0.5e-6)
            connect(f"n{node:03d}nic{slot}", f"rail{slot}", 48e9, 1e-6)
            connect(f"rail{slot}", "spine", 48e9 * nodes, 1e-6)
    return graph, devices


def show(what: str, run: Callable[[], object], repeat: int = 10) -> None:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    print(f"{what:72s} {min(times) * 1e3:9.3f} ms")


def collectives(nodes: int, rng: np.random.Generator) -> None:
    graph, devices = two_level(nodes)
    size = len(devices)
    show(f"compile the network of {size} devices", lambda: Network.from_graph(graph, devices), 3)
    machine = Machine(Network.from_graph(graph, devices), np.repeat(np.arange(nodes), 8))
    for layers in (1, 58):
        matrix = rng.zipf(1.5, (layers, size, size)).clip(max=4096) * 14336.0
        totals = Traffic.pooled(matrix.sum(axis=1), np.full(size, 1 / size))
        for form, traffic in (("every pair", Traffic.of_pairs(matrix)), ("totals", totals)):
            name = f"{size} ranks, {layers} layers: all-to-all, {form}"
            show(name, partial(all_to_all, machine, traffic))
    show(f"{size} ranks, 58 layers: all-reduce", lambda: all_reduce(machine, np.full(58, 1e6)))


def sharing(rng: np.random.Generator) -> None:
    network = Network.from_graph(*two_level(8))
    matrix = rng.zipf(1.5, (1, 64, 64)).clip(max=4096) * 14336.0
    coflows = [Flow(0.0, network.link_amounts(Traffic.of_pairs(matrix * f))[0]) for f in (1.0, 0.3)]
    fluid = FluidNetwork(network.bandwidth)
    show("two all-to-alls of 64 ranks share the network", lambda: fluid.finish_times(coflows))
    transfers = [
        Flow.along(network.path(int(a), int(b)), float(size))
        for a, b, size in zip(*rng.integers(0, 64, (2, 200)), rng.integers(1, 1 << 20, 200), strict=True)
    ]
    show("200 transfers share the network", lambda: fluid.finish_times(transfers), 3)


if __name__ == "__main__":
    generator = np.random.default_rng(0)
    collectives(8, generator)
    collectives(32, generator)
    sharing(generator)
