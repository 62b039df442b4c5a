"""How long decoding with experts in host memory takes to simulate: 1,000 tokens of Mixtral, one at a time.

Run with ``OPENBLAS_NUM_THREADS=1 python benchmarks/bench_offload.py [tokens] [--profile]`` on one core.
Beside seconds it prints the ratio to a bare LRU of dictionaries over the same experts, measured in the same
run: the least that a simulator of caches in Python does. It depends less on the machine.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import time
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from moesim.engine.offload.recording import OffloadRecording
from moesim.engine.offload.runner import OffloadRunner
from moesim.engine.setup import Setup
from moesim.routing.requests import token_source
from moesim.scenario import loads_scenario
from moesim.scenario.build import build_policies, build_setup

SCENARIO = """
name: bench
model: {name: Mixtral-8x7B, weight_dtype: int8}
cluster: RTX-4090-workstation
routing: {generator: local, exponent: 0.1, topic: 0.3}
workload: {tokens_per_device: 1, requests: {prompt: 1, output: TOKENS}}
policies:
  - {name: hobbit, offload: {slots: 3}}
  - {name: on_demand, offload: {slots: 3}}
  - {name: moe_infinity, offload: {slots: 3}}
  - {name: fiddler, offload: {slots: 3}}
  - {name: hybrimoe, offload: {slots: 3}}
engine: {spans: 0}
"""
TARGET_S = 2.0
"""For 1,000 tokens with HOBBIT."""


def bare_lru(ids: npt.NDArray[np.int64], slots: int) -> float:
    """Return how long an LRU per layer takes over tokens [tokens, layers, k], the best of three (s)."""
    best = np.inf
    for _ in range(3):
        tokens = ids.tolist()
        caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(ids.shape[1])]
        hits = 0
        began = time.perf_counter()
        for token in tokens:
            for cache, experts in zip(caches, token, strict=True):
                for expert in experts:
                    if expert in cache:
                        hits += 1
                        cache.move_to_end(expert)
                    else:
                        if len(cache) >= slots:
                            cache.popitem(last=False)
                        cache[expert] = None
        best = min(best, time.perf_counter() - began)
    return best


def simulated(setup: Setup) -> tuple[float, float]:
    """Return how long a setup takes to simulate, and how much time passes in it (s)."""
    began = time.perf_counter()
    runner = OffloadRunner(setup)
    recording = OffloadRecording(runner)
    for record in runner.run():
        recording.add(record)
    return time.perf_counter() - began, runner.now


def main() -> None:
    """Time the policies."""
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    tokens = int(words[0]) if words else 1000
    scenario = loads_scenario(SCENARIO.replace("TOKENS", str(tokens)), ".")
    policies = build_policies(scenario)
    setup = build_setup(scenario, policies[0])
    ids = token_source(setup.routing).request(0, tokens).ids
    bare = bare_lru(ids, 3)
    print(f"bare LRU: {bare * 1e3:.1f} ms for {ids.size:,} lookups")
    for policy in policies:
        best, passed = min(simulated(replace(setup, policy=policy)) for _ in range(3))
        line = f"{policy.name:12} {tokens:,} tokens in {best:5.2f} s: {best / bare:5.0f} x bare LRU"
        line += f", {passed / best:5.0f} x as fast as the machine"
        if policy.name == "hobbit" and tokens == 1000:
            line += f" (target {TARGET_S:g} s: {'met' if best <= TARGET_S else 'missed'})"
        print(line)
    if "--profile" in sys.argv:
        with cProfile.Profile() as profiler:
            simulated(setup)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(20)


if __name__ == "__main__":
    main()
