"""Cluster presets, clusters described inline, and the routes that their graphs imply."""

from __future__ import annotations

import contextlib
import pickle
import time
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.hardware import cluster_from_mapping, cluster_names, load_cluster
from moesim.hardware.catalogue import source_texts
from moesim.hardware.exchanges import Exchange, Messages
from moesim.hardware.kernels import kernel_style
from moesim.hardware.presets import preset_mappings
from moesim.hardware.traffic import Traffic

INTRA = {"kind": "nvlink", "bandwidth": "450 GB/s", "latency": "1 us"}
INTER = {"kind": "ib", "bandwidth": "400 Gb/s", "nics_per_node": 8, "latency": "5 us"}
HOST = {"memory": "2 TB", "bandwidth": "600 GB/s", "link": {"kind": "pcie", "bandwidth": "64 GB/s"}}
MANY = {"device": "H100-SXM", "devices_per_node": 8, "nodes": 4, "intra": INTRA, "inter": INTER, "host": HOST}


def route(cluster, source, target):
    return nx.dijkstra_path(cluster.graph, source, target, "cost")


def links_of(cluster, src, dst):
    return {cluster.network.kinds[link] for link in cluster.network.path(src, dst)}


def even(devices, amount):
    """Everybody sends ``amount`` in all, evenly to all, itself included."""
    return Traffic.of_pairs(np.full((devices, devices), amount / devices))


def test_there_are_presets_of_many_makers():
    assert len(cluster_names()) >= 18
    assert {load_cluster(name).device.vendor for name in cluster_names()} >= {
        "NVIDIA",
        "AMD",
        "Huawei",
        "Intel",
    }


@pytest.mark.parametrize("name", cluster_names())
@pytest.mark.parametrize("nodes", [1, 3])
def test_presets_scale_and_stay_connected(name, nodes):
    cluster = load_cluster(name, nodes)
    assert cluster.node_count == nodes
    assert cluster.size == nodes * preset_mappings()[name]["devices_per_node"]
    assert nx.is_strongly_connected(cluster.graph)
    for _, _, link in cluster.graph.edges(data=True):
        assert 0 < link["bandwidth"] <= link["peak_bandwidth"]
        assert link["latency"] >= 0
        assert link["cost"] > 0
    kinds = {kind for _, kind in cluster.graph.nodes(data="kind")}
    assert kinds <= {"device", "switch", "nic", "host", "storage"}
    assert {"device", "host", "storage"} <= kinds


def test_presets_are_sourced():
    for name, preset in preset_mappings().items():
        assert preset["sources"], name
        assert set(preset["sources"]) <= set(source_texts()), name
        assert preset["confidence"] in {"primary", "secondary", "mixed", "assumed"}, name


def test_unknown_preset_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'DGX-H100'"):
        load_cluster("DGX-H10O")


def test_devices_of_a_node_meet_at_the_nvlink_switch():
    cluster = load_cluster("DGX-H100", 2)
    assert route(cluster, "node0/gpu0", "node0/gpu5") == ["node0/gpu0", "node0/nvswitch", "node0/gpu5"]
    assert links_of(cluster, 0, 5) == {"nvlink"}


def test_same_rail_crosses_one_leaf_and_other_rails_the_spine():
    cluster = load_cluster("DGX-H100", 2)
    same, other = route(cluster, "node0/gpu3", "node1/gpu3"), route(cluster, "node0/gpu3", "node1/gpu4")
    assert same[2:5] == ["node0/nic3", "rail3", "node1/nic3"]
    assert other[2:7] == ["node0/nic3", "rail3", "spine", "rail4", "node1/nic4"]
    assert "nvlink" not in links_of(cluster, 3, 12)
    # The network follows the same ways as plain shortest paths by cost.
    names = [cluster.network.names[link] for link in cluster.network.path(3, 12)]
    assert names == [f"{a}->{b}" for a, b in pairwise(other)]


def test_nvl72_is_one_nvlink_domain():
    cluster = load_cluster("GB200-NVL72")
    assert cluster.size == 72
    assert route(cluster, "node0/gpu0", "node0/gpu71")[1:-1] == ["node0/nvswitch"]
    assert sum(kind == "host" for _, kind in cluster.graph.nodes(data="kind")) == 36


def test_unlinked_pairs_of_the_cube_mesh_meet_at_the_host():
    cluster = load_cluster("AWS-p3dn")
    assert links_of(cluster, 0, 3) == {"nvlink"}
    assert links_of(cluster, 0, 5) == {"pcie"}
    lanes = sum(
        d["bandwidth"]
        for _, _, d in cluster.graph.out_edges("node0/gpu0", data=True)
        if d["link"] == "nvlink"
    )
    assert lanes == pytest.approx(150e9 * 0.677)


