"""What libraries take to move tokens: published tables, physics, and odd clusters."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import moesim.hardware.exchanges as exchanges
from moesim.cli import main
from moesim.engine.reach import group_spared
from moesim.engine.sends import once_per_device, once_per_node
from moesim.errors import InputError
from moesim.hardware import cluster_from_mapping, load_cluster
from moesim.hardware.calibrations import Calibrations
from moesim.hardware.exchanges import Exchange, Messages, measured
from moesim.hardware.expert_exchange import (
    LowLatencyConstants,
    NormalConstants,
    RackConstants,
    low_latency_seconds,
    normal_seconds,
    rack_seconds,
)
from moesim.hardware.group_collectives import group_collective_seconds
from moesim.hardware.kernels import EXCHANGES, KernelStyle, kernel_style
from moesim.hardware.network_constants import model_constants
from moesim.hardware.traffic import Traffic
from moesim.policies import create_policy
from moesim.scenario import loads_scenario
from moesim.scenario.build import build_setup

STYLES = ("fused", "deepep", "deepep_low_latency", "rack")
TOP_K = 8


@cache
def machines(style: str, intra: float = 1.0, inter: float = 1.0, nodes: int = 2) -> Any:
    name = "GB200" if style == "rack" else "H100-SXM"
    return cluster_from_mapping(
        {
            "device": name,
            "devices_per_node": 4,
            "nodes": nodes,
            "intra": {"kind": "nvlink", "bandwidth": 450e9 * intra, "efficiency": 0.8},
            "inter": {"bandwidth": 50e9 * inter, "efficiency": 0.94, "nics_per_node": 4, "latency": 5e-6},
        }
    )


def messages(style: KernelStyle, copies: Any, tokens: Any, node_of: Any, row: float = 7168.0) -> Messages:
    traffic, tokens = Traffic.of_pairs(copies), np.asarray(tokens, dtype=np.float64)
    if style.sends == "copies":
        return Messages(traffic, tokens, row, None, 32.0)
    if style.sends == "devices":
        return Messages(once_per_device(traffic, tokens, TOP_K), tokens, row, None, 32.0)
    relayed = once_per_node(traffic, tokens, TOP_K, node_of)
    return Messages(relayed.traffic, tokens, row, relayed.node_pairs, 32.0)


def even(devices: int, tokens: float) -> np.ndarray:
    return np.full((1, devices, devices), tokens * TOP_K / devices)


def seconds(name: str, cluster: Any, copies: Any, tokens: Any, direction: Any = "dispatch") -> np.ndarray:
    style = kernel_style(name)
    exchange = Exchange(cluster, style)
    assert exchange.name == style.exchange
    return exchange.cost(direction, messages(style, copies, tokens, cluster.node_of))[0].seconds


def reproduced() -> list[dict[str, Any]]:
    result = CliRunner().invoke(main, ["reproduce", "deepep", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["rows"]


@pytest.fixture(scope="module")
def deepep() -> dict[str, list[dict[str, Any]]]:
    figures: dict[str, list[dict[str, Any]]] = {}
    for row in reproduced():
        figures.setdefault(row["figure"], []).append(row)
    return figures


def test_published_times_of_deepep_are_met(deepep) -> None:
    assert len(deepep) == 6
    for name, rows in deepep.items():
        errors = [abs(row["relative_error"]) for row in rows]
        assert statistics.median(errors) <= 0.05, name
        # One point alone misses by more: dispatch inside one node of H800 over NVLink (-19 %).
        assert sorted(errors)[-2] <= 0.11, name
        assert max(errors) <= 0.20, name
    assert (
        max(abs(row["relative_error"]) for name in deepep if "Normal" in name for row in deepep[name]) <= 0.1
    )


@pytest.mark.parametrize("direction", ["dispatch", "combine"])
def test_low_latency_over_the_nic_alone_is_flat_and_with_nvlink_rises(deepep, direction: str) -> None:
    flat, rising = (
        [row["predicted"] for row in deepep[f"Low-latency kernels, {way}, {direction}"]]
        for way in ("NIC only", "NVLink")
    )
    assert flat[-1] / flat[0] < 1.4
    assert rising[-1] / rising[0] > 2.2
    assert flat == sorted(flat)
    assert rising == sorted(rising)
    assert all(one <= other for one, other in zip(rising, flat, strict=True))


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("direction", ["dispatch", "combine"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), tokens=st.sampled_from([1, 16, 128, 4096]), more=st.floats(1.0, 5.0))
def test_more_bytes_are_never_faster(name: str, direction: str, seed: int, tokens: int, more: float) -> None:
    copies = np.random.default_rng(seed).dirichlet(np.full(8, 0.5), size=(2, 8)) * tokens * TOP_K
    cluster = machines(name)
    first = seconds(name, cluster, copies, np.full(8, tokens), direction)
    second = seconds(name, cluster, copies * more, np.full(8, tokens * more), direction)
    assert (second >= first * (1 - 1e-12)).all()
    assert (first > 0).all()


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tokens=st.sampled_from([1, 128, 4096]),
    intra=st.sampled_from([1.0, 1.3, 8.0]),
    inter=st.sampled_from([1.0, 1.3, 8.0]),
)
def test_more_bandwidth_is_never_slower(
    name: str, seed: int, tokens: int, intra: float, inter: float
) -> None:
    copies = np.random.default_rng(seed).dirichlet(np.full(8, 0.5), size=(2, 8)) * tokens * TOP_K
    slow = seconds(name, machines(name), copies, np.full(8, tokens))
    fast = seconds(name, machines(name, intra, inter), copies, np.full(8, tokens))
    assert (fast <= slow * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=25, deadline=None)
@given(hot=st.integers(0, 7), share=st.floats(0.0, 1.0), tokens=st.sampled_from([1, 128, 4096]))
def test_a_hot_device_is_never_faster_than_even_load(name: str, hot: int, share: float, tokens: int) -> None:
    cluster = machines(name)
    skewed = even(8, tokens) * (1 - share)
    skewed[:, :, hot] += share * tokens * TOP_K
    # Tokens whose copies all go to one device need fewer messages: only kernels that send copies compare.
    if kernel_style(name).sends == "copies":
        fair, hard = (seconds(name, cluster, c, np.full(8, tokens)) for c in (even(8, tokens), skewed))
        assert (hard >= fair * (1 - 1e-12)).all()
    source = even(8, tokens)
    source[:, hot] *= 1 + 3 * share
    busy = np.full(8, float(tokens))
    busy[hot] *= 1 + 3 * share
    level = np.full(8, busy.mean())
    fair, hard = seconds(name, cluster, even(8, busy.mean()), level), seconds(name, cluster, source, busy)
    assert (hard >= fair * (1 - 1e-9)).all()


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("direction", ["dispatch", "combine"])
def test_twice_the_rates_and_half_the_latencies_halve_the_time(
    name: str, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = np.random.default_rng(3).dirichlet(np.full(8, 0.5), size=(3, 8)) * 500 * TOP_K
    one = seconds(name, machines(name), copies, np.full(8, 500), direction)
    plain = Exchange._constants
    monkeypatch.setattr(Exchange, "_constants", lambda *words: plain(*words).faster(2.0))
    faster = machines.__wrapped__(name, 2.0, 2.0)
    network = faster.network
    faster.__dict__["network"] = replace(
        network, latency=network.latency / 2, hop_latency=network.hop_latency / 2
    )
    assert seconds(name, faster, copies, np.full(8, 500), direction) == pytest.approx(one / 2, rel=1e-9)


@pytest.mark.parametrize("name", [*STYLES, "eager"])
def test_what_flows_and_what_waits_add_up_to_the_whole(name: str) -> None:
    copies = np.random.default_rng(5).dirichlet(np.full(8, 0.3), size=(4, 8)) * 900 * TOP_K
    copies[0] = np.diag(np.full(8, 100.0))
    style, cluster = kernel_style(name), machines(name)
    exchange = Exchange(cluster, style)
    out, legs = exchange.cost("dispatch", messages(style, copies, np.full(8, 900), cluster.node_of))
    weights = np.zeros((4, 8, 8))
    weights[2, 1, 6] = 88e6
    joint = exchange.joint(out, legs, Traffic.of_pairs(weights))
    for cost in (out, joint):
        drain = cluster.network.drain(cost.link_bytes)
        assert cost.latency + drain == pytest.approx(cost.seconds, rel=1e-12)
        assert (cost.latency >= 0).all()
    assert out.seconds[0] == 0
    assert joint.seconds[2] > out.seconds[2] + 0.5e-3
    assert (joint.seconds >= out.seconds).all()


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("cluster", ["DGX-H100", "AWS-p3dn", "Atlas-800-A2", "L40S-8x-PCIe"])
def test_the_way_back_costs_what_its_own_traffic_costs(name: str, cluster: str) -> None:
    made, style = load_cluster(cluster, 2), kernel_style(name)
    copies = np.random.default_rng(4).dirichlet(np.full(16, 0.5), size=(3, 16)) * 300 * TOP_K
    copies[1] = np.diag(np.full(16, 9.0))
    exchange = Exchange(made, style)
    out = messages(style, copies, np.full(16, 300), made.node_of)
    back = exchange.round_trip(out, 2 * out.row_bytes)[1]
    alone, _ = exchange.cost(
        "combine", replace(out, traffic=out.traffic.reversed(), row_bytes=2 * out.row_bytes)
    )
    assert back.seconds == pytest.approx(alone.seconds, rel=1e-9)
    assert back.link_bytes == pytest.approx(alone.link_bytes, rel=1e-9, abs=1e-3)
    if cluster == "DGX-H100":
        assert made.network.opposite is not None


@pytest.mark.parametrize("name", STYLES)
def test_both_forms_of_traffic_cost_the_same(name: str) -> None:
    rng, style, cluster = np.random.default_rng(1), kernel_style(name), machines(name)
    tokens = rng.integers(1, 900, 8).astype(np.float64)
    pooled = Traffic.pooled(rng.dirichlet(np.ones(8), size=3) * tokens.sum() * TOP_K, tokens / tokens.sum())
    exchange, costs = Exchange(cluster, style), []
    for traffic in (pooled, Traffic.of_pairs(pooled.dense())):
        sent, pairs = traffic, None
        if style.sends == "devices":
            sent = once_per_device(traffic, tokens, TOP_K)
        if style.sends == "nodes":
            relayed = once_per_node(traffic, tokens, TOP_K, cluster.node_of)
            sent, pairs = relayed.traffic, relayed.node_pairs
        out = Messages(sent, tokens, 7168.0, pairs)
        back = replace(out, traffic=sent.reversed())
        costs.append([exchange.cost(way, m)[0].seconds for way, m in (("dispatch", out), ("combine", back))])
    assert np.asarray(costs[0]) == pytest.approx(np.asarray(costs[1]), rel=1e-9)


@pytest.mark.parametrize("name", ["deepep", "deepep_low_latency", "rack"])
@pytest.mark.parametrize("nodes", [1, 2, 4])
@pytest.mark.parametrize("direction", ["dispatch", "combine"])
def test_even_traffic_costs_what_the_scored_models_say(name: str, nodes: int, direction: Any) -> None:
    style, cluster = kernel_style(name), load_cluster("DGX-H100", nodes)
    if name == "rack":
        cluster = load_cluster("GB200-NVL72").subset(16 * nodes)
    size, row, tokens = cluster.size, 7168.0, 512.0
    priced = seconds(name, cluster, even(size, tokens), np.full(size, tokens), direction)
    device = cluster.devices[0]
    section = {"deepep": "normal", "deepep_low_latency": "low_latency", "rack": "rack"}[name]
    values = model_constants(f"{section}_{direction}", device.name)
    reach = [units * (1 - (1 - 1 / units) ** TOP_K) for units in (nodes, size)]
    if name == "rack":
        scored = rack_seconds(tokens, reach[1], row, size, 900e9, RackConstants.of(values))
    elif name == "deepep":
        sms = style.exchange_sms
        scored = normal_seconds(tokens, *reach, row, nodes, 8, sms, 450e9, 47e9, NormalConstants.of(values))
    else:
        scored = low_latency_seconds(
            tokens, TOP_K, 32 * size, row, nodes, 8, 132, 450e9, 47e9, LowLatencyConstants.of(values)
        )
    assert priced[0] == pytest.approx(float(scored), rel=1e-9)


@pytest.mark.parametrize("nodes", [2, 4, 16])
def test_large_all_to_alls_between_nodes_reach_what_nics_allow(nodes: int) -> None:
    cluster = load_cluster("DGX-H100", nodes)
    size = 2.0**40
    copies = np.full((1, cluster.size, cluster.size), size / cluster.size)
    out, _ = Exchange(cluster, kernel_style("fused")).cost(
        "dispatch", Messages(Traffic.of_pairs(copies), np.ones(cluster.size), 1.0)
    )
    assert size / out.seconds[0] == pytest.approx(nodes / (nodes - 1) * 47e9, rel=1e-4)


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("cluster", ["Atlas-A3", "H20"])
def test_what_was_not_measured_costs_a_latency_and_links_that_drain(name: str, cluster: str) -> None:
    made = cluster_from_mapping(
        {
            "device": "H20" if cluster == "H20" else "Ascend-910B",
            "devices_per_node": 4,
            "intra": {"kind": "hccs", "bandwidth": 392e9, "latency": 1e-6},
            "collective_latency": 2e-5,
        }
    )
    style = kernel_style(name)
    exchange = Exchange(made, style)
    assert exchange.name == "plain"
    cost, _ = exchange.cost("dispatch", messages(style, even(4, 64), np.full(4, 64), made.node_of))
    assert cost.latency == pytest.approx(2.1e-5)


def test_a_cluster_of_measured_and_other_devices_is_priced_plainly() -> None:
    groups = [{"device": name, "nodes": 1, "devices_per_node": 2} for name in ("H100-SXM", "H200-SXM", "H20")]
    wires = {"intra": {"kind": "nvlink", "bandwidth": 450e9}, "inter": {"bandwidth": 50e9}}
    assert not measured(cluster_from_mapping({"groups": groups, **wires}), "nccl", Calibrations())
    mixed = cluster_from_mapping({"groups": groups[:2], **wires})
    assert measured(mixed, "nccl", Calibrations())
    slower = [seconds("fused", mixed.subset(2), even(2, 500), np.full(2, 500))]
    assert (seconds("fused", mixed, even(4, 500), np.full(4, 500)) > slower[0]).all()


def test_unknown_and_impossible_exchanges_are_refused() -> None:
    with pytest.raises(InputError, match=r"exchange named 'nkcl' .did you mean 'nccl'"):
        kernel_style({"base": "fused", "exchange": "nkcl"})
    with pytest.raises(InputError, match="sends per nodes, not per copies"):
        kernel_style({"base": "deepep", "sends": "copies"})
    with pytest.raises(InputError, match="exchange_sms"):
        kernel_style({"base": "deepep", "exchange_sms": 0})
    alone = cluster_from_mapping({"device": "H100-SXM", "intra": {"kind": "nvlink", "bandwidth": 450e9}})
    with pytest.raises(InputError, match="NICs"):
        Exchange(alone, kernel_style({"base": "deepep_low_latency", "nvlink": False}))


@pytest.mark.parametrize("name", EXCHANGES)
def test_naming_an_exchange_is_enough(name: str) -> None:
    style = kernel_style({"base": "fused", "exchange": name})
    assert style.exchange == name
    assert style.sends in ("copies", "devices", "nodes")


def test_compute_units_held_by_the_exchange() -> None:
    assert kernel_style("deepep").sm_share(132) == pytest.approx(20 / 132)
    assert kernel_style("deepep_low_latency").sm_share(132) == 0
    assert kernel_style({"base": "deepep", "exchange_sms": 24}).sm_share(16) == 1


@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "reduce_scatter"])
def test_tensor_parallel_groups_cost_what_was_measured_and_rings_between_nodes(operation: Any) -> None:
    cluster, sizes = load_cluster("DGX-H100", 2), 2.0 ** np.arange(4, 30).reshape(2, 13)
    inside, between = (group_collective_seconds(cluster, operation, sizes, group) for group in (8, 16))
    assert inside.shape == sizes.shape
    assert (np.diff(inside.ravel()) >= 0).all()
    assert (between >= inside).all()
    assert (between > inside).any()
    assert group_collective_seconds(cluster, operation, sizes, 1).sum() == 0
    assert group_collective_seconds(cluster, operation, 0.0, 8) == 0
    for wrong in ({"size": -1.0}, {"size": np.nan}, {"group_size": 17}, {"operation": "allreduce"}):
        with pytest.raises(InputError):
            group_collective_seconds(
                cluster, **{"operation": operation, "size": 1.0, "group_size": 2, **wrong}
            )


def test_the_group_limit_counts_where_groups_stand_together() -> None:
    description: dict[str, Any] = {
        "model": "DeepSeek-V3",
        "cluster": {"name": "HGX-H800", "nodes": 8},
        "routing": {"generator": "uniform"},
        "workload": {"steps": 1, "tokens_per_device": 64, "moe_only": True},
        "kernels": "deepep",
        "policies": ["ep", "round_robin"],
    }
    shares = [
        group_spared(build_setup(loads_scenario(json.dumps(description)), create_policy(policy)))
        for policy in ("ep", "round_robin")
    ]
    assert shares[0][1] == pytest.approx(3.98 / 5.28, rel=0.01)
    assert (shares[0][0] < 1).all()
    assert (shares[1][1] == 1).all()


def test_messages_once_per_node_are_worked_out_quickly() -> None:
    copies = np.random.default_rng(0).random((58, 256, 256)) * 8
    node_of, best = np.repeat(np.arange(32), 8), np.inf
    for _ in range(3):
        began = time.process_time()
        once_per_node(Traffic.of_pairs(copies), np.full(256, 128.0), 8, node_of)
        best = min(best, time.process_time() - began)
    assert best < 0.25  # 0.045 s on one idle core; the loops before took 0.14 s


def test_module_says_which_models_it_prices() -> None:
    assert set(exchanges._MODELS) | {"plain", "gather"} == set(EXCHANGES)
