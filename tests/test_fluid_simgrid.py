"""Finish times beside those of SimGrid's fluid model, where its Python binding can be imported.

SimGrid 3 and 4 both do. The PyPI package is compiled on installation and needs CMake, Boost and a pybind11
before 3.0 (``pip install 'pybind11<3'``, then ``pip install --no-build-isolation simgrid``); Debian has
``python3-simgrid``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from moesim.hardware.fluid import Flow, FluidNetwork
from moesim.hardware.network import Network

RUNNER = Path(__file__).resolve().parents[1] / "benchmarks" / "simgrid_run.py"
BATCH = 28
Case = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def _simgrid() -> None:
    probe = subprocess.run([sys.executable, str(RUNNER), "--version"], capture_output=True, text=True)
    if probe.returncode:
        reason = (probe.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"SimGrid's Python binding cannot be imported ({reason})")


def loose_links(rng: np.random.Generator) -> Case:
    """Flows over any subset of links."""
    links = int(rng.integers(1, 9))
    paths = [
        rng.choice(links, int(rng.integers(1, min(links, 4) + 1)), replace=False).tolist()
        for _ in range(int(rng.integers(1, 15)))
    ]
    return case_of(rng, rng.uniform(1e6, 1e7, links), paths)


def connected_graph(rng: np.random.Generator) -> Case:
    """Flows along the routes of a random network of devices and switches."""
    devices, switches = int(rng.integers(2, 9)), int(rng.integers(1, 5))
    names = [f"d{index}" for index in range(devices)]
    tree = nx.random_labeled_tree(switches, seed=int(rng.integers(1 << 30)))
    cables = [(f"s{a}", f"s{b}") for a, b in tree.edges]
    cables += [(name, f"s{rng.integers(switches)}") for name in names]
    cables += [(f"s{a}", f"s{b}") for a in range(switches) for b in range(a) if rng.random() < 0.3]
    graph = nx.DiGraph()
    for name in names:
        graph.add_node(name, kind="device")
    for ends in cables:
        for one, other in (ends, ends[::-1]):
            graph.add_edge(one, other, bandwidth=rng.uniform(1e6, 1e7), latency=1e-6, link="nvlink")
    network = Network.from_graph(graph, names)
    paths = []
    for _ in range(int(rng.integers(1, 15))):
        src, dst = rng.choice(devices, 2, replace=False)
        paths.append([int(link) for link in network.path(int(src), int(dst))])
    return case_of(rng, network.bandwidth, paths)


def case_of(rng: np.random.Generator, bandwidth: np.ndarray, paths: list[list[int]]) -> Case:
    flows = [
        [float(rng.choice([0.0, rng.uniform(0, 20)])), int(rng.integers(10**6, 10**8)), path]
        for path in paths
    ]
    return {"bandwidth": bandwidth.tolist(), "flows": flows}


@pytest.mark.parametrize("topology", [loose_links, connected_graph])
@pytest.mark.parametrize("seed", range(4))
def test_finish_times_are_those_of_simgrid(topology: Any, seed: int) -> None:
    rng = np.random.default_rng([seed, 0 if topology is loose_links else 1])
    cases = [topology(rng) for _ in range(BATCH)]
    run = subprocess.run(
        [sys.executable, str(RUNNER)], input=json.dumps(cases), capture_output=True, text=True, check=True
    )
    theirs = json.loads(run.stdout.split("RESULT ")[1])["finish"]
    for case, expected in zip(cases, theirs, strict=True):
        flows = [Flow.along(path, size, start) for start, size, path in case["flows"]]
        ours = FluidNetwork(np.array(case["bandwidth"])).finish_times(flows)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
