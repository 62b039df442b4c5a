"""The catalogue of host and storage links, and clusters that name them."""

from __future__ import annotations

import pytest

from moesim.errors import InputError
from moesim.hardware import cluster_from_mapping, link_names, load_cluster, load_link
from moesim.hardware.catalogue import read_data, source_texts
from moesim.hardware.link_catalogue import ROLES
from moesim.hardware.presets import preset_mappings

HOST = {"memory": "128 GB", "dram": "ddr4-3200", "channels": 2, "link": "pcie4"}
ONE = {"device": "RTX-4090", "devices_per_node": 1, "host": HOST, "storage": "nvme-gen4"}


def edge(cluster, source, target):
    return cluster.graph.edges[f"node0/{source}", f"node0/{target}"]


@pytest.mark.parametrize("name", link_names())
def test_every_link_is_plausible_and_sourced(name):
    link = load_link(name)
    assert 0 < link.load <= link.nominal
    assert 0 < link.store <= link.nominal_store
    if link.both is not None:
        assert max(link.load, link.store) * 0.7 < link.both <= link.load + link.store
    assert 0 <= link.latency_s < 2e-3
    assert 0 <= link.start_s <= 1e-4
    assert (link.capacity is not None) == (link.role == "storage")
    assert link.role in ROLES
    assert link.sources
    assert set(link.sources) <= set(source_texts())
    assert link.confidence in {"primary", "secondary", "mixed", "assumed"}
    assert set(link.unverified) <= {"nominal", "nominal_store", "load", "store", "both", "latency", "start"}
    assert link.seen == "2026-11"


def test_links_of_the_offloading_papers_are_there():
    kinds = {load_link(name).kind for name in link_names()}
    assert kinds >= {"pcie", "c2c", "dram", "nvme", "sata", "ufs", "emmc", "usb", "sd", "staging"}


def test_names_and_aliases_are_found_in_any_case_and_never_collide():
    words = [word.lower() for name in link_names() for word in (name, *load_link(name).aliases)]
    assert len(words) == len(set(words))
    assert load_link("PCIe5-x16") is load_link("pcie5")


def test_unknown_link_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'pcie4'"):
        load_link("pcie-4")


def test_half_the_lanes_move_half_as_much_and_a_copy_costs_the_same():
    full, half = load_link("pcie4"), load_link("pcie4-x8")
    for key in ("nominal", "nominal_store", "load", "store", "both"):
        assert getattr(half, key) == pytest.approx(getattr(full, key) / 2)
    assert (half.start_s, half.latency_s) == (full.start_s, full.latency_s)


def test_clusters_name_links_and_get_their_rates_by_direction():
    cluster = cluster_from_mapping(ONE)
    link, drive, dram = load_link("pcie4"), load_link("nvme-gen4"), load_link("ddr4-3200")
    assert edge(cluster, "pcie0", "gpu0")["bandwidth"] == pytest.approx(link.load)
    assert edge(cluster, "gpu0", "pcie0")["bandwidth"] == pytest.approx(link.store)
    assert edge(cluster, "gpu0", "pcie0")["peak_bandwidth"] == pytest.approx(link.nominal)
    assert edge(cluster, "nvme", "cpu")["bandwidth"] == pytest.approx(drive.load)
    assert edge(cluster, "cpu", "nvme")["bandwidth"] == pytest.approx(drive.store)
    assert edge(cluster, "cpu", "nvme")["peak_bandwidth"] == pytest.approx(5e9)
    assert edge(cluster, "host", "cpu")["bandwidth"] == pytest.approx(2 * dram.load)
    assert cluster.graph.nodes["node0/nvme"]["capacity"] == drive.capacity


def test_drives_side_by_side_add_up():
    storage = {"base": "nvme-gen4", "drives": 4}
    cluster = cluster_from_mapping(ONE | {"storage": storage})
    assert edge(cluster, "nvme", "cpu")["bandwidth"] == pytest.approx(4 * load_link("nvme-gen4").load)
    assert cluster.graph.nodes["node0/nvme"]["capacity"] == 8e12


def test_what_stands_beside_base_replaces_the_catalogue():
    link = {"base": "pcie5", "efficiency": 0.5, "latency": "3 us"}
    wire = cluster_from_mapping(ONE | {"host": HOST | {"link": link}}).shape.host.link
    assert (wire.kind, wire.latency, wire.start) == ("pcie", 3e-6, load_link("pcie5").start_s)
    assert wire.usable == wire.store_usable == pytest.approx(31.5e9)
    assert wire.both is None
    slow = {"base": "pcie5", "latency": "3 us"}
    kept = cluster_from_mapping(ONE | {"host": HOST | {"link": slow}}).shape.host.link
    assert (kept.usable, kept.both) == (pytest.approx(56.3e9), pytest.approx(101.8e9))


