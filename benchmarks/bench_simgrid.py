"""How fast flows are shared, beside SimGrid on the same flows.

Run ``python benchmarks/bench_simgrid.py`` where SimGrid's Python binding can be imported. The two have
different units of work: moesim shares a whole all-to-all as one flow over all its links (they progress
together), for which SimGrid needs one flow per pair. Both forms are timed; the last column is the largest
relative difference of finish times between moesim and SimGrid on the same flows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from bench_network import two_level

from moesim.hardware.fluid import Flow, FluidNetwork
from moesim.hardware.network import Network
from moesim.hardware.traffic import Traffic

RUNNER = Path(__file__).with_name("simgrid_run.py")


def compare(network: Network, flows: list[list[object]]) -> tuple[float, float, float]:
    """Return seconds of moesim, seconds of SimGrid's run alone, and the largest relative difference."""
    begin = time.perf_counter()
    made = [Flow.along(path, size, start) for start, size, path in flows]
    ours = FluidNetwork(network.bandwidth).finish_times(made)
    spent = time.perf_counter() - begin
    case = json.dumps([{"bandwidth": network.bandwidth.tolist(), "flows": flows}])
    run = subprocess.run(
        [sys.executable, str(RUNNER)], input=case, capture_output=True, text=True, check=True
    )
    theirs = json.loads(run.stdout.split("RESULT ")[1])
    finish = np.array(theirs["finish"][0])
    return spent, float(theirs["run_s"]), float(np.abs(ours / finish - 1).max())


def main() -> None:
    rng = np.random.default_rng(0)
    print(f"{'':46s}{'moesim':>10s} {'SimGrid':>10s}  difference")
    for nodes, count in ((4, 50), (8, 200), (8, 800), (32, 800)):
        network = Network.from_graph(*two_level(nodes))
        flows: list[list[object]] = []
        for _ in range(count):
            src, dst = rng.choice(nodes * 8, 2, replace=False)
            path = [int(link) for link in network.path(int(src), int(dst))]
            flows.append([float(rng.uniform(0, 1e-3)), int(rng.integers(1 << 16, 1 << 24)), path])
        ours, theirs, error = compare(network, flows)
        what = f"{count} transfers among {nodes * 8} devices"
        print(f"{what:46s}{ours * 1e3:7.1f} ms {theirs * 1e3:7.1f} ms  {error:.1e}")
    for nodes in (2, 4):
        network = Network.from_graph(*two_level(nodes))
        size = nodes * 8
        matrix = np.full((1, size, size), 1e6)
        begin = time.perf_counter()
        amounts = network.link_amounts(Traffic.of_pairs(matrix))[0]
        whole = FluidNetwork(network.bandwidth).finish_times([Flow(0.0, amounts)])
        spent = time.perf_counter() - begin
        pairs = [(src, dst) for src in range(size) for dst in range(size) if src != dst]
        flows = [[0.0, 10**6, [int(link) for link in network.path(*pair)]] for pair in pairs]
        ours, theirs, error = compare(network, flows)
        what = f"all-to-all of {size} devices, a flow per pair"
        print(f"{what:46s}{ours * 1e3:7.1f} ms {theirs * 1e3:7.1f} ms  {error:.1e}")
        print(
            f"{'  the same as one flow (ends at ' + format(whole[0], '.3g') + ' s)':46s}{spent * 1e3:7.1f} ms"
        )


if __name__ == "__main__":
    main()
