"""Physics of offloading runs: faster links, larger caches, several devices, drives, layer streaming."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from offload_runs import WIRE, described, descriptions, ran

import moesim
from moesim.engine.offload.machine import HITS, LOADS
from moesim.errors import InputError
from moesim.scenario import loads_scenario

Mapping = dict[str, Any]
WEIGHTS = 3 * 64 * 128 * 2
ONE = ((1, 1),)


def with_link(description: Mapping, **wire: Any) -> Mapping:
    made = json.loads(json.dumps(description))
    made["cluster"]["host"]["link"] |= wire
    return made


def offloading(description: Mapping, **changes: Any) -> Mapping:
    made = json.loads(json.dumps(description))
    made["policies"][0]["offload"] |= changes
    return made


@settings(max_examples=15)
@given(description=descriptions(caches=["lru", "lfu", "belady"], prefetches=["none"], misses=["load"]))
def test_a_faster_link_is_never_slower(description: Mapping) -> None:
    link = description["cluster"]["host"]["link"]
    quick = with_link(description, bandwidth=link["bandwidth"] * 1.7)
    before, after = ran(description), ran(quick)
    for one, other in zip(before.records, after.records, strict=True):
        assert other.end - other.begin <= (one.end - one.begin) * (1 + 1e-9)
    assert before.totals == after.totals


@settings(max_examples=5)
@given(description=descriptions(caches=["lru"], prefetches=["none"], misses=["load"], devices=ONE))
def test_belady_hits_most_and_more_with_more_room(description: Mapping) -> None:
    """One token at a time; a prompt that does not fit may leave behind what another order would not."""
    description["workload"] = {"phase": "decode", "steps": 12, "tokens_per_device": 1, "context": 16}
    k, experts = (description["model"][key] for key in ("top_k", "num_routed_experts"))
    hits = []
    for slots in range(k, experts + 1, 2):
        cold = offloading(description, slots=slots, warm=False, store="host")
        found = {name: ran(offloading(cold, cache=name)).totals["hits"] for name in ("lru", "lfu", "belady")}
        assert found["belady"] >= max(found.values())
        hits.append(found["belady"])
    assert hits == sorted(hits)


@settings(max_examples=20)
@given(description=descriptions(caches=["lru", "hobbit", "mrs"], misses=["load", "fiddler", "whole_layer"]))
def test_a_cache_that_holds_all_loads_nothing(description: Mapping) -> None:
    offload = description["policies"][0]["offload"]
    del offload["slots"]
    cache = {"kind": "hobbit", "low_share": 0} if offload["cache"] == "hobbit" else offload["cache"]
    run = ran(offloading(description, ratio=1.0, warm=True, cache=cache))
    totals = run.totals
    assert totals["loads"] == totals["low_loads"] == totals["prefetches"] == totals["late"] == 0
    assert totals["hits"] == totals["accesses"]
    assert run.runner.loader.begun == 0
    assert all(turn.load_s == 0 for record in run.records for row in record.turns for turn in row)


@settings(max_examples=5)
@given(description=descriptions())
def test_the_same_seed_gives_the_same_bits(description: Mapping) -> None:
    text = json.dumps(description)
    one, two = (moesim.simulate(loads_scenario(text)) for _ in range(2))
    for name, table in one.tables.items():
        assert table.equals(two.tables[name]), name
    other = moesim.simulate(loads_scenario(json.dumps({**description, "seed": description["seed"] + 1})))
    if len(one.steps) > 2:
        assert one.steps["latency_s"].tolist() != other.steps["latency_s"].tolist()


@settings(max_examples=25)
@given(
    description=descriptions(
        prefetches=["gate", "oneshot", "pregated", "learned"],
        misses=["load"],
        devices=ONE,
        caches=["lru", "lfu"],
    )
)
def test_right_prefetches_cost_at_most_a_chunk_per_layer(description: Mapping) -> None:
    offload = description["policies"][0]["offload"]
    # Tokens one at a time: what a prompt needs does not fit, and then loading some of it early may cost more.
    description["workload"] = {"phase": "decode", "steps": 6, "tokens_per_device": 1, "context": 16}
    kind = offload["prefetch"]
    exact: Mapping = {"kind": kind}
    if kind != "pregated":
        exact["accuracy"] = 1
    if kind == "gate":
        exact["accuracy_far"] = 1
    plain = ran(offloading(description, prefetch="none"))
    ahead = ran(offloading(description, prefetch=exact))
    loader = ahead.runner.loader
    chunk = loader.alone(0, loader._chunk)
    layers = len(ahead.records[0].turns)
    # Planning counts; and what was loaded early pushed something out that is needed again.
    planning = sum(record.planning for record in ahead.records)
    lost = max(0, plain.totals["hits"] - ahead.totals["hits"] - ahead.totals["late"])
    each = loader.alone(0, ahead.runner.machine.sizes[0][0][0])
    allowed = plain.end + planning + len(ahead.records) * layers * chunk + lost * each
    assert ahead.end <= allowed * (1 + 1e-9)


@pytest.mark.parametrize("bandwidth", [1e8, 1e10, 1e13])
def test_streaming_whole_layers_takes_the_longer_of_link_and_compute(bandwidth: float) -> None:
    description = described({"system": "layer_streaming"}, workload={"steps": 4})
    run = ran(with_link(description, bandwidth=bandwidth))
    layer = 8 * WEIGHTS / bandwidth
    for record in run.records[1:]:
        seconds = record.end - record.begin
        work = sum(turn.experts_s for row in record.turns for turn in row)
        work += float(record.own.before.max(axis=1).sum()) + float(record.own.shared.sum())
        # Every layer comes anew in each pass: one while the layer before it computes.
        assert seconds <= max(work, 4 * layer) + min(work, layer) + 1e-9
        assert seconds >= max(work, 4 * layer) * (1 - 1e-9) - min(work, layer)
    moved = next(amount for name, amount, _ in run.runner.loader.carried() if name.endswith("pcie load"))
    # Four layers in each of four passes; the caches began full, and the last prefetches are for a fifth pass.
    assert moved == pytest.approx(4 * 4 * 8 * WEIGHTS, abs=2.01 * 8 * WEIGHTS)


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_two_devices_hold_half_each_and_load_it_over_their_own_links(nodes: int, scope: str) -> None:
    both = {"devices_per_node": 3 - nodes, "nodes": nodes}
    both["intra" if nodes == 1 else "inter"] = {"bandwidth": 1e12}
    offload = {"slots": 2, "scope": scope, "warm": False}
    one = described(offload, workload={"tokens_per_device": 1, "steps": 20})
    run = ran(described(offload, cluster={**one["cluster"], **both}, workload=one["workload"]))
    counts = np.asarray(run.runner.machine.counts)
    # Each device has its request, and computes its experts for both.
    owned = run.runner.sizes.owned
    expected = np.zeros((2, 4), dtype=int)
    for record in run.records:
        for layer, asked in enumerate(record.demand.layers):
            for device in range(2):
                expected[device, layer] += len(owned[device][layer] & set(asked.experts))
    np.testing.assert_array_equal(counts[:, :, 0], expected)
    links = {name: amount for name, amount, _ in run.runner.loader.carried() if name.endswith("pcie load")}
    loads = counts[:, :, LOADS].sum(axis=1) * WEIGHTS
    assert sorted(links.values()) == sorted(loads.tolist())
    assert (counts[:, :, HITS] + counts[:, :, LOADS] == counts[:, :, 0]).all()


@pytest.mark.parametrize("cache", ["adapmoe", "expertflow"])
def test_devices_with_fewer_experts_than_a_token_needs_size_their_caches(cache: str) -> None:
    pair = {"devices_per_node": 2, "intra": {"bandwidth": 1e12}}
    model = {**described()["model"], "num_routed_experts": 4, "top_k": 3}
    run = ran(
        described({"slots": 2, "cache": cache}, model=model, cluster={**described()["cluster"], **pair})
    )
    assert [frame.capacity.tolist() for frame in run.runner.sizes.frames] == [[2] * 4] * 2


def test_devices_behind_one_switch_share_its_link() -> None:
    pair = {"devices_per_node": 2, "intra": {"bandwidth": 1e12}}
    alone = described({"slots": 2, "warm": False}, cluster={**described()["cluster"], **pair})
    alone = with_link(alone, bandwidth=1e8)
    shared = json.loads(json.dumps(alone))
    shared["cluster"]["host"]["devices_per_switch"] = 2
    apart, together = ran(alone), ran(shared)
    assert apart.totals == together.totals
    busy = {name: amount / rate for name, amount, rate in together.runner.loader.carried()}
    assert together.end >= busy["switch0 pcie load"]
    assert together.end > 1.2 * apart.end


def test_unified_memory_loads_from_the_drive_only() -> None:
    host = {"memory": "unified", "cpu": {"flops": 1e12, "bandwidth": 5e10}}
    machine = {**described()["cluster"], "host": host, "storage": {"capacity": 1e11, "bandwidth": 1e9}}
    run = ran(described({"slots": 2, "warm": False}, cluster=machine))
    carried = {name: amount for name, amount, _ in run.runner.loader.carried()}
    assert run.totals["loads"] > 0
    assert carried["host storage load"] == run.totals["loads"] * WEIGHTS
    assert run.runner.sizes.store == "storage"
    with pytest.raises(InputError, match="computes experts on the CPU, but they are on a drive"):
        ran(described({"slots": 2, "misses": "cpu"}, cluster=machine))


def test_a_drive_and_the_host_link_work_at_once() -> None:
    storage = {"capacity": 1e11, "bandwidth": 1e8, "efficiency": 1.0, "latency": 0, "start": 0}
    machine = {**described()["cluster"], "storage": storage}
    machine["host"] = {**machine["host"], "link": {**WIRE, "bandwidth": 1e8}}
    offload = {"slots": 2, "warm": False, "store": "storage"}
    one, eight = (
        ran(described({**offload, "chunks": chunks}, cluster=machine, workload={"steps": 1}))
        for chunks in (1, 8)
    )
    # Uncut, the second expert of a layer leaves the drive while the first one crosses the host link.
    load = WEIGHTS / 1e8
    assert one.records[0].turns[0][0].load_s == pytest.approx(3 * load, rel=1e-6)
    assert eight.records[0].turns[0][0].load_s == pytest.approx((2 + 1 / 8) * load, rel=1e-6)


def test_peak_memory_is_that_of_the_cache_and_within_what_was_given() -> None:
    for given_, held in (({"slots": 3}, 12), ({"ratio": 0.5}, 16), ({"memory": 10 * WEIGHTS}, 8)):
        result = moesim.simulate(loads_scenario(json.dumps(described(given_))))
        memory = result.tables["memory"]
        cache = memory[memory["owner"] == "expert cache"]["bytes"].item()
        assert cache == held * WEIGHTS
        if "memory" in given_:
            assert cache <= given_["memory"]
    whole = described({"memory": 10 * WEIGHTS, "scope": "global"})
    memory = moesim.simulate(loads_scenario(json.dumps(whole))).tables["memory"]
    assert memory[memory["owner"] == "expert cache"]["bytes"].item() == 10 * WEIGHTS


def test_a_cache_of_no_stated_size_fills_the_device() -> None:
    model = described()["model"] | {
        "num_routed_experts": 64,
        "moe_intermediate_size": 4096,
        "hidden_size": 1024,
    }
    device = {**described()["cluster"]["device"], "memory": {"capacity": 2e9, "bandwidth": 1e12}}
    machine = {**described()["cluster"], "device": device}
    run = ran(described({}, model=model, cluster=machine, workload={"steps": 2}))
    peak, capacity = run.recording.memory.peak[0], run.recording.memory.capacity[0]
    assert 0.85 * capacity < peak <= capacity


def test_experts_of_several_kinds_are_refused() -> None:
    model = described()["model"]
    del model["num_routed_experts"], model["moe_intermediate_size"]
    experts = [{"count": 4, "kind": "ffn", "intermediate_size": size} for size in (128, 8192)]
    description = described({"ratio": 1.0})
    description["model"] = {**model, "experts": experts}
    with pytest.raises(InputError, match="are of several kinds"):
        ran(description)
