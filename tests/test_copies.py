"""How long copies of weights take, alone, queued, over several stages and beside others."""

from __future__ import annotations

from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.hardware import (
    CopyPaths,
    Stage,
    cluster_from_mapping,
    copy_schedule,
    copy_seconds,
    link_names,
    load_cluster,
    load_link,
)
from moesim.hardware.copies import DEFAULT_CHUNK
from moesim.hardware.copy_checks import copy_checks
from moesim.hardware.copy_engines import CopyEngines, Engine
from moesim.hardware.copy_queue import CopyQueue

MIXTRAL_EXPERT = 3 * 4096 * 14336 * 2
DISK = {"base": "nvme-gen4", "capacity": "1 TB"}

sizes = st.one_of(st.just(0.0), st.floats(1.0, 64.0), st.integers(1, 64).map(float))
stages = st.builds(
    Stage,
    rate=st.floats(0.5, 20.0),
    start=st.floats(0.0, 2.0),
    latency=st.floats(0.0, 2.0),
    name=st.just("x"),
)
requests = st.lists(st.tuples(st.floats(0.0, 30.0), sizes, st.integers(0, 2)), min_size=1, max_size=12)


def columns(rows):
    submit, size, level = zip(*rows, strict=True)
    return np.array(submit), np.array(size), np.array(level)


def test_a_mixtral_expert_takes_its_bytes_over_the_rate():
    assert MIXTRAL_EXPERT == 352_321_536
    assert copy_seconds(MIXTRAL_EXPERT, [Stage(24e9)]) == pytest.approx(14.68e-3, rel=1e-3)
    paths = CopyPaths(load_cluster("RTX-4090-workstation"))
    assert copy_seconds(MIXTRAL_EXPERT, paths.stages("host", 0)) == pytest.approx(14.7e-3, rel=0.05)


def test_measured_copies_are_met_as_the_pages_say():
    large = [check for check in copy_checks() if sum(check.sizes) > 2e6]
    fresh = [abs(check.error) for check in large if not check.used]
    assert len(fresh) == 6
    assert max(fresh) < 0.135
    assert median(fresh) < 0.055
    assert all(abs(check.error) < 0.01 for check in large if check.used)
    small = [check for check in copy_checks() if sum(check.sizes) < 2e6]
    assert len(small) == 5
    assert sorted(round(check.error, 2) for check in small) == [-0.81, -0.51, -0.17, -0.05, 0.18]


def test_small_copies_follow_each_other_at_the_cost_of_a_call():
    stage = Stage(25e9, start=6e-6, latency=1e-6)
    _, finish = copy_schedule(np.zeros(1000), np.full(1000, 4096.0), stage)
    assert finish[-1] / 1000 == pytest.approx(6e-6, rel=0.01)
    assert copy_seconds(4096, [stage]) == pytest.approx(6e-6 + 4096 / 25e9 + 1e-6)