def test_full_mesh_splits_a_device_s_bandwidth_over_its_peers():
    edge = load_cluster("MI300X-8x").graph.edges["node0/gpu0", "node0/gpu1"]
    assert edge["peak_bandwidth"] == pytest.approx(64e9)


def test_scale_up_planes_join_the_node_switches():
    pod = load_cluster("CloudMatrix384-48x8")
    assert (pod.size, pod.node_count) == (384, 48)
    assert route(pod, "node0/gpu0", "node47/gpu7")[1:-1] == ["node0/ub-switch", "fabric", "node47/ub-switch"]
    other = load_cluster("CloudMatrix384-24x16")
    assert (other.size, other.node_count) == (384, 24)


def test_host_and_storage_are_reached_over_the_device_s_own_link():
    cluster = load_cluster("DGX-H100")
    assert route(cluster, "node0/host", "node0/gpu2") == [
        "node0/host",
        "node0/cpu",
        "node0/pcie2",
        "node0/gpu2",
    ]
    assert route(cluster, "node0/nvme", "node0/gpu2")[-2:] == ["node0/pcie2", "node0/gpu2"]
    assert cluster.graph.nodes["node0/host"]["capacity"] == 2_000_000_000_000


@pytest.mark.parametrize(
    ("name", "busbw", "small_us"),
    [
        ("DGX-A100", 203, 14.8),
        ("DGX-H100", 315, 9.4),
        ("HGX-H200", 311, 9.3),
        ("DGX-B200", 563, 13.0),
        ("RTX-PRO-6000-8x-PCIe", 18.4, 11.7),
        ("L40S-8x-PCIe", 2.0, 11.9),
    ],
)
def test_single_node_all_to_all_meets_the_measured_bus_bandwidth(name, busbw, small_us):
    exchange = Exchange(load_cluster(name), kernel_style("fused"))
    assert exchange.name == "nccl"

    def seconds(size):
        return exchange.cost("dispatch", Messages(even(8, size), np.ones(8), 1.0))[0].seconds[0]

    size = 512 * 2**20
    assert size * 7 / 8 / seconds(size) / 1e9 == pytest.approx(busbw, rel=0.06)
    assert seconds(8) * 1e6 == pytest.approx(small_us, rel=0.45)


@pytest.mark.parametrize("nodes", [2, 4, 16])
def test_all_to_all_between_nodes_is_limited_by_the_nics(nodes):
    # NVIDIA's rule for nccl-tests: at most N / (N - 1) times the NIC per device.
    cluster = load_cluster("DGX-H100", nodes)
    size, nic = 2.0**30, 50e9 * 0.94
    rate = size / cluster.network.drain_seconds(even(cluster.size, size))[0]
    assert rate == pytest.approx(nodes / (nodes - 1) * nic)


def test_oversubscription_slows_what_changes_rails():
    blocked = cluster_from_mapping(MANY | {"inter": INTER | {"oversubscription": 8}})
    free = cluster_from_mapping(MANY)
    work = even(32, 2.0**30)
    assert blocked.network.drain_seconds(work)[0] > 3 * free.network.drain_seconds(work)[0]


def test_fewer_nics_than_devices_are_shared_and_more_are_bonded():
    few = cluster_from_mapping(MANY | {"inter": INTER | {"nics_per_node": 2}})
    assert {kind for kind in few.graph.nodes if kind.startswith("node0/nic")} == {"node0/nic0", "node0/nic1"}
    assert "node0/nic1" in route(few, "node0/gpu7", "node1/gpu7")
    many = cluster_from_mapping(MANY | {"inter": INTER | {"nics_per_node": 32}})
    assert many.graph.edges["node0/nic0", "rail0"]["bandwidth"] == pytest.approx(200e9)


@settings(max_examples=25, deadline=None)
@given(
    per_node=st.integers(1, 6),
    nodes=st.integers(1, 4),
    nics=st.integers(1, 9),
    intra=st.sampled_from(["switch", "full_mesh", "shared"]),
    inter=st.sampled_from(["rail", "flat"]),
    host=st.sampled_from([None, HOST]),
    factor=st.floats(1.0, 4.0),
)
def test_any_cluster_is_connected_and_faster_links_are_never_slower(
    per_node, nodes, nics, intra, inter, host, factor
):
    def build(scale):
        return cluster_from_mapping(
            MANY
            | {"devices_per_node": per_node, "nodes": nodes, "host": host}
            | {"intra": {"bandwidth": 100e9 * scale, "topology": intra}}
            | {"inter": {"bandwidth": 25e9 * scale, "nics_per_node": nics, "topology": inter}}
        )

    slow, fast = build(1.0), build(factor)
    assert nx.is_strongly_connected(slow.graph)
    work = even(slow.size, 1e9)
    assert fast.network.drain_seconds(work)[0] <= slow.network.drain_seconds(work)[0] * (1 + 1e-12)


