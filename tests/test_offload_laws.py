"""Laws of offloading runs: bookkeeping, bytes, memory and time, on random small machines and systems."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from offload_runs import Ran, descriptions, ran

from moesim.causes import CAUSES
from moesim.engine.offload.machine import COUNTS
from moesim.engine.offload.recording import OffloadRecording
from moesim.engine.tables import tables
from moesim.errors import InputError

Mapping = dict[str, Any]


def tried(description: Mapping) -> Ran | None:
    """Run, unless it is refused."""
    try:
        return ran(description)
    except InputError:
        return None


def counts_of(run: Ran) -> dict[str, Any]:
    return dict(zip(COUNTS, np.moveaxis(np.asarray(run.runner.machine.counts), 2, 0), strict=True))


def check_counts(run: Ran) -> None:
    """Every access is served once, and every copy of a token is computed or skipped."""
    counts = counts_of(run)
    served = sum(counts[name] for name in ("hits", "late", "loads", "low_loads", "skipped"))
    if run.runner.offload.misses.name in ("load", "fiddler", "cpu"):
        assert (served + counts["cpu"] == counts["accesses"]).all()
    elif run.runner.offload.misses.name == "whole_layer":
        assert (served + counts["cpu"] >= counts["accesses"]).all()
    assert (counts["low_hits"] <= counts["hits"]).all()
    machine = run.runner.machine
    for device, residency in enumerate(machine.residency):
        # A prefetch was of use, or in vain, or that is not known yet.
        unknown = sum(len(fresh) for store in residency.stores for fresh in store.fresh) + len(residency.gone)
        unknown += sum(
            flight.device == device and flight.prefetched and number not in machine.stale
            for number, flight in machine.flights.items()
        )
        judged = counts["used"][device].sum() + counts["wasted"][device].sum()
        assert judged + unknown == counts["prefetches"][device].sum()
    for record, step in zip(run.records, run.recording.steps, strict=True):
        asked = int(record.demand.copies.sum())
        computed = sum(turn.copies for row in record.turns for turn in row)
        skipped = sum(turn.skipped for row in record.turns for turn in row)
        assert computed + skipped == asked == record.demand.ids.size
        assert step["copies"] == computed
        assert step["dropped_copies"] == skipped


def check_bytes(run: Ran) -> None:
    """What crossed the links is what was loaded and prefetched, to the byte."""
    runner, counts = run.runner, counts_of(run)
    machine, mix = runner.machine, runner.offload.cache.precisions()
    machine.wanted = [type(queue)() for queue in machine.wanted]
    machine.run_to(run.end + 1e6)
    assert not machine.flights
    asked = sum(machine.loaded_bytes)
    narrow = runner.offload.settings.narrow_share > 0
    if mix is None and not narrow:
        each = machine.sizes[0][0][0]
        copies = counts["loads"].sum() + counts["prefetches"].sum()
        assert asked == pytest.approx(each * copies, rel=1e-12)
        assert machine.loaded_bytes[1] == pytest.approx(each * counts["prefetches"].sum(), rel=1e-12)
        assert machine.wasted_bytes == pytest.approx(each * counts["wasted"].sum(), rel=1e-12)
    elif not narrow and not counts["prefetches"].sum():
        each = machine.sizes[0][0][0]
        copies = counts["loads"].sum() + mix.low_size * counts["low_loads"].sum()
        assert asked == pytest.approx(each * copies, rel=1e-12)
    links = runner.loader.carried()
    over = sum(amount for name, amount, _ in links if "gpu" in name and name.endswith("load"))
    assert over == pytest.approx(asked, rel=1e-9)


def check_memory(run: Ran) -> None:
    """No cache ever holds more than its slots."""
    for device, residency in enumerate(run.runner.machine.residency):
        mine = run.runner.sizes.owned[device]
        for store in residency.stores:
            for cache, room in enumerate(store.room):
                assert len(store.resident[cache]) + len(store.coming[cache]) <= room
                assert not store.resident[cache] & set(store.coming[cache])
                assert store.fresh[cache] <= store.resident[cache]
        for layer in range(residency.frame.layers):
            assert residency.present[layer] <= mine[layer]


def check_time(run: Ran) -> None:
    """Spans of a stream follow each other, causes add up, nothing is below its bound."""
    recording: OffloadRecording = run.recording
    begin = 0.0
    for record, step in zip(run.records, recording.steps, strict=True):
        assert record.begin == pytest.approx(begin, abs=1e-15)
        assert step["latency_s"] == pytest.approx(record.end - record.begin, rel=1e-9, abs=1e-15)
        assert step["bound_s"] <= step["latency_s"] * (1 + 1e-9)
        begin = record.end
        for row in record.turns:
            for turn in row:
                assert turn.end >= turn.begin + turn.shared - 1e-15
                total = turn.shared + turn.experts_s + turn.load_s + turn.cpu_s
                assert turn.end - turn.begin == pytest.approx(total, rel=1e-9, abs=1e-15)
    for shares in recording.breakdown:
        assert (shares >= -1e-15).all()
    streams = defaultdict(list)
    for step, layer, device, stream, cause, start, end in recording.spans:
        assert cause in (*CAUSES, "prefetch"), cause
        assert start < end
        assert layer >= 0
        assert step >= 0
        streams[device, stream].append((start, end))
    for (_, stream), spans in streams.items():
        if stream in ("copy in", "copy out"):  # tokens cross beside weights, and early ones beside others
            continue
        spans.sort()
        for (_, end), (start, _) in pairwise(spans):
            assert start >= end - 1e-12 * max(1.0, end), stream


def check_rates(run: Ran) -> None:
    """A run is no shorter than what its busiest link and device have to do."""
    moved = [(amount, rate) for _, amount, rate in run.runner.loader.carried()]
    # What is still under way at the end does not count.
    left = sum(
        run.runner.machine.sizes[f.precision][f.layer][f.expert] for f in run.runner.machine.flights.values()
    )
    for amount, rate in moved:
        assert run.end >= (amount - 3 * left) / rate * (1 - 1e-9)
    devices = len(run.runner.machine.residency)
    for device in range(devices):
        busy = sum(row[device].experts_s + row[device].shared for r in run.records for row in r.turns)
        assert run.end >= busy * (1 - 1e-9)


@settings(max_examples=60)
@given(description=descriptions())
def test_laws(description: Mapping) -> None:
    run = tried(description)
    if run is None:
        return
    check_counts(run)
    check_memory(run)
    check_time(run)
    check_rates(run)
    for table in tables(run.recording).values():
        assert len(table.columns)
    check_bytes(run)
