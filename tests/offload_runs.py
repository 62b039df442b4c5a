"""Small offloading runs for tests: descriptions, and runs whose every record is kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from moesim.engine.offload.recording import OffloadRecording
from moesim.engine.offload.runner import IterationRecord, OffloadRunner
from moesim.policies import create_policy
from moesim.policies.base import Policy
from moesim.scenario import loads_scenario
from moesim.scenario.build import build_setup

Mapping = dict[str, Any]

WIRE = {"bandwidth": 1e10, "efficiency": 1.0, "latency": 0, "start": 0}
"""A host link that is nothing but a rate."""

CPU = {"flops": 1e12, "bandwidth": 5e10}
DEVICE = {
    "peak_flops": {"bf16": 1e14},
    "memory": {"capacity": 2e10, "bandwidth": 1e12},
    "launch": 1e-9,
    "host_sync": 1e-9,
}


def described(offload: Any = None, **changes: Any) -> Mapping:
    """Describe a run: 4 MoE layers of 8 experts, top-2, one device, decode of 12 tokens."""
    made: Mapping = {
        "model": {
            "num_layers": 4,
            "moe_layers": {"first": 0},
            "hidden_size": 64,
            "top_k": 2,
            "vocab_size": 100,
            "num_routed_experts": 8,
            "moe_intermediate_size": 128,
            "attention": {"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 16},
        },
        "cluster": {
            "device": DEVICE,
            "devices_per_node": 1,
            "host": {"memory": 1e10, "bandwidth": 1e12, "efficiency": 1.0, "link": WIRE, "cpu": CPU},
        },
        "routing": {"generator": "local"},
        "workload": {"phase": "decode", "steps": 12, "tokens_per_device": 1, "context": 64},
        "policies": [{"name": "a", "offload": offload or {}}],
    }
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(made.get(key), dict) and key != "routing":
            made[key] = {**made[key], **value}
        else:
            made[key] = value
    return made


@dataclass(frozen=True, eq=False)
class Ran:
    """A run with all its records."""

    runner: OffloadRunner
    records: list[IterationRecord]
    recording: OffloadRecording

    @property
    def totals(self) -> Mapping:
        """Counts of the whole run by name."""
        from moesim.engine.offload.machine import COUNTS

        counts = np.asarray(self.runner.machine.counts).sum(axis=(0, 1)).tolist()
        return dict(zip(COUNTS, counts, strict=True))

    @property
    def by_layer(self) -> Any:
        """Counts [layers, what], summed over devices."""
        return np.asarray(self.runner.machine.counts).sum(axis=0)

    @property
    def end(self) -> float:
        """When the last iteration ended (s)."""
        return self.records[-1].end


def prepared(description: Mapping, policy: Policy | str | None = None) -> OffloadRunner:
    """Build the runner of a description; its first policy unless another is given."""
    from dataclasses import replace

    scenario = loads_scenario(json.dumps(description))
    if policy is None:
        from moesim.scenario.policy import build_policies

        policy = build_policies(scenario)[0]
    elif isinstance(policy, str):
        policy = create_policy(policy)
    return OffloadRunner(replace(build_setup(scenario, policy), span_steps=10_000))


def ran(description: Mapping, policy: Policy | str | None = None) -> Ran:
    """Run a description and keep everything."""
    runner = prepared(description, policy)
    recording = OffloadRecording(runner)
    records = []
    for record in runner.run():
        records.append(record)
        recording.add(record)
    return Ran(runner, records, recording)


CACHES = (
    "lru", "lfu", "lhu", "fld", "mrs", "edgemoe", "moe_infinity", "expertflow", "adapmoe", "belady",
    "random", "hobbit", "static",
)  # fmt: skip
PREFETCHES = (
    "none", "gate", "impact", "learned", "oneshot", "pregated", "popular", "path", "history", "matrices",
    "random", "layers",
)  # fmt: skip
MISSES = ("load", "cpu", "fiddler", "hybrimoe", "daop", "whole_layer")


@st.composite
def descriptions(
    draw: Any,
    devices: Any = ((1, 1), (1, 1), (1, 2), (2, 1), (2, 2)),
    caches: Any = CACHES,
    prefetches: Any = PREFETCHES,
    misses: Any = MISSES,
) -> Mapping:
    """Draw a small random run."""
    nodes, per_node = draw(st.sampled_from(devices))
    experts = draw(st.sampled_from([4, 6, 8])) * (2 if nodes * per_node > 2 else 1)
    k = draw(st.integers(1, 3))
    layers = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 1000))
    made = described(seed=seed)
    made["model"] |= {
        "num_layers": layers + draw(st.integers(0, 1)),
        "num_routed_experts": experts,
        "top_k": k,
        "moe_intermediate_size": draw(st.sampled_from([32, 256])),
        "shared_intermediate_size": draw(st.sampled_from([0, 64])),
        "dense_intermediate_size": 64,
    }
    made["model"]["moe_layers"] = {"first": made["model"]["num_layers"] - layers}
    link = {
        "bandwidth": draw(st.sampled_from([1e8, 1e10, 1e12])),
        "efficiency": draw(st.sampled_from([1.0, 0.8])),
        "latency": draw(st.sampled_from([0, 1e-6])),
        "start": draw(st.sampled_from([0, 2e-6])),
    }
    cpu = {
        "flops": draw(st.sampled_from([1e10, 1e12])),
        "bandwidth": draw(st.sampled_from([1e9, 1e11])),
        "start": draw(st.sampled_from([0, 1e-6])),
        "first": draw(st.sampled_from([0, 3e-6])),
    }
    made["cluster"] |= {
        "devices_per_node": per_node,
        "nodes": nodes,
        "host": {
            "memory": 1e10,
            "bandwidth": draw(st.sampled_from([1e10, 1e12])),
            "link": link,
            "cpu": cpu,
            "devices_per_switch": draw(st.sampled_from([1, per_node])),
        },
        "storage": {"capacity": 1e11, "bandwidth": 1e9, "latency": draw(st.sampled_from([0, 1e-5]))},
    }
    if per_node > 1:
        made["cluster"]["intra"] = {"bandwidth": 1e11}
    if nodes > 1:
        made["cluster"]["inter"] = {"bandwidth": 1e10}
    kind = draw(st.sampled_from(["decode", "prefill", "requests", "requests"]))
    tokens = draw(st.integers(1, 5))
    made["workload"] = {"tokens_per_device": tokens, "context": 16}
    if kind == "requests":
        made["workload"]["requests"] = {
            "count": draw(st.integers(1, 3)),
            "prompt": draw(st.integers(1, 9)),
            "output": draw(st.integers(1, 5)),
        }
    else:
        made["workload"] |= {"phase": kind, "steps": draw(st.integers(1, 5))}
    cache = draw(st.sampled_from(caches))
    prefetch = "none" if cache == "static" else draw(st.sampled_from(prefetches))
    miss = draw(st.sampled_from(misses))
    scope = draw(st.sampled_from(["layer", "global"]))
    own = experts // (nodes * per_node)
    least = min(k, own)
    if cache == "hobbit":
        least = min(own, max(least, 2)) if scope == "layer" else 2
    offload: Mapping = {
        "cache": cache,
        "prefetch": prefetch,
        "misses": miss,
        "scope": scope,
        "compute": draw(st.sampled_from(["together", "arrival"])),
        "chunks": draw(st.sampled_from([None, 1, 3])),
        "staging": draw(st.integers(1, 3)),
        "warm": draw(st.booleans()),
        "pinned": draw(st.booleans()),
        "regroup": draw(st.booleans()),
        "store": draw(st.sampled_from(["host", "host", "storage"])),
        "slots": draw(st.integers(least, own)),
    }
    if miss in ("cpu", "fiddler", "hybrimoe", "daop"):
        offload["store"] = "host"  # the CPU computes what is in its memory
    if draw(st.booleans()):
        offload |= {"narrow_share": 0.5, "narrow_size": 0.5}
    made["policies"] = [{"name": "a", "offload": offload}]
    made["workload"]["moe_only"] = draw(st.sampled_from([False, False, True]))
    made["kernels"] = draw(st.sampled_from(["fused", "fused", "eager", {"exchange": "gather"}]))
    return made
