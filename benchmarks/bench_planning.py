"""How long policies take to decide, in milliseconds: best of several runs on one core.

Run with ``python benchmarks/bench_planning.py``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from moesim.policies import create_dispatch, create_placement
from moesim.policies.base import ClusterView
from moesim.policies.dispatch import llep
from moesim.policies.dispatch.placement_index import _build
from moesim.routing.load import Load

LAYERS = 58


def best_ms(work: Callable[[], object], runs: int = 7) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def view(devices: int, experts: int = 256) -> ClusterView:
    return ClusterView(devices, np.arange(devices) // 8, experts, 8, 1, 1, expert_groups=8)


def skewed(sources: int, copies: int, experts: int = 256) -> np.ndarray:
    """Zipf-like loads [layers, sources, experts] with ``copies`` per layer and source."""
    rng = np.random.default_rng(7)
    popularity = np.arange(1, experts + 1) ** -0.6
    rows = [
        rng.multinomial(copies, rng.permutation(popularity) / popularity.sum(), sources)
        for _ in range(LAYERS)
    ]
    return np.asarray(rows, dtype=np.int64)


def report(what: str, milliseconds: float) -> None:
    print(f"{milliseconds:9.3f} ms  {what}")


def main() -> None:
    for devices, redundant in ((32, 32), (144, 32), (256, 32)):
        machine, totals = view(devices), skewed(1, 1 << 20)
        eplb = create_placement("eplb", {"redundant": redundant})
        statistics = totals[:, 0]
        shape = f"{LAYERS} layers x 256 experts, 288 slots, {devices} devices"
        report(f"eplb, {shape}", best_ms(lambda e=eplb, s=statistics, m=machine: e.place(s, m)))
        placement = eplb.place(statistics, machine)
        report(f"  index of the placement, once, {devices} devices", best_ms(lambda p=placement: _build(p)))
        pooled = Load(skewed(1, devices * 1024), np.full(devices, 128))
        dense = Load(skewed(devices, 1024), np.full(devices, 128))
        for name, parameters in (
            ("standard", {}),
            ("standard", {"replica_choice": "nearest"}),
            ("standard", {"replica_choice": "static"}),
            ("standard", {"replica_choice": "random"}),
            ("llep", {"m": 64}),
            ("lplb", {}),
            ("metro", {}),
            ("capacity", {"overflow": "reroute"}),
        ):
            policy = create_dispatch(name, parameters)
            for form, load in (("totals", pooled), ("per source", dense)):
                policy.plan(load, placement, machine)
                spent = best_ms(
                    lambda d=policy, x=load, p=placement, m=machine: d.plan(x, p, m),
                    7 if form == "totals" else 3,
                )
                report(f"  {name} {parameters or ''} from loads {form}, {devices} devices", spent)
    for experts, devices in ((128, 8), (256, 32), (384, 64)):
        counts = skewed(1, devices * 32768, experts)[0, 0].tolist()
        spent = best_ms(lambda c=counts, d=devices, e=experts: llep.assign(c, d, e // d, 1.0, 1024), 50)
        report(f"llep.assign, one layer, {experts} experts, {devices} devices", spent)


if __name__ == "__main__":
    main()
