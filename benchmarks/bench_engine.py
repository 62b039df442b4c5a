"""How fast steps are simulated, against how long the simulated steps take themselves.

Run with ``OPENBLAS_NUM_THREADS=1 python benchmarks/bench_engine.py [--profile]`` on one core.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from moesim.engine import Setup
from moesim.engine.recording import Recording
from moesim.engine.step import StepRunner
from moesim.hardware import load_cluster
from moesim.hardware.kernels import kernel_style
from moesim.model import load_model
from moesim.policies import create_dispatch, create_policy
from moesim.policies.base import ClusterView, Parameters, Policy
from moesim.policies.plan import Placement
from moesim.routing.load import Load
from moesim.workload import Workload


@dataclass
class ReadyCounts:
    """Counts drawn once, handed out again and again."""

    counts: npt.NDArray[np.int64]
    top_k: int
    name: str = "ready counts"

    @property
    def layers(self) -> int:
        return int(self.counts.shape[0])

    @property
    def experts(self) -> int:
        return int(self.counts.shape[2])

    def load(self, step: int, tokens: npt.NDArray[np.int64]) -> Load:
        return Load(self.counts, tokens)

    def profile(self) -> npt.NDArray[np.int64]:
        return self.counts.sum(axis=1)

    def steps_available(self, tokens_per_step: int) -> int | None:
        return None


class HotReplicas:
    """Experts in order, one more copy of the hottest ones on the first devices."""

    name: ClassVar[str] = "hot_replicas"
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    parameters_type: ClassVar[type[Parameters]] = Parameters
    parameters = Parameters()

    def __init__(self, extra: int) -> None:
        self.extra = extra

    def place(self, statistics: npt.NDArray[np.int64], view: ClusterView) -> Placement:
        layers, experts = statistics.shape
        slots = np.full((layers, view.devices, 2), -1, dtype=np.int64)
        slots[:, :, 0] = np.arange(experts)[np.newaxis, : view.devices]
        hottest = np.argsort(-statistics, axis=1, kind="stable")[:, : self.extra]
        slots[:, : self.extra, 1] = hottest
        return Placement(slots, experts)


def counts(layers: int, devices: int, experts: int, copies: int, pooled: bool) -> npt.NDArray[np.int64]:
    """Draw skewed counts that sum to ``copies`` per device and layer."""
    random = np.random.default_rng(0)
    popularity = random.dirichlet(np.full(experts, 4.0), size=layers)
    if pooled:
        drawn = np.stack([random.multinomial(copies * devices, p) for p in popularity])[:, np.newaxis, :]
    else:
        drawn = np.stack([random.multinomial(copies, p, size=devices) for p in popularity])
    return drawn.astype(np.int64)


def measure(name: str, setup: Setup, repeats: int, profile: bool) -> None:
    """Time the steps of a setup and print the ratio to simulated time."""
    runner = StepRunner(setup)
    recording = Recording(setup, runner.own)
    simulated = runner.run(0).timeline.latency
    best = np.inf
    for step in range(repeats):
        began = time.perf_counter()
        recording.add(runner.run(step))
        best = min(best, time.perf_counter() - began)
    ratio = simulated / best
    print(f"{name:58} step {simulated * 1e3:9.2f} ms, simulated in {best * 1e3:8.2f} ms: {ratio:7.1f}x")
    if profile:
        with cProfile.Profile() as profiler:
            for step in range(5):
                recording.add(runner.run(step))
        pstats.Stats(profiler).sort_stats("tottime").print_stats(14)


def main() -> None:
    """Run the cases."""
    profile = "--profile" in sys.argv
    model = load_model("DeepSeek-V3")
    moe = len(model.moe_layers)
    cluster = load_cluster("HGX-H800", nodes=32)
    work = Workload("decode", 1, 128, 4096)
    policy = Policy("hot", HotReplicas(32), create_dispatch("standard", {}))
    for pooled in (True, False):
        routing = ReadyCounts(counts(moe, 256, 256, 128 * 8, pooled), 8)
        setup = Setup(model, cluster, routing, work, policy, kernel_style("fused"), span_steps=0)
        kind = "pooled counts" if pooled else "counts per source"
        measure(f"DeepSeek-V3 decode, 256 x H800, 288 slots, {kind}", setup, 20 if pooled else 3, profile)
    small = load_cluster("HGX-H800", nodes=4)
    routing = ReadyCounts(counts(moe, 32, 256, 16384 * 8, False), 8)
    work = Workload("prefill", 1, 16384, 4096)
    for name in ("ep", "llep"):
        setup = Setup(model, small, routing, work, create_policy(name), kernel_style("fused"), span_steps=0)
        measure(f"DeepSeek-V3 prefill, 32 x H800, 16k tokens each, {name}", setup, 5, profile)
    for devices in (8, 32):
        shape = ReadyCounts(counts(moe, devices, 256, 1024, False), 8)
        some = load_cluster("HGX-H800", nodes=devices // 8)
        setup = Setup(
            model, some, shape, Workload("decode", 1, 128, 4096), create_policy("ep"), kernel_style("fused"),
            detail="events", span_steps=0,
        )  # fmt: skip
        measure(f"DeepSeek-V3 decode, {devices} x H800, event level", setup, 3, profile)


if __name__ == "__main__":
    main()
