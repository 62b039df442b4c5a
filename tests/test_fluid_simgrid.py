"""Finish times beside those of SimGrid's fluid model, where its Python binding is installed."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from moesim.hardware.fluid import Flow, FluidNetwork

simgrid = pytest.importorskip("simgrid", reason="SimGrid's Python binding is not installed")

# SimGrid allows one engine per process, so every case runs in its own.
RUN = """
import json, os, sys, simgrid
case = json.loads(sys.argv[1])
options = ("network/model:CM02", "network/crosstraffic:0", "network/TCP-gamma:0",
           "surf/precision:1e-12", "maxmin/precision:1e-9")
engine = simgrid.Engine(["simgrid", "--log=root.thres:critical", *("--cfg=" + o for o in options)])
zone = simgrid.NetZone.create_full_zone("zone")
links = [zone.create_link(f"l{i}", [rate]).set_latency(0).seal() for i, rate in enumerate(case["bandwidth"])]
finish = [0.0] * len(case["flows"])
def move(index, start, size, here, there):
    simgrid.this_actor.sleep_until(start)
    simgrid.Comm.sendto(here, there, size)
    finish[index] = simgrid.Engine.clock
for index, (start, size, path) in enumerate(case["flows"]):
    here, there = (zone.create_host(f"{side}{index}", 1e9).seal() for side in "ab")
    route = [simgrid.LinkInRoute(links[link]) for link in path]
    zone.add_route(here.netpoint, there.netpoint, None, None, route, False)
    simgrid.Actor.create(f"f{index}", here, move, index, start, size, here, there)
zone.seal()
engine.run()
sys.stdout.write("RESULT " + json.dumps(finish) + "\\n")
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_finish_times_are_those_of_simgrid(seed: int) -> None:
    if not str(simgrid.simgrid_version).startswith("3."):
        pytest.skip("routes are declared differently since SimGrid 4")
    rng = np.random.default_rng(seed)
    links, count = int(rng.integers(1, 9)), int(rng.integers(1, 15))
    bandwidth = rng.uniform(1e6, 1e7, links)
    flows = []
    for _ in range(count):
        path = rng.choice(links, int(rng.integers(1, min(links, 4) + 1)), replace=False).tolist()
        start = float(rng.choice([0.0, rng.uniform(0, 20)]))
        flows.append((start, int(rng.integers(10**6, 10**8)), path))
    case = json.dumps({"bandwidth": bandwidth.tolist(), "flows": flows})
    run = subprocess.run([sys.executable, "-c", RUN, case], capture_output=True, text=True, check=True)
    theirs = json.loads(run.stdout.split("RESULT ")[1])
    transfers = [Flow.along(path, size, start) for start, size, path in flows]
    ours = FluidNetwork(bandwidth).finish_times(transfers)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
