"""The engine: two levels of detail, one answer; nothing lost; nothing beats the bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.causes import CAUSES
from moesim.engine import MemoryOptions, Setup, run
from moesim.engine.tables import tables
from moesim.hardware import cluster_from_mapping, load_cluster
from moesim.hardware.calibrations import Calibrations
from moesim.hardware.kernels import kernel_style
from moesim.model import load_model, model_from_mapping
from moesim.policies import create_policy
from moesim.routing.generators import create_generator
from moesim.workload import Workload

POLICIES = ("ep", "round_robin", "eplb", "llep")


def make(
    policy: str = "ep",
    *,
    nodes: int = 2,
    experts: int = 16,
    layers: int = 3,
    tokens: int | tuple[int, ...] = 256,
    exponent: float = 1.0,
    kernels: str = "fused",
    phase: str = "prefill",
    steps: int = 2,
    seed: int = 0,
    cluster: dict[str, Any] | None = None,
    moe_only: bool = False,
    dense_layers: int = 1,
) -> Setup:
    """Build a small setup on two nodes of four devices."""
    mapping = cluster or {
        "device": "H100-SXM",
        "devices_per_node": 4,
        "nodes": nodes,
        "intra": {"kind": "nvlink", "bandwidth": "450 GB/s", "latency": "1 us"},
        "inter": {"bandwidth": "400 Gb/s", "latency": "3 us"},
        "collective_latency": "10 us",
    }
    model = model_from_mapping(
        {
            "name": "small",
            "num_layers": layers,
            "moe_layers": {"first": dense_layers},
            "dense_intermediate_size": 512,
            "hidden_size": 256,
            "moe_intermediate_size": 128,
            "num_routed_experts": experts,
            "top_k": 2,
            "attention": {"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 64},
            "vocab_size": 1000,
        }
    )
    spec: Any = policy
    if policy == "eplb":
        spec = {"name": "eplb", "placement": {"kind": "eplb", "redundant": 4 * nodes}, "dispatch": "standard"}
    if policy == "llep":
        spec = {"name": "llep", "dispatch": {"kind": "llep", "min_tokens_per_gemm": 8}}
    moe = len(model.moe_layers)
    return Setup(
        model=model,
        cluster=cluster_from_mapping(mapping),
        routing=create_generator("zipf", experts=experts, top_k=2, layers=moe, seed=seed, exponent=exponent),
        workload=Workload("decode" if phase == "decode" else "prefill", steps, tokens, 128, moe_only),
        policy=create_policy(spec),
        kernels=kernel_style(kernels),
    )


def latencies(setup: Setup) -> np.ndarray:
    return np.asarray([step["latency_s"] for step in run(setup).steps])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kernels", ["fused", "eager"])
def test_both_levels_of_detail_give_the_same_times(policy: str, kernels: str) -> None:
    setup = make(policy, kernels=kernels, tokens=(256, 0, 64, 300, 1, 256, 128, 77))
    arrays, events = run(setup), run(replace(setup, detail="events"))
    for one, other in zip(tables(arrays).items(), tables(events).items(), strict=True):
        name, left, right = one[0], one[1], other[1]
        for column in left.columns.drop("events", errors="ignore"):
            if left[column].dtype.kind == "f":
                assert right[column].to_numpy() == pytest.approx(
                    left[column].to_numpy(), rel=1e-9, abs=1e-15, nan_ok=True
                ), f"{name}.{column}"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("detail", ["array", "events"])
def test_every_second_of_a_step_has_a_cause(policy: str, detail: str) -> None:
    made = tables(run(replace(make(policy, kernels="eager"), detail=detail)))
    columns = [f"{cause}_s" for cause in CAUSES]
    steps, layers, path = made["steps"], made["layers"], made["critical_path"]
    assert (layers[columns].to_numpy() >= -1e-15).all()
    assert steps[columns].sum(axis=1).to_numpy() == pytest.approx(steps["latency_s"].to_numpy(), rel=1e-9)
    by_step = layers.groupby("step")["latency_s"].sum()
    assert by_step.to_numpy() == pytest.approx(steps["latency_s"].to_numpy(), rel=1e-9)
    paced = path.groupby("step")["seconds"].sum()
    assert paced.to_numpy() == pytest.approx(steps["latency_s"].to_numpy(), rel=1e-9)


@pytest.mark.parametrize("policy", POLICIES)
def test_tokens_are_conserved(policy: str) -> None:
    setup = make(policy, tokens=100)
    recording = run(setup)
    devices = tables(recording)["devices"]
    wanted = 100 * setup.cluster.size * setup.model.top_k
    assert (devices.groupby(["step", "layer"])["copies"].sum() == wanted).all()
    assert all(step["copies"] == wanted * len(setup.model.moe_layers) for step in recording.steps)


@pytest.mark.parametrize("policy", POLICIES)
def test_bytes_leave_and_arrive_in_equal_amounts(policy: str) -> None:
    setup = make(policy)
    links = tables(run(setup))["links"].set_index("link")["bytes"]
    graph = setup.cluster.graph
    for node, kind in graph.nodes(data="kind"):
        if kind in ("switch", "nic"):
            entering = sum(links.get(f"{a}->{node}", 0.0) for a in graph.predecessors(node))
            leaving = sum(links.get(f"{node}->{b}", 0.0) for b in graph.successors(node))
            assert entering == pytest.approx(leaving, rel=1e-9), node


@settings(max_examples=40, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    kernels=st.sampled_from(["fused", "eager"]),
    phase=st.sampled_from(["prefill", "decode"]),
    tokens=st.integers(0, 400),
    exponent=st.floats(0.0, 2.5),
    seed=st.integers(0, 1000),
    moe_only=st.booleans(),
)
def test_nothing_beats_the_bound(
    policy: str, kernels: str, phase: str, tokens: int, exponent: float, seed: int, moe_only: bool
) -> None:
    setup = make(
        policy,
        kernels=kernels,
        phase=phase,
        tokens=tokens,
        exponent=exponent,
        seed=seed,
        steps=1,
        moe_only=moe_only,
    )
    made = tables(run(setup))
    for name in ("steps", "layers"):
        bound, latency = made[name]["bound_s"].to_numpy(), made[name]["latency_s"].to_numpy()
        assert (bound >= 0).all(), name
        assert (bound <= latency * (1 + 1e-9) + 1e-15).all(), name


def test_bound_counts_tokens_that_must_travel_when_memory_is_small() -> None:
    roomy = make(tokens=2000, steps=1)
    device = roomy.cluster.devices[0]
    small = {
        "device": {
            "name": "small",
            "kin": "H100-SXM",
            "peak_flops": {"bf16": "989 TFLOP/s"},
            "memory": {"capacity": "6 MB", "bandwidth": "3.35 TB/s"},
            "compute_units": device.compute_units,
        },
        "devices_per_node": 4,
        "nodes": 2,
        "intra": {"kind": "nvlink", "bandwidth": "450 GB/s", "latency": "1 us"},
        "inter": {"bandwidth": "400 Gb/s", "latency": "3 us"},
    }
    tight = make(tokens=2000, steps=1, cluster=small)
    bound = [run(replace(s, memory=MemoryOptions())).steps[0] for s in (roomy, tight)]
    assert bound[1]["bound_s"] > bound[0]["bound_s"]
    assert bound[1]["bound_s"] <= bound[1]["latency_s"]


def _scaled(factor: float, latency: float = 1.0) -> dict[str, Any]:
    return {
        "device": {
            "name": "any",
            "peak_flops": {"bf16": 500e12 * factor},
            "memory": {"capacity": "80 GB", "bandwidth": 2e12 * factor},
            "compute_units": 100,
            "launch": f"{4 * latency} us",
            "host_sync": f"{20 * latency} us",
        },
        "devices_per_node": 4,
        "nodes": 2,
        "intra": {"kind": "nvlink", "bandwidth": 300e9 * factor, "latency": f"{latency} us"},
        "inter": {"bandwidth": 25e9 * factor, "latency": f"{3 * latency} us"},
        "host": {
            "memory": "1 TB",
            "bandwidth": 300e9 * factor,
            "link": {"kind": "pcie", "bandwidth": 50e9 * factor, "latency": f"{latency} us"},
        },
        "collective_latency": f"{10 * latency} us",
    }


@pytest.mark.parametrize("policy", ["ep", "round_robin", "eplb"])
@pytest.mark.parametrize("kernels", ["fused", "eager"])
def test_doubling_every_rate_halves_every_time(
    policy: str, kernels: str, twice_as_fast: Callable[[str], dict[str, Any]]
) -> None:
    # Constants are shares of rates, and times: those of a device twice as fast in everything are halved.
    faster = Calibrations(twice_as_fast("any"))
    one = latencies(make(policy, kernels=kernels, cluster=_scaled(1.0, 1.0)))
    two = latencies(replace(make(policy, kernels=kernels, cluster=_scaled(2.0, 0.5)), calibrations=faster))
    assert two == pytest.approx(one / 2, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    intra=st.floats(1.0, 8.0),
    inter=st.floats(1.0, 8.0),
    memory=st.floats(1.0, 8.0),
)
def test_more_bandwidth_is_never_slower(policy: str, intra: float, inter: float, memory: float) -> None:
    base = _scaled(1.0)
    faster = _scaled(1.0)
    faster["intra"] = {**base["intra"], "bandwidth": 300e9 * intra}
    faster["inter"] = {**base["inter"], "bandwidth": 25e9 * inter}
    faster["device"] = {**base["device"], "memory": {"capacity": "80 GB", "bandwidth": 2e12 * memory}}
    slow, fast = latencies(make(policy, cluster=base)), latencies(make(policy, cluster=faster))
    assert (fast <= slow * (1 + 1e-12)).all()


def test_same_seed_same_bits() -> None:
    first, second = tables(run(make("llep", seed=7))), tables(run(make("llep", seed=7)))
    for name in first:
        assert first[name].equals(second[name]), name


def test_array_level_costs_few_events_and_event_level_a_fixed_number() -> None:
    setup = make("ep", steps=1)
    moe, devices = len(setup.model.moe_layers), setup.cluster.size
    assert run(setup).steps[0]["events"] == 2 * moe + 1
    events = run(replace(setup, detail="events")).steps[0]["events"]
    # Per device: a start, an end and three timeouts per layer at most; per collective a handful.
    assert events <= devices * (4 + 3 * moe) + 2 * moe * 8 + 4


def test_out_of_memory_is_a_result_that_names_the_holders() -> None:
    cluster = {**_scaled(1.0)}
    cluster["device"] = {**cluster["device"], "memory": {"capacity": "1 MB", "bandwidth": "2 TB/s"}}
    memory = tables(run(make("ep", cluster=cluster)))["memory"]
    assert memory["out_of_memory"].all()
    held = memory.groupby("device")[["bytes"]].sum()["bytes"]
    peak = memory.groupby("device")["peak_bytes"].first()
    assert (abs(held - peak) <= len(memory["owner"].unique())).all()
    assert set(memory["stage"]) <= {"dispatch", "experts", "reorder", "combine"}


def test_skew_shows_as_wait_and_llep_removes_it() -> None:
    skewed = {"exponent": 2.0, "tokens": 4096, "steps": 1}
    ep, llep = tables(run(make("ep", **skewed))), tables(run(make("llep", **skewed)))
    assert llep["steps"]["imbalance"][0] < ep["steps"]["imbalance"][0]
    assert llep["steps"]["wait_s"][0] < ep["steps"]["wait_s"][0]
    assert llep["steps"]["moved_bytes"][0] > 0 == ep["steps"]["moved_bytes"][0]


def test_a_device_without_tokens_waits_but_takes_part() -> None:
    setup = make("ep", tokens=(512, 0, 0, 0, 0, 0, 0, 0))
    devices = tables(run(setup))["devices"]
    assert (devices.loc[devices["device"] == 1, "wait_s"] > 0).all()


def test_catalogue_cluster_runs_decode_of_a_real_shape() -> None:
    setup = make("ep", phase="decode")
    real = replace(setup, cluster=load_cluster("DGX-H100", nodes=1))
    assert latencies(real).min() > 0


@pytest.mark.parametrize("name", ["LongCat-Flash", "Jamba-Mini-1.6", "Gemma-4-26B-A4B"])
def test_models_with_zero_cost_experts_and_odd_layers_run(name: str) -> None:
    model = load_model(name)
    setup = Setup(
        model=model,
        cluster=load_cluster("HGX-H200", nodes=1),
        routing=create_generator(
            "zipf",
            experts=model.experts,
            top_k=model.top_k,
            layers=len(model.moe_layers),
            seed=0,
            exponent=0.6,
        ),
        workload=Workload("decode", 1, 64, 2048),
        policy=create_policy("ep"),
        kernels=kernel_style("deepep"),
    )
    (step,) = run(setup).steps
    assert 0 < step["bound_s"] < step["latency_s"]
