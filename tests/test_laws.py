"""Laws of physics and bookkeeping on random scenarios, checked through the public API alone."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moesim
from moesim.causes import CAUSES
from moesim.hardware import load_device
from moesim.hardware.calibrations import Calibrations
from moesim.hardware.grouped_gemm import ExpertShape, expert_layer_seconds
from moesim.hardware.grouped_kernels import count_groups
from moesim.results import Comparison
from moesim.scenario import loads_scenario

SEEDS = range(12)
Mapping = dict[str, Any]


def device(rng: random.Random) -> Mapping:
    return {
        "peak_flops": {"bf16": rng.choice([1e14, 9.89e14]), "fp8": rng.choice([2e14, 2e15])},
        "memory": {"capacity": rng.choice([2e10, 8e10]), "bandwidth": rng.choice([3e11, 3.35e12])},
        "compute_units": rng.choice([2, 8, 132]),
        "launch": rng.choice([1e-9, 2e-5]),
        "host_sync": rng.choice([1e-6, 2e-5]),
    }


def cluster(rng: random.Random) -> Mapping:
    nodes, per_node = rng.choice([(1, 1), (1, 4), (2, 2), (2, 4), (3, 2)])
    made: Mapping = {"collective_latency": 1e-5}
    groups = [{"device": device(rng), "nodes": 1, "devices_per_node": per_node}]
    if nodes > 1:
        other = device(rng) if rng.random() < 0.4 else groups[0]["device"]
        groups.append({"device": other, "nodes": nodes - 1, "devices_per_node": per_node})
        made["inter"] = {
            "bandwidth": rng.choice([3e9, 5e10]),
            "latency": 5e-6,
            "topology": rng.choice(["rail", "flat"]),
            "nics_per_node": rng.choice([1, per_node]),
        }
    if per_node > 1:
        topology = rng.choice(["switch", "full_mesh", "shared"])
        made["intra"] = {"bandwidth": rng.choice([3e10, 4.5e11]), "latency": 1e-6, "topology": topology}
    return {**made, "groups": groups}


def model(rng: random.Random, devices: int) -> Mapping:
    experts = rng.choice([devices, 2 * devices, 7, 16])
    made = {
        "num_layers": 3,
        "moe_layers": {"first": rng.choice([0, 1])},
        "dense_intermediate_size": 512,
        "hidden_size": rng.choice([64, 1000, 4096]),
        "top_k": rng.choice([1, min(4, experts), experts]),
        "vocab_size": 1000,
        "attention": {"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 64},
        "weight_dtype": rng.choice(["bf16", "fp8"]),
    }
    if experts > 2 and rng.random() < 0.3:
        few = experts // 2
        made["experts"] = [
            {"count": few, "kind": "ffn", "intermediate_size": 256},
            {"count": experts - few, "kind": "low_rank", "intermediate_size": 512, "rank": 8},
        ]
    else:
        made |= {"num_routed_experts": experts, "moe_intermediate_size": rng.choice([32, 1408])}
    return made


def refresh(rng: random.Random) -> Mapping:
    return {
        "every": 1,
        "window": rng.choice([None, 1, 5]),
        "mode": rng.choice(["blocking", "blocking", "background"]),
        "layers_per_step": rng.choice([None, 1]),
        "moves_per_step": rng.choice([None, 1, 3]),
    }


def scenario(seed: int) -> Mapping:
    """Describe a small random run of every policy."""
    rng = random.Random(seed)
    machines = cluster(rng)
    devices = sum(group["nodes"] * group["devices_per_node"] for group in machines["groups"])
    tokens = rng.choice([1, 64, 300, 2000])
    uneven = [rng.choice([0, 1, tokens, 2 * tokens]) for _ in range(devices)]
    spec = model(rng, devices)
    experts = spec.get("num_routed_experts") or sum(group["count"] for group in spec["experts"])
    llep = {"kind": "llep", "alpha": rng.choice([0.5, 1.1]), "min_tokens_per_gemm": rng.choice([1, 64])}
    redundant = devices * (-(-experts // devices) + 1) - experts
    even = devices % 2 == 0
    described = {
        "parallelism": {
            "attention_tp": rng.choice([1, 1, 2]) if even else 1,
            "expert_tp": rng.choice([1, 1, 2]) if even else 1,
        },
        "model": spec,
        "cluster": machines,
        "routing": rng.choice(
            [
                {"generator": "zipf", "exponent": 1.0},
                {"generator": "dirichlet", "alpha": 0.3},
                {"generator": "power_law"},
            ]
        ),
        "workload": {
            "phase": rng.choice(["prefill", "decode"]),
            "steps": 2,
            "tokens_per_device": rng.choice([tokens, uneven]),
            "context": 100,
            "moe_only": rng.random() < 0.3,
        },
        "policies": [
            "ep",
            "round_robin",
            {"name": "eplb", "placement": {"kind": "eplb", "redundant": redundant}},
            {
                "name": "refreshed",
                "placement": {"kind": "eplb", "redundant": redundant},
                "refresh": refresh(random.Random(f"refresh {seed}")),
            },
            {
                "name": "lplb",
                "placement": {"kind": "eplb", "redundant": redundant},
                "dispatch": {"kind": "lplb", "planning_s": 0},
            },
            {"name": "limited", "dispatch": {"kind": "capacity", "factor": 0.9, "overflow": "reroute"}},
            {"name": "llep", "dispatch": {**llep, "planning_per_expert_s": 1e-6}},
        ],
        "kernels": rng.choice(
            ["fused", "eager", "deepep", {"base": "eager", "sends": "devices"}, {"exchange": "gather"}]
        ),
        "seed": seed,
    }
    described["overlap"] = rng.choice(
        ["none", "two_batch", {"kind": "two_batch", "slowdown": 1.0}, "pipeline", "shared_experts"]
    )
    if described["kernels"] == "deepep":
        described["kernels"] = {"base": "deepep", "exchange_sms": 1}
    spec["shared_intermediate_size"] = rng.choice([0, 700])
    return described


def training(seed: int) -> Mapping:
    """Describe the same run with a forward and a backward pass in each step."""
    described = scenario(seed)
    described["workload"]["phase"] = "prefill"
    described["overlap"] = {"kind": "dualpipe", "slowdown": 1.0 + seed % 2}
    return described


def compare(description: Mapping, detail: str = "array") -> Comparison:
    return moesim.compare(loads_scenario(json.dumps({**description, "engine": {"detail": detail}})))


def latencies(comparison: Comparison) -> np.ndarray:
    return np.stack([result.steps["latency_s"].to_numpy() for result in comparison.results])


@pytest.mark.parametrize("made", [scenario, training])
@pytest.mark.parametrize("seed", [*SEEDS, 44])  # 44 has a device without experts
def test_the_books_balance(seed: int, made: Callable[[int], Mapping]) -> None:
    described = made(seed)
    shares = described["parallelism"]["expert_tp"]
    for result in compare(described).results:
        steps, memory = result.steps, result.memory.groupby("device")
        latency = steps["latency_s"].to_numpy()
        assert (steps["bound_s"].to_numpy() <= latency * (1 + 1e-9)).all(), result.policy
        causes = steps[[f"{cause}_s" for cause in CAUSES]].to_numpy()
        assert causes.sum(axis=1) == pytest.approx(latency, rel=1e-9)
        assert (causes >= -1e-12).all()
        paced = result.critical_path["seconds"].sum()
        assert paced == pytest.approx(latency.sum(), rel=1e-6)
        assert memory["bytes"].sum().to_numpy() == pytest.approx(
            memory["peak_bytes"].first().to_numpy(), abs=20
        )
        assert result.devices["copies"].sum() == shares * steps["copies"].sum()
        total = float(latency.sum())
        assert result.throughput_tokens_per_s * total == pytest.approx(float(steps["tokens"].sum()))


def test_the_bound_holds_where_formats_suit_different_devices() -> None:
    memory = {"capacity": 8e10, "bandwidth": 8e13}
    rates = [{"bf16": 1e14, "fp8": 1e12}, {"bf16": 1e12, "fp8": 1e14}]
    groups = [
        {"device": {"peak_flops": rate, "memory": memory}, "nodes": 1, "devices_per_node": 1}
        for rate in rates
    ]
    experts = [
        {"count": 1, "kind": "ffn", "intermediate_size": 16384, "dtype": name} for name in ("bf16", "fp8")
    ]
    description = {
        "model": {"num_layers": 1, "hidden_size": 4096, "top_k": 1, "experts": experts},
        "cluster": {"groups": groups, "inter": {"bandwidth": 1e13}},
        "routing": {"generator": "counts", "counts": [1, 1]},
        "workload": {"steps": 1, "tokens_per_device": 16384, "moe_only": True},
        "policies": ["ep"],
    }
    (result,) = compare(description).results
    assert 0.9 < result.bound_fraction <= 1


def test_the_bound_reads_no_more_of_biased_experts_than_their_gemms() -> None:
    slow = {"peak_flops": {"bf16": 1e15}, "memory": {"capacity": 8e10, "bandwidth": 8e9}}
    model = {"num_layers": 1, "hidden_size": 256, "top_k": 4, "num_routed_experts": 8, "expert_bias": True}
    description = {
        "model": {**model, "moe_intermediate_size": 4096},
        "cluster": {"device": slow, "devices_per_node": 1},
        "routing": {"generator": "uniform"},
        "workload": {"phase": "decode", "steps": 1, "tokens_per_device": 8, "moe_only": True},
        "policies": ["ep"],
    }
    (result,) = compare(description).results
    assert 0.95 < result.bound_fraction <= 1


@pytest.mark.parametrize("made", [scenario, training])
@pytest.mark.parametrize("seed", SEEDS)
def test_levels_of_detail_agree(seed: int, made: Callable[[int], Mapping]) -> None:
    pairs = zip(compare(made(seed)).results, compare(made(seed), "events").results, strict=True)
    for array, events in pairs:
        for name in ("steps", "layers", "devices", "memory", "links", "spans", "critical_path"):
            one, other = getattr(array, name), getattr(events, name)
            assert one.shape == other.shape, name
            for column in one.columns.drop("events", errors="ignore"):
                left, right = one[column].to_numpy(), other[column].to_numpy()
                if left.dtype.kind == "f":
                    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-14, err_msg=f"{name}.{column}")
                else:
                    np.testing.assert_array_equal(left, right, err_msg=f"{name}.{column}")


def _wire(kind: str) -> Callable[[Mapping, float], None]:
    def scale(description: Mapping, factor: float) -> None:
        if kind in description["cluster"]:
            description["cluster"][kind]["bandwidth"] *= factor

    return scale


def _memory(description: Mapping, factor: float) -> None:
    for machine in _machines(description):
        machine["memory"]["bandwidth"] *= factor


def _flops(description: Mapping, factor: float) -> None:
    for machine in _machines(description):
        machine["peak_flops"] = {name: rate * factor for name, rate in machine["peak_flops"].items()}


def _machines(description: Mapping) -> list[Mapping]:
    return [group["device"] for group in description["cluster"]["groups"]]


def faster(description: Mapping, factor: float, *changes: Callable[[Mapping, float], None]) -> Mapping:
    changed = json.loads(json.dumps(description))  # also separates devices that groups share
    for change in changes:
        change(changed, factor)
    return changed


RATES = {"intra": _wire("intra"), "inter": _wire("inter"), "memory": _memory, "flops": _flops}


@pytest.mark.parametrize("made", [scenario, training])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", RATES)
def test_a_faster_part_never_slows_anything_down(
    seed: int, kind: str, made: Callable[[int], Mapping]
) -> None:
    before = made(seed)
    after = faster(before, 1.7, RATES[kind])
    assert (latencies(compare(after)) <= latencies(compare(before)) * (1 + 1e-9)).all()


@pytest.mark.parametrize("made", [scenario, training])
@pytest.mark.parametrize("seed", SEEDS)
def test_twice_the_rates_and_half_the_delays_halve_every_time(
    seed: int, made: Callable[[int], Mapping], tmp_path: Path, twice_as_fast: Callable[[str], Mapping]
) -> None:
    before = made(seed)
    after = faster(before, 2.0, *RATES.values())
    machines = after["cluster"]
    machines["collective_latency"] /= 2
    for kind in {"intra", "inter"} & set(machines):
        machines[kind]["latency"] /= 2
    for machine in _machines(after):
        machine["launch"] /= 2
        machine["host_sync"] /= 2
    after["policies"] = copy.deepcopy(before["policies"])
    after["policies"][-1]["dispatch"]["planning_per_expert_s"] /= 2
    quick = tmp_path / "quick.yaml"
    quick.write_text(json.dumps(twice_as_fast("custom")), encoding="utf-8")
    after["costs"] = {"calibration": str(quick)}
    assert 2 * latencies(compare(after)) == pytest.approx(latencies(compare(before)), rel=1e-9)


@given(
    rows=st.lists(st.integers(0, 700), min_size=1, max_size=40),
    more=st.integers(0, 39),
    shape=st.sampled_from([(4096, 128), (4096, 1024), (7168, 4096)]),
    name=st.sampled_from(["H100-SXM", "H20", "Gaudi3"]),
    height=st.sampled_from([16, 64, 128]),
)
def test_one_more_token_never_makes_experts_faster_while_blocks_keep_their_height(
    rows: list[int], more: int, shape: tuple[int, int], name: str, height: int
) -> None:
    device = load_device(name)
    found = Calibrations().grouped(device, "fp8_block")
    kernel = replace(found.kernel, rule="rows", low=height, high=height)
    expert = ExpertShape(*shape, weight_bytes=1.0, dtype="fp8")

    def seconds(tokens: list[int]) -> float:
        counts = count_groups(tokens, kernel)
        return float(expert_layer_seconds(device, found.constants, kernel, expert, counts))

    grown = list(rows)
    grown[more % len(rows)] += 1
    assert seconds(grown) >= seconds(rows) * (1 - 1e-12)