def test_links_in_numbers_are_the_same_both_ways_unless_told():
    link = {"kind": "pcie", "bandwidth": "64 GB/s", "efficiency": 0.5}
    wire = cluster_from_mapping(ONE | {"host": HOST | {"link": link}}).shape.host.link
    assert wire.usable == wire.store_usable == pytest.approx(32e9)
    link |= {"store_bandwidth": "32 GB/s", "both": "40 GB/s"}
    wire = cluster_from_mapping(ONE | {"host": HOST | {"link": link}}).shape.host.link
    assert (wire.usable, wire.store_usable, wire.both) == pytest.approx((32e9, 16e9, 40e9))


def test_unified_memory_is_the_device_s_own():
    cluster = load_cluster("Jetson-AGX-Orin")
    memory = cluster.device.memory
    assert cluster.graph.nodes["node0/host"]["capacity"] == memory.capacity == 32e9
    assert edge(cluster, "host", "cpu")["bandwidth"] == pytest.approx(0.8 * memory.bandwidth)


def test_devices_behind_a_switch_share_one_link():
    host = HOST | {"devices_per_switch": 2}
    four = {"devices_per_node": 4, "host": host, "intra": {"kind": "nvlink", "bandwidth": "100 GB/s"}}
    graph = cluster_from_mapping(ONE | four).graph
    switches = [name for name in graph if "pciswitch" in name]
    assert sorted(switches) == ["node0/pciswitch0", "node0/pciswitch1"]
    assert graph.edges["node0/pciswitch0", "node0/pcie1"]["bandwidth"] == pytest.approx(25.1e9)
    assert not graph.has_edge("node0/cpu", "node0/pcie1")


def test_presets_take_host_links_from_the_catalogue():
    for name, preset in preset_mappings().items():
        host, storage = preset["host"], preset["storage"]
        if host["memory"] == "unified":
            continue
        named = host["link"] if isinstance(host["link"], str) else host["link"]["base"]
        assert load_link(named).role == "host link", name
        assert isinstance(storage, str) or "base" in storage, name
    # Those that say otherwise have a source of their own for it.
    own = {name for name, entry in preset_mappings().items() if isinstance(entry["host"].get("link"), dict)}
    assert own == {"Atlas-800-A2", "CloudMatrix384-48x8", "CloudMatrix384-24x16"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"host": HOST | {"link": "pcie9000"}}, "'host.link.base': there is no link named 'pcie9000'"),
        ({"host": HOST | {"link": "pci4"}}, "did you mean 'pcie4'"),
        ({"host": HOST | {"link": "nvme-gen4"}}, "'nvme-gen4' is a link for storage, not for host link"),
        (
            {"host": HOST | {"link": {"base": "pcie4", "bandwidth": 0}}},
            "'host.link.bandwidth' must be from 1",
        ),
        ({"host": HOST | {"link": {"base": "pcie4", "both": 0}}}, "'host.link.both' must be from 1"),
        ({"host": HOST | {"link": {"base": "pcie4", "lanes": 8}}}, "key of 'host.link' named 'lanes'"),
        ({"host": HOST | {"link": {"kind": "pcie"}}}, "'host.link' needs 'bandwidth'"),
        ({"host": HOST | {"link": 7}}, "'host.link' must be the name of a link"),
        ({"host": HOST | {"link": {"base": ["pcie4"]}}}, "'host.link.base' must be the name of a link"),
        ({"host": HOST | {"dram": "pcie4"}}, "is a link for host link, not for memory"),
        ({"host": HOST | {"channels": 0}}, "'host.channels' must be a whole number"),
        ({"host": HOST | {"bandwidth": "1 GB/s"}}, "'host.bandwidth' and 'host.dram' cannot both"),
        ({"host": HOST | {"dram": None}}, "'host.channels' needs 'host.dram'"),
        ({"host": HOST | {"devices_per_switch": 3, "devices_per_host": 4}}, "must divide 'devices_per_host'"),
        ({"host": {"memory": "unified", "link": "pcie4"}}, "'host.link' has no meaning with unified memory"),
        ({"host": {"memory": "unified"}, "devices_per_node": 2}, "unified needs nodes of one device"),
        ({"storage": "nvme"}, "did you mean 'nvme-gen"),
        ({"storage": "pcie4"}, "is a link for host link, not for storage"),
        ({"storage": {"base": "nvme-gen4", "drives": 0}}, "'storage.drives' must be a whole number"),
        ({"storage": {"base": "nvme-gen4", "start": "-1 us"}}, "'storage.start'.*not negative"),
        ({"storage": {"bandwidth": "1 GB/s"}}, "'storage' needs 'capacity'"),
        ({"host": None}, "'storage' needs 'host'"),
    ],
)
def test_impossible_links_are_refused_naming_the_key(change, message):
    with pytest.raises(InputError, match=message):
        cluster_from_mapping(ONE | change)


def test_the_catalogue_says_no_number_twice():
    # A preset with a bandwidth of its own beside a catalogued link would be a second truth.
    for file in ("clusters_nvidia", "clusters_edge"):
        for name, preset in read_data(file).items():
            assert "bandwidth" not in preset["host"], name
            assert isinstance(preset["storage"], str) or "bandwidth" not in preset["storage"], name
