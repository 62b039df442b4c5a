"""Synthetic results that obey the laws of real ones, without an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moesim.causes import CAUSES
from moesim.results import Comparison, Result

GIB = 2.0**30


def synthetic_tables(
    skew: float,
    moved: int = 0,
    devices: int = 8,
    layers: int = 6,
    steps: int = 3,
    capacity: float = 80 * GIB,
    seed: int = 0,
    rate: float = 2e-7,
) -> dict[str, dict[str, Any]]:
    """Tables of a lock-step run whose load per device is skewed.

    Args:
        skew: 0 is even, larger is worse.
        moved: expert weights moved per layer.
        devices: devices.
        layers: MoE layers.
        steps: steps.
        capacity: bytes of memory per device.
        seed: of the load.
        rate: seconds per token copy.
    """
    rng = np.random.default_rng(seed)
    share = rng.lognormal(0.0, 0.5 + 1e-3, (steps, layers, devices)) ** skew
    copies = np.rint(4096 * devices * share / share.sum(axis=2, keepdims=True)).astype(np.int64)
    ones = np.ones_like(share)
    own = {
        "attention": 2e-4 * ones,
        "gate": 1e-5 * ones,
        "permute": 2e-5 * ones,
        "planning": (4e-5 if moved else 0.0) * ones,
        "dispatch": np.broadcast_to(2e-8 * copies.max(axis=2, keepdims=True), share.shape),
        "weight_move": 3e-5 * moved * ones,
        "experts": rate * copies,
        "combine": np.broadcast_to(2e-8 * copies.max(axis=2, keepdims=True), share.shape),
        "unpermute": 2e-5 * ones,
    }
    busy = np.sum(list(own.values()), axis=0)
    latency = busy.max(axis=2)
    causes = {cause: own[cause].mean(axis=2) if cause in own else 0.0 * latency for cause in CAUSES}
    causes["wait"] = latency - np.sum([v for k, v in causes.items() if k != "wait"], axis=0)
    bound = 0.9 * (busy - own["planning"] - own["weight_move"]).mean(axis=2)
    uneven = copies.max(axis=2) / copies.mean(axis=2)
    step, layer, device = (a.ravel() for a in np.indices(share.shape))
    return {
        "steps": {
            "step": np.arange(steps),
            "latency_s": latency.sum(axis=1),
            "bound_s": bound.sum(axis=1),
            "tokens": np.full(steps, 1024 * devices),
            "copies": copies.sum(axis=(1, 2)),
            "dropped_copies": np.zeros(steps, dtype=np.int64),
            "changed_tokens": np.zeros(steps, dtype=np.int64),
            "imbalance": uneven.mean(axis=1),
            "moved_bytes": np.full(steps, moved * layers * 5e7),
            "migrated_bytes": np.zeros(steps),
            "events": np.full(steps, 2 * layers + 1),
            **{f"{cause}_s": values.sum(axis=1) for cause, values in causes.items()},
        },
        "layers": {
            "step": np.repeat(np.arange(steps), layers),
            "layer": np.tile(np.arange(layers) + 1, steps),
            "latency_s": latency.ravel(),
            "bound_s": bound.ravel(),
            "imbalance": uneven.ravel(),
            "straggler": copies.argmax(axis=2).ravel(),
            "moves": np.full(steps * layers, moved),
            "dispatch_busy_s": (causes["dispatch"] + causes["weight_move"]).ravel(),
            "combine_busy_s": causes["combine"].ravel(),
            **{f"{cause}_s": values.ravel() for cause, values in causes.items()},
        },
        "devices": {
            "step": step,
            "layer": layer + 1,
            "device": device,
            "copies": copies.ravel(),
            "experts": np.full(step.size, 16),
            "busy_s": busy.ravel(),
            "wait_s": (latency[:, :, np.newaxis] - busy).ravel(),
            "experts_s": own["experts"].ravel(),
            "received_bytes": 4096.0 * copies.ravel(),
        },
        "memory": _memory(copies, moved, capacity),
        "links": _links(copies, float(latency.sum())),
        "spans": _spans(own, latency),
        "critical_path": _critical(own, copies),
    }


def _memory(copies: np.ndarray, moved: int, capacity: float) -> dict[str, Any]:
    devices = copies.shape[2]
    most = copies.max(axis=(0, 1)).astype(float)
    held = {
        "experts": np.full(devices, 42 * GIB),
        "model weights": np.full(devices, 9 * GIB),
        "KV cache": np.full(devices, 6 * GIB),
        "receive buffers": most * 6e5,
        "expert activations": most * 9e5,
        "moved weights": np.full(devices, moved * 5e7),
    }
    total = np.sum(list(held.values()), axis=0)
    rows = devices * len(held)
    return {
        "device": np.repeat(np.arange(devices), len(held)),
        "node": np.repeat(np.arange(devices) // 4, len(held)),
        "tier": ["HBM"] * rows,
        "owner": list(held) * devices,
        "bytes": np.rint(np.stack(list(held.values()), axis=1).ravel()),
        "peak_bytes": np.repeat(total, len(held)),
        "capacity_bytes": np.full(rows, capacity),
        "out_of_memory": np.repeat(total > capacity, len(held)),
        "step": np.ones(rows, dtype=np.int64),
        "layer": np.full(rows, 4),
        "stage": ["experts"] * rows,
    }


def _links(copies: np.ndarray, run_s: float) -> dict[str, Any]:
    size = 4096.0 * copies.sum(axis=(0, 1))
    return {
        "link": [f"switch0 -> gpu{device}" for device in range(size.size)],
        "kind": ["nvlink"] * size.size,
        "bytes": size,
        "seconds_at_rate": size / 450e9,
        "utilisation": size / 450e9 / run_s,
        "bandwidth_bytes_per_s": np.full(size.size, 450e9),
    }


def _spans(own: dict[str, np.ndarray], latency: np.ndarray) -> dict[str, Any]:
    """Spans of step 0: each device runs its causes in order from the start of the layer, then waits."""
    rows: list[tuple[int, int, int, str, str, float, float]] = []
    begin = 0.0
    for layer in range(latency.shape[1]):
        for device in range(own["experts"].shape[2]):
            now = begin
            for cause, seconds in own.items():
                end = now + float(seconds[0, layer, device])
                stream = "network" if cause in ("dispatch", "combine", "weight_move") else "compute"
                if end > now + 1e-9:
                    rows.append((0, layer + 1, device, stream, cause, now, end))
                now = end
            finish = begin + float(latency[0, layer])
            if finish > now + 1e-9:
                rows.append((0, layer + 1, device, "compute", "wait", now, finish))
        begin += float(latency[0, layer])
    names = ("step", "layer", "device", "stream", "cause", "start_s", "end_s")
    return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _critical(own: dict[str, np.ndarray], copies: np.ndarray) -> dict[str, Any]:
    slowest = copies.argmax(axis=2)
    rows = [
        (step, layer + 1, cause, int(slowest[step, layer]), float(seconds[step, layer, slowest[step, layer]]))
        for step in range(copies.shape[0])
        for layer in range(copies.shape[1])
        for cause, seconds in own.items()
    ]
    names = ("step", "layer", "cause", "device", "seconds")
    return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def synthetic_result(policy: str = "ep", skew: float = 1.0, moved: int = 0, **shape: Any) -> Result:
    """One run; ``shape`` goes to ``synthetic_tables``."""
    return Result.from_tables(
        synthetic_tables(skew, moved, **shape),
        name="toy",
        policy=policy,
        parameters={"placement": {"kind": "contiguous"}, "dispatch": {"kind": policy}},
        scenario={"name": "toy", "seed": 7, "cluster": {"link": "450 GB/s", "rate": 9e11}},
        seed=7,
        wall_s=0.25,
    )


def synthetic_comparison(**shape: Any) -> Comparison:
    """Standard EP, a milder EPLB and an even LLEP that moves weights."""
    return Comparison(
        [
            synthetic_result("ep", 1.0, **shape),
            synthetic_result("eplb", 0.4, **shape),
            synthetic_result("llep", 0.02, moved=3, **shape),
        ],
        "ep",
    )


@pytest.fixture
def make_result() -> Callable[..., Result]:
    """Factory of runs."""
    return synthetic_result


@pytest.fixture
def make_tables() -> Callable[..., dict[str, dict[str, Any]]]:
    """Factory of raw tables."""
    return synthetic_tables


@pytest.fixture
def make_comparison() -> Callable[..., Comparison]:
    """Factory of comparisons."""
    return synthetic_comparison
