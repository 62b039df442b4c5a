"""How long a comparison of many policies takes: six of them on DeepSeek-V3 with EP64 over many steps.

Run with ``OPENBLAS_NUM_THREADS=1 python benchmarks/bench_compare.py [steps] [workers]``; 1000 steps on two
processes by default.
"""

from __future__ import annotations

import resource
import sys
import time

import moesim
from moesim.scenario import loads_scenario

POLICIES = ["ep", "eplb", "llep", "round_robin", "eplb_llep", "greedy"]
SCENARIO = """
name: deepseek-v3-ep64
model: DeepSeek-V3
cluster: {name: HGX-H800, nodes: 8}
routing: {generator: zipf, exponent: 0.6}
workload: {phase: decode, steps: 1000, tokens_per_device: 128, context: 4096}
policies: [ep]
"""


def main() -> None:
    """Compare, and tell the time by policy."""
    given = [int(word) for word in sys.argv[1:]]
    steps, workers = (given + [1000, 2][len(given) :])[:2]
    scenario = loads_scenario(SCENARIO, overrides=[f"workload.steps={steps}"])
    began = time.perf_counter()
    found = moesim.compare(scenario, POLICIES, workers=workers)
    wall = time.perf_counter() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    print(
        f"{len(POLICIES)} policies, {steps} steps, {workers} workers: {wall:.1f} s, {cpu:.1f} s of CPU time"
    )
    for result in found.results:
        own = result.wall_s or 0.0
        print(f"  {result.policy:12} {own:7.2f} s, {1e3 * own / steps:6.2f} ms per step")


if __name__ == "__main__":
    main()