@given(size=sizes, path=st.lists(stages, min_size=1, max_size=4), chunk=st.floats(0.5, 20.0))
def test_closed_form_is_what_the_engines_do(size, path, chunk):
    engines = [Engine(str(n), {n: 1.0}, stage.start, stage.latency) for n, stage in enumerate(path)]
    machine = CopyEngines(engines, np.array([stage.rate for stage in path]), chunk)
    machine.submit(range(len(path)), size, 0.0)
    (done,) = machine.finish_all()
    assert done.finish == pytest.approx(float(copy_seconds(size, path, chunk)), rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(machine.carried, size, rtol=1e-9)


@given(size=st.floats(1.0, 1e4), path=st.lists(stages, min_size=1, max_size=4), chunk=st.floats(0.5, 20.0))
def test_a_chain_of_stages_is_bound_by_the_slowest_and_not_by_the_sum(size, path, chunk):
    took = float(copy_seconds(size, path, chunk))
    slowest = max(size / stage.rate for stage in path)
    fill = sum(stage.start + stage.latency + min(chunk, size) / stage.rate for stage in path)
    steps = np.ceil(size / chunk) * max(max(chunk / stage.rate, stage.start) for stage in path)
    assert slowest * (1 - 1e-12) <= took <= fill + max(slowest, steps) * (1 + 1e-12)


@pytest.mark.parametrize("name", link_names())
def test_the_default_chunk_takes_longer_than_setting_a_copy_up(name):
    link = load_link(name)
    assert DEFAULT_CHUNK / link.load > link.start_s


@given(rows=requests, stage=stages, chunk=st.floats(0.5, 20.0))
def test_doubling_every_rate_and_halving_every_cost_halves_times(rows, stage, chunk):
    submit, size, level = columns(rows)
    fast = Stage(2 * stage.rate, stage.start / 2, stage.latency / 2)
    slow_times = copy_schedule(submit, size, stage, level, chunk)
    fast_times = copy_schedule(submit / 2, size, fast, level, chunk)
    np.testing.assert_allclose(np.array(fast_times) * 2, slow_times, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(copy_seconds(size, [fast], chunk) * 2, copy_seconds(size, [stage], chunk))


@given(rows=requests, stage=stages, chunk=st.floats(0.5, 20.0))
def test_schedule_is_what_the_queue_and_the_engines_do_as_copies_come(rows, stage, chunk):
    submit, size, level = columns(rows)
    begin, finish = copy_schedule(submit, size, stage, level, chunk)
    queue = CopyQueue(stage, chunk)
    machine = CopyEngines([Engine("x", {0: 1.0}, stage.start, stage.latency)], np.array([stage.rate]), chunk)
    order = np.argsort(submit, kind="stable").tolist()
    seen, numbers = {}, {}
    for copy in order:
        for done in queue.advance(submit[copy]):
            seen[done.copy] = done
        queue.submit(copy, size[copy], submit[copy], level[copy])
    seen |= {done.copy: done for done in queue.finish_all()}
    late = []
    for copy in order:
        late += machine.advance(submit[copy])
        numbers[machine.submit([0], size[copy], submit[copy], level[copy])] = copy
    late += machine.finish_all()
    assert len(queue) == len(machine) == 0
    np.testing.assert_allclose([seen[n].finish for n in range(len(rows))], finish, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose([seen[n].begin for n in range(len(rows))], begin, rtol=1e-9, atol=1e-9)
    assert queue.moved == pytest.approx(size.sum())
    assert queue.busy == pytest.approx(size.sum() / stage.rate)
    assert machine.carried[0] == pytest.approx(size.sum())
    for done in late:
        assert done.finish == pytest.approx(finish[numbers[done.copy]], rel=1e-9, abs=1e-9)
    assert [done.finish for done in late] == sorted(done.finish for done in late)


@given(rows=requests, stage=stages, chunk=st.floats(0.5, 20.0))
def test_time_is_never_negative_and_no_copy_beats_an_idle_engine(rows, stage, chunk):
    submit, size, level = columns(rows)
    begin, finish = copy_schedule(submit, size, stage, level, chunk)
    assert (begin >= submit).all()
    alone = copy_seconds(size, [stage], chunk)
    assert (finish >= submit + alone - 1e-9).all()
    assert (finish[size == 0] == submit[size == 0]).all()
    moved = np.ptp(np.append(finish[size > 0], submit[size > 0])) if (size > 0).any() else 0.0
    assert moved >= size.sum() / stage.rate - 1e-9


@given(rows=requests, stage=stages, chunk=st.floats(0.5, 20.0))
def test_copies_of_equal_urgency_keep_their_order(rows, stage, chunk):
    submit, size, level = columns(rows)
    begin, finish = copy_schedule(submit, size, stage, level, chunk)
    for which in range(3):
        mine = np.flatnonzero((level == which) & (size > 0))
        mine = mine[np.argsort(submit[mine], kind="stable")]
        assert (np.diff(begin[mine]) >= -1e-9).all()
        assert (np.diff(finish[mine]) >= -1e-9).all()


@given(
    prefetches=st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(1.0, 500.0)), max_size=8),
    when=st.floats(0.0, 60.0),
    stage=stages,
    chunk=st.floats(0.5, 20.0),
)
def test_a_demand_waits_for_at_most_one_chunk_of_a_prefetch(prefetches, when, stage, chunk):
    submit = np.array([*(at for at, _ in prefetches), when])
    size = np.array([*(amount for _, amount in prefetches), 5.0])
    urgent = np.arange(submit.size) == submit.size - 1
    begin, _ = copy_schedule(submit, size, stage, urgent, chunk)
    one = max(chunk / stage.rate, stage.start)
    assert begin[-1] <= when + stage.start + one + 1e-9


def test_a_wrong_prefetch_costs_its_whole_rest_without_chunks():
    stage = Stage(10.0)
    whole = copy_schedule([0.0, 1.0], [100.0, 10.0], stage, [False, True], chunk=1000.0)
    cut = copy_schedule([0.0, 1.0], [100.0, 10.0], stage, [False, True], chunk=2.5)
    assert whole[1].tolist() == [10.0, 11.0]
    assert cut[1].tolist() == [11.0, 2.0]


def test_copies_submitted_in_one_instant_compete_on_equal_terms():
    queue = CopyQueue(Stage(10.0), chunk=5.0)
    queue.submit(0, 10.0, 0.0, level=0)
    queue.submit(1, 10.0, 0.0, level=1)
    assert [done.copy for done in queue.finish_all()] == [1, 0]


def test_a_long_schedule_of_large_copies_costs_per_copy_and_not_per_chunk():
    rng = np.random.default_rng(0)
    submit = np.sort(rng.uniform(0, 100.0, 3000))
    size = np.full(3000, float(MIXTRAL_EXPERT))
    queue = CopyQueue(Stage(25e9))
    calls = 0
    original = queue._serve

    def counted(at, now):
        nonlocal calls
        calls += 1
        original(at, now)

    queue._serve = counted  # type: ignore[method-assign]
    for copy in range(3000):
        queue.submit(copy, size[copy], submit[copy], copy % 2)
    assert len(queue.finish_all()) == 3000
    assert calls < 4 * 3000 < 3000 * MIXTRAL_EXPERT / DEFAULT_CHUNK


def both_ways(host: dict[str, object], devices: int = 1) -> tuple[list[float], list[float]]:
    """Copy 10 GB to and from every device at once; return when they arrive."""
    mapping = {"device": "RTX-4090", "devices_per_node": devices, "host": host}
    paths = CopyPaths(cluster_from_mapping(mapping))
    machine = paths.start(chunk=2.0**28)
    load = [machine.submit(paths.route("host", device), 10e9, 0.0) for device in range(devices)]
    store = [machine.submit(paths.route(device, "host"), 10e9, 0.0) for device in range(devices)]
    finish = {done.copy: done.finish for done in machine.finish_all()}
    return [finish[number] for number in load], [finish[number] for number in store]


LINK = {"kind": "pcie", "bandwidth": "20 GB/s", "efficiency": 1, "latency": 0, "start": 0}


def test_opposite_directions_do_not_slow_each_other():
    host = {"memory": "1 TB", "bandwidth": "1 TB/s", "link": LINK}
    assert both_ways(host) == (pytest.approx([0.5]), pytest.approx([0.5]))


def test_opposite_directions_share_what_the_link_says_they_share():
    host = {"memory": "1 TB", "bandwidth": "1 TB/s", "link": LINK | {"both": "25 GB/s"}}
    load, store = both_ways(host)
    assert max(load + store) == pytest.approx(20 / 25)


def test_several_devices_share_host_memory_fairly():
    host = {"memory": "1 TB", "bandwidth": "40 GB/s", "efficiency": 1, "link": LINK}
    load, store = both_ways(host, devices=4)
    assert load + store == pytest.approx([80 / 40] * 8)


def test_devices_behind_a_switch_share_its_link_by_direction():
    host = {"memory": "1 TB", "bandwidth": "1 TB/s", "link": LINK, "devices_per_switch": 2}
    load, store = both_ways(host, devices=4)
    assert load + store == pytest.approx([1.0] * 8)


def test_one_drive_feeds_several_devices_in_turn_by_chunks():
    mapping = {"device": "RTX-4090", "devices_per_node": 2, "storage": DISK}
    host = {"memory": "1 TB", "bandwidth": "1 TB/s", "link": LINK}
    paths = CopyPaths(cluster_from_mapping(mapping | {"host": host}))
    machine = paths.start(2**25)
    for device in (0, 1):
        machine.submit(paths.route("storage", device), 6.4e9, 0.0)
    finish = [done.finish for done in machine.finish_all()]
    assert finish == pytest.approx([1.0, 2.0], rel=3e-3)


def test_weights_from_a_drive_come_at_the_drive_s_rate():
    paths = CopyPaths(load_cluster("RTX-4090-workstation"))
    stages = paths.stages("storage", 0)
    assert [round(stage.rate / 1e9, 1) for stage in stages] == [6.4, 25.1]
    took = float(copy_seconds(MIXTRAL_EXPERT, stages))
    alone = MIXTRAL_EXPERT / 6.4e9
    assert alone < took < alone * 1.01


def test_pageable_copies_pass_the_processor_and_are_slower():
    paths = CopyPaths(load_cluster("DGX-H100"))
    pinned = copy_seconds(1e9, paths.stages("host", 3))
    pageable = copy_seconds(1e9, paths.stages("host", 3, pinned=False))
    assert pageable == pytest.approx(1e9 / 19.4e9, rel=0.01)
    assert pinned < pageable / 2
    names = [paths.engines[number].name for number in paths.route(3, "host", pinned=False)]
    assert names == ["gpu3 store", "gpu3 unstage"]


def test_unified_memory_needs_no_copy_from_host():
    paths = CopyPaths(load_cluster("Jetson-TX2-eMMC"))
    assert paths.route("host", 0) == ()
    machine = paths.start()
    machine.submit(paths.route("host", 0), 1e9, 2.0)
    assert [done.finish for done in machine.finish_all()] == [2.0]
    assert copy_seconds(1e9, paths.stages("storage", 0)) == pytest.approx(4.0, rel=0.01)


def test_hosts_of_a_node_have_memory_and_drives_of_their_own():
    paths = CopyPaths(load_cluster("GB200-NVL72"))
    assert sum(name.endswith("memory") for name in paths.names) == 36
    near, far = paths.route("storage", 0), paths.route("storage", 71)
    assert near[0] != far[0]
    assert paths.engines[far[-1]].name == "gpu71 load"


def test_prefetch_under_way_ends_before_a_demand_on_shared_engines_too():
    machine = CopyEngines([Engine("x", {0: 1.0})], np.array([10.0]), chunk=5.0)
    machine.submit([0], 100.0, 0.0, level=0)
    machine.next_event()
    assert machine.advance(0.7) == []
    demand = machine.submit([0], 5.0, 0.7, level=1)
    first = machine.finish_all()[0]
    assert (first.copy, first.begin, first.finish) == (demand, pytest.approx(1.0), pytest.approx(1.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Stage(0.0, name="pcie"), "'pcie' needs a rate above zero"),
        (lambda: Stage(float("nan")), "needs a rate above zero"),
        (lambda: Stage(1.0, start=-1.0), "needs a start of zero or more"),
        (lambda: Stage(1.0, latency=float("inf")), "needs a latency of zero or more"),
        (lambda: copy_seconds(-1.0, [Stage(1.0)]), "'bytes' of a copy must be zero or more, got -1.0"),
        (lambda: copy_seconds([1.0, float("nan")], [Stage(1.0)]), "'bytes' of a copy"),
        (lambda: copy_seconds(1.0, []), "at least one stage"),
        (lambda: copy_seconds(1.0, [Stage(1.0)], chunk=0), "'chunk' must be above 0 bytes"),
        (lambda: copy_schedule([0.0], [1.0, 2.0], Stage(1.0)), "lists of equal length"),
        (lambda: copy_schedule([0.0], [1.0], Stage(1.0), [True, False]), "one entry per copy"),
        (lambda: copy_schedule([0.0], [-1.0], Stage(1.0)), "'bytes' of a copy"),
        (lambda: CopyQueue(Stage(1.0), chunk=-1), "'chunk' must be above 0 bytes"),
        (lambda: CopyEngines([], np.array([0.0])), "bandwidth above zero"),
        (lambda: CopyPaths(load_cluster("DGX-H100"), node=1), "there is no node 1"),
        (lambda: CopyPaths(cluster_from_mapping({"device": "A40", "devices_per_node": 1})), "no 'host'"),
        (lambda: CopyPaths(load_cluster("DGX-H100")).route("host", 8), "no device 8"),
        (lambda: CopyPaths(load_cluster("DGX-H100")).route("disk", 0), "no end 'disk'"),
    ],
)
def test_impossible_copies_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_storage_that_is_not_described_is_missed_by_name():
    host = {"memory": "1 TB", "bandwidth": "1 TB/s", "link": "pcie4"}
    paths = CopyPaths(cluster_from_mapping({"device": "A40", "devices_per_node": 1, "host": host}))
    with pytest.raises(InputError, match="describes no 'storage'"):
        paths.route("storage", 0)


def test_the_clock_of_engines_does_not_go_back():
    queue = CopyQueue(Stage(1.0), now=3.0)
    machine = CopyEngines([Engine("x", {0: 1.0})], np.array([1.0]), now=3.0)
    for engine in (queue, machine):
        with pytest.raises(ValueError, match="time cannot go back"):
            engine.advance(2.0)