def test_subset_keeps_the_first_devices_and_drops_idle_nodes():
    part = load_cluster("DGX-H100", 4).subset(12)
    assert part.size == 12
    assert part.node_of.tolist() == [0] * 8 + [1] * 4
    assert "node2/gpu0" not in part.graph
    assert part.device_nodes[11] == "node1/gpu3"
    with pytest.raises(InputError, match="has 12 devices; 13"):
        load_cluster("DGX-H100", 4).subset(12).subset(13)


def test_groups_mix_device_types():
    groups = [{"device": "H100-SXM", "nodes": 1}, {"device": "H20", "nodes": 2, "devices_per_node": 4}]
    cluster = cluster_from_mapping({"groups": groups, "intra": INTRA, "inter": INTER})
    assert [device.name for device in cluster.devices] == ["H100-SXM"] * 8 + ["H20"] * 8
    assert cluster.node_of.tolist() == [0] * 8 + [1] * 4 + [2] * 4
    with pytest.raises(InputError, match="mixes device types \\(H100-SXM, H20\\)"):
        _ = cluster.device


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intra": INTRA | {"bandwith": 1}}, "key of 'intra' named 'bandwith' .did you mean 'bandwidth'"),
        ({"intra": INTRA | {"bandwidth": 0}}, "'intra.bandwidth' must be from 1"),
        ({"intra": INTRA | {"bandwidth": "-3 GB/s"}}, "'intra.bandwidth'.*not negative"),
        ({"intra": INTRA | {"bandwidth": float("nan")}}, "'intra.bandwidth'.*finite"),
        ({"inter": INTER | {"bandwidth": float("inf")}}, "'inter.bandwidth'.*finite"),
        ({"inter": INTER | {"latency": "2 h"}}, "'inter.latency' must be from 0 to 60 s"),
        ({"intra": INTRA | {"topology": "swich"}}, "did you mean 'switch'"),
        ({"intra": INTRA | {"topology": "cube_mesh"}, "devices_per_node": 4}, "exactly 8 devices"),
        ({"intra": INTRA | {"topology": "full_mesh"}, "devices_per_node": 100}, "at most 64"),
        ({"intra": INTRA | {"total": "1 GB/s"}}, "belongs to topology shared only"),
        ({"intra": None, "host": None}, "8 devices of a node are not connected"),
        ({"inter": None}, "'inter' is missing: the 4 nodes are not connected"),
        (
            {"inter": INTER | {"topology": "scale_up"}, "intra": INTRA | {"topology": "full_mesh"}},
            "scale_up joins",
        ),
        ({"nodes": 10**6}, "'nodes' must be a whole number from 1 to 65536"),
        ({"nodes": 65536}, "gives 524288 devices"),
        ({"nodes": 10**400}, "a number beyond 1e18"),
        ({"collective_latency": 10**5000}, "'collective_latency'"),
        ({"host": {10**5000: 1}}, "keys of 'host' must be texts"),
        ({"devices_per_node": 0}, "'devices_per_node' must be a whole number"),
        ({"nodes": 2.5}, "'nodes' must be a whole number"),
        ({"device": "H1OO"}, "no device named 'H1OO'"),
        ({"device": 3}, "'device' must be a device name"),
        (
            {"device": {"peak_flops": {"bf16": "1 TFLOP/s"}, "memory": {"capacity": -1}}},
            "'device.memory.capacity'",
        ),
        ({"groups": [{"device": "H20"}]}, "'device' and 'groups' cannot both be given"),
        ({"host": None, "storage": {"capacity": 1e12, "bandwidth": 1e9}}, "'storage' needs 'host'"),
        ({"host": HOST | {"link": None}}, "'host' needs 'link'"),
        ({"collective_latency": "soon"}, "'collective_latency'.*expected a quantity"),
        ({"colective_latency": 1}, "did you mean 'collective_latency'"),
    ],
)
def test_impossible_clusters_are_refused_naming_the_key(change, message):
    with pytest.raises(InputError, match=message):
        cluster_from_mapping(MANY | change)


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(key=st.sampled_from([*MANY, "groups", "storage", "name", "collective_latency"]), junk=_JUNK)
def test_junk_never_ends_in_anything_but_an_input_error(key, junk):
    with contextlib.suppress(InputError):
        assert cluster_from_mapping(MANY | {key: junk}).size >= 1


def test_clusters_survive_pickling():
    cluster = load_cluster("DGX-H100", 2).subset(9)
    again = pickle.loads(pickle.dumps(cluster))
    assert again.devices == cluster.devices
    assert again.node_of.tolist() == cluster.node_of.tolist()
    assert sorted(again.graph.edges) == sorted(cluster.graph.edges)


def test_a_cluster_of_256_devices_is_built_in_a_moment():
    start = time.process_time()
    cluster = load_cluster("DGX-H100", 32)
    assert cluster.graph.number_of_nodes() > 256
    assert time.process_time() - start < 0.5  # about 10 ms; the margin is for slow machines
