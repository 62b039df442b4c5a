"""How long placement policies take and how good what they find is: one run each, at most two cores.

Run with ``python benchmarks/bench_placement.py``. Loads are Zipf-like; half of the tokens follow a route from
expert to expert, the other half choose freely.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np

from moesim.policies import create_placement
from moesim.policies.base import ClusterView
from moesim.policies.past import Past
from moesim.routing.affinity import Affinity

CASES = (
    (32, 8, 8, 1),
    (32, 8, 8, 2),
    (32, 8, 8, 4),
    (32, 64, 8, 1),
    (32, 64, 8, 2),
    (32, 64, 16, 2),
    (58, 256, 64, 8),
)
"""Layers, experts, devices, nodes."""
POLICIES = (
    ("moetuner", {}),
    ("moetuner", {"objective": "max"}),
    ("exflow", {}),
    ("occult", {}),
    ("grace", {}),
    ("greedy", {}),
)


def machine(layers: int, experts: int, devices: int, nodes: int) -> tuple[np.ndarray, ClusterView]:
    """Past copies per expert [layers, experts], and a machine that knows which experts share tokens."""
    rng = np.random.default_rng(11)
    tokens, top_k = 20_000, 2
    share = np.arange(1, experts + 1) ** -0.4
    route = np.stack([rng.permutation(experts) for _ in range(layers)])
    ids = np.empty((tokens, layers, top_k), dtype=np.int64)
    start = rng.choice(experts, tokens, p=share / share.sum())
    for layer in range(layers):
        free = rng.choice(experts, tokens, p=rng.permutation(share) / share.sum())
        first = np.where(rng.random(tokens) < 0.5, route[layer, start], free)
        other = (first + 1 + rng.integers(0, max(1, experts // 4), tokens)) % experts
        ids[:, layer] = np.stack([first, other], axis=1)
    known = Affinity.of_tokens(ids, experts)
    counts = np.stack([np.bincount(ids[:, layer].ravel(), minlength=experts) for layer in range(layers)])
    past = Past(Past.of_counts(counts).windows_of, lambda: (known.together, known.onward))
    view = ClusterView(devices, np.arange(devices) * nodes // devices, experts, top_k, 1, 1)
    return counts, replace(view, past=past, inside_bandwidth=4.5e11, between_bandwidth=5e10)


def main() -> None:
    for layers, experts, devices, nodes in CASES:
        counts, view = machine(layers, experts, devices, nodes)
        print(f"{layers} layers x {experts} experts on {devices} devices in {nodes} nodes")
        for name, parameters in POLICIES:
            policy = create_placement(name, parameters)
            began = time.perf_counter()
            placed = policy.place(counts, view)
            spent = time.perf_counter() - began
            print(f"{spent:9.3f} s  {name} {parameters or ''} {'; '.join(placed.notes)}")


if __name__ == "__main__":
    main()
