"""One layer against schedules worked out by hand: a device, a link and a CPU with times in small numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offload_runs import DEVICE

from moesim.engine.offload.demand import LayerDemand
from moesim.engine.offload.layer import LayerRunner
from moesim.engine.offload.loader import Loader
from moesim.engine.offload.machine import CPU, HITS, LATE, LOADS, LOW_LOADS, SKIPPED, Machine
from moesim.engine.offload.residency import Residency
from moesim.engine.offload.turn import Turn
from moesim.hardware import cluster_from_mapping
from moesim.policies.cache.base import CacheFrame, Precisions
from moesim.policies.registry import create_cache, create_misses


class Bench:
    """One device, one layer of experts; a copy takes ``size`` seconds, an expert on the device ``gpu``."""

    def __init__(
        self,
        experts: int,
        slots: int,
        resident: Sequence[int] = (),
        misses: Any = "load",
        size: float = 3.0,
        gpu: float = 1.0,
        first: float = 0.0,
        arrival: bool = True,
        cache: str = "lru",
        staging: int = 2,
        mix: Precisions | None = None,
    ) -> None:
        link = {"bandwidth": 1, "efficiency": 1, "latency": 0, "start": 0}
        host = {"memory": 1e12, "bandwidth": 1e12, "link": link}
        cluster = cluster_from_mapping({"device": DEVICE, "devices_per_node": 1, "host": host})
        loader = Loader(cluster, "host", True, size)
        empty = np.zeros((0, 1, 1), dtype=np.int64)
        frame = CacheFrame(1, experts, 1, 1, np.asarray([slots]), empty)
        residency = Residency(create_cache(cache), frame, mix)
        residency.hold(0, resident)
        low = 1.0 if mix is None else mix.low_size
        self.machine = Machine(loader, [residency], np.full((1, experts), size), low, staging)
        prices: Any = SimpleNamespace(
            weights=[1.0],
            cpu=lambda layer, tokens: float(tokens),
            experts=lambda device, layer, counts: gpu * len(counts),
            processor=SimpleNamespace(first=first),
            to_cpu=lambda tokens: 0.0,
            from_cpu=lambda tokens: 0.0,
        )
        policy = create_misses(*misses) if isinstance(misses, tuple) else create_misses(misses)
        owned = [[frozenset(range(experts))]]
        self.runner = LayerRunner(self.machine, prices, policy, arrival, [0], owned)
        self.step = 0

    def run(
        self,
        tokens: dict[int, int],
        classes: Sequence[int] | None = None,
        shared: float = 0.0,
        begin: float = 0.0,
        prefill: bool = False,
    ) -> Turn:
        """Run one layer that needs experts with so many tokens, the most important first."""
        self.machine.watched = True
        self.machine.run_to(begin)
        ids = np.asarray([list(tokens)])
        kinds = None if classes is None else np.asarray([classes], dtype=np.int8)
        demand = LayerDemand(
            list(tokens), list(tokens.values()), None if classes is None else list(classes), ids, None, kinds
        )
        turn = Turn(begin, shared)
        self.runner.begin(0, 0, demand, turn, self.step, prefill)
        self.runner.finish(0, [turn], True)
        self.step += 1
        return turn

    @property
    def counts(self) -> list[int]:
        return self.machine.counts[0][0]

    def loads(self) -> list[tuple[int, float, float]]:
        return [(span.expert, span.begin, span.finish) for span in self.machine.spans]


def test_together_waits_for_all_and_arrival_does_not() -> None:
    for arrival, end, busy in (
        (False, 9.0, [(6, 9)]),
        (True, 7.0, [(0, 1), (3, 4), (6, 7)]),
    ):
        bench = Bench(4, 4, [0], arrival=arrival)
        turn = bench.run({0: 1, 1: 1, 2: 1})
        assert turn.end == end
        assert [(start, stop) for _, start, stop in turn.busy] == busy
        assert turn.load_s == end - 3
        assert bench.loads() == [(1, 0, 3), (2, 3, 6)]


def test_shared_experts_run_while_weights_come() -> None:
    turn = Bench(4, 4, [0]).run({0: 1, 1: 1}, shared=5.0)
    assert (turn.end, turn.load_s, turn.experts_s) == (7.0, 0.0, 2.0)
    turn = Bench(4, 4, [0], arrival=False).run({0: 1, 1: 1}, shared=2.0)
    assert (turn.end, turn.load_s, turn.experts_s) == (5.0, 1.0, 2.0)


@pytest.mark.parametrize("tokens", range(1, 9))
def test_fiddler_switches_where_the_cpu_takes_longer_than_loading_and_computing(tokens: int) -> None:
    bench = Bench(4, 4, [], "fiddler")
    turn = bench.run({0: tokens})
    # The CPU takes a second per token, loading three and the device one.
    if tokens <= 4:
        assert (bench.counts[CPU], bench.counts[LOADS]) == (1, 0)
        assert (turn.end, turn.cpu_s, turn.cpu_busy) == (tokens, tokens, [(0, tokens)])
    else:
        assert (bench.counts[CPU], bench.counts[LOADS]) == (0, 1)
        assert (turn.end, turn.load_s, turn.cpu_s) == (4, 3, 0)


def test_fiddler_works_on_all_three_at_once() -> None:
    bench = Bench(8, 8, [0, 1], "fiddler")
    turn = bench.run({0: 9, 2: 3, 3: 7, 1: 9, 4: 2})
    # Device: 0 and 1 until 2, 3 from 3 to 4. CPU: 2 and 4 until 5.
    assert (turn.end, turn.experts_s, turn.load_s, turn.cpu_s) == (5, 3, 1, 1)
    assert turn.cpu_busy == [(0, 5)]
    assert bench.counts[HITS] == 2


def test_all_misses_on_the_cpu() -> None:
    bench = Bench(6, 2, [0, 1], "cpu", cache="static", first=0.5)
    turn = bench.run({0: 1, 2: 2, 3: 3, 1: 1})
    assert (turn.end, turn.experts_s, turn.cpu_s, turn.cpu_busy) == (5.5, 2, 3.5, [(0, 5.5)])
    assert bench.loads() == []
    prompts = Bench(6, 2, [0, 1], ("cpu", {"prefill": False}), cache="static")
    turn = prompts.run({0: 1, 2: 2}, prefill=True)
    assert (turn.end, turn.cpu) == (4, [])
    assert prompts.run({0: 1, 2: 2}, begin=10.0).cpu == [2]


def test_figure_5_of_hybrimoe() -> None:
    a, b, c, d, e = range(5)
    bench = Bench(5, 3, [d, e], "hybrimoe")
    turn = bench.run({a: 1, b: 1, c: 3, d: 4, e: 1}, shared=1.0)
    assert bench.loads() == [(c, 0, 3)]
    assert [(start, stop) for _, start, stop in turn.busy] == [(0, 1), (1, 2), (3, 4)]
    assert turn.cpu == [1, 1, 1]
    assert turn.cpu_busy == [(0, 3)]
    assert turn.end == 4


def test_the_cpu_takes_an_expert_that_is_still_on_its_way() -> None:
    bench = Bench(5, 5, [], "hybrimoe", size=40.0)
    bench.machine.pin(0, 0, ())
    bench.machine.wanted[0].append((0, 0, 0))
    bench.machine.feed(0, 0.0)
    turn = bench.run({0: 1, 1: 1}, begin=1.0)
    assert turn.end <= 41
    assert turn.copies == 2
    assert len(turn.cpu) + len(turn.busy) == 2


def test_frameworks_that_know_layers_only_wait_for_all_of_a_layer() -> None:
    for arrival in (False, True):
        bench = Bench(4, 4, [0, 1], "whole_layer", arrival=arrival)
        turn = bench.run({0: 1, 1: 1})
        # Both are there, yet 2 and 3 are loaded.
        assert bench.loads() == [(2, 0, 3), (3, 3, 6)]
        assert turn.end == (6 if arrival else 8)
        assert turn.experts_s == 2
        assert bench.run({0: 1}, begin=20.0).load_s == 0
    # What is on its way is waited for too.
    bench = Bench(4, 4, [0, 1, 2], "whole_layer")
    bench.machine.pin(0, 0, ())
    bench.machine.wanted[0].append((0, 3, 0))
    bench.machine.feed(0, 0.0)
    turn = bench.run({0: 1}, begin=1.0)
    assert (turn.end, turn.load_s, turn.experts_s) == (3, 1, 1)
    assert bench.counts[LOADS] == 0


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(
    ("size", "gpu", "resident", "loads", "end"),
    [
        # Slots of 0 and 1 are free again at 4 and 7: 2 comes behind 1, 3 when the link is free.
        (3.0, 1.0, [], [(0, 0, 3), (1, 3, 6), (2, 6, 9), (3, 9, 12)], 13),
        # Computing takes longer: a load begins when a slot is free.
        (1.0, 3.0, [], [(0, 0, 1), (1, 1, 2), (2, 4, 5), (3, 7, 8)], 13),
    ],
)
def test_more_experts_than_slots(
    fixed: bool, size: float, gpu: float, resident: list[int], loads: list[Any], end: float
) -> None:
    cache = "static" if fixed else "lru"
    bench = Bench(9, 2, [7, 8] if fixed else resident, size=size, gpu=gpu, cache=cache)
    turn = bench.run({0: 1, 1: 1, 2: 1, 3: 1})
    assert bench.loads() == loads
    assert (turn.end, turn.experts_s, turn.load_s) == (end, 4 * gpu, end - 4 * gpu)
    held = bench.machine.residency[0].stores[0].resident[0]
    assert held == ({7, 8} if fixed else {2, 3})


def test_residents_of_a_crowded_layer_run_first_and_make_room() -> None:
    bench = Bench(9, 2, [3, 8])
    turn = bench.run({0: 1, 1: 1, 2: 1, 3: 1})
    # 8 leaves for 0 at once; 3 is done at 1 and leaves for 1, 2 comes when 0 is done.
    assert bench.loads() == [(0, 0, 3), (1, 3, 6), (2, 6, 9)]
    assert turn.end == 10
    assert [(start, stop) for _, start, stop in turn.busy] == [(0, 1), (3, 4), (6, 7), (9, 10)]
    assert bench.counts[HITS] == 1


@settings(max_examples=150)
@given(
    data=st.data(),
    experts=st.integers(2, 8),
    size=st.sampled_from([0.25, 1.0, 4.0]),
    misses=st.sampled_from(
        ["load", "cpu", "fiddler", "hybrimoe", "whole_layer", ("hybrimoe", {"variant": "repository"})]
    ),
    arrival=st.booleans(),
    two=st.booleans(),
)
def test_any_layer_ends_and_serves_everyone(
    data: st.DataObject, experts: int, size: float, misses: Any, arrival: bool, two: bool
) -> None:
    slots = data.draw(st.integers(2 if two else 1, experts))
    mix = Precisions(0.3, 0.8, 0.5, data.draw(st.sampled_from([0.25, 1.0]))) if two else None
    bench = Bench(experts, slots, [], misses, size, arrival=arrival, mix=mix)
    now, done = 0.0, 0
    for _ in range(4):
        needed = data.draw(st.lists(st.integers(0, experts - 1), min_size=1, unique=True))
        tokens = {expert: data.draw(st.integers(1, 6)) for expert in needed}
        classes = [data.draw(st.integers(0, 2)) for _ in needed] if two else None
        turn = bench.run(tokens, classes, begin=now)
        assert turn.copies + turn.skipped == sum(tokens.values())
        assert turn.end >= now
        assert turn.load_s >= 0
        assert turn.cpu_s >= 0
        total = turn.experts_s + turn.load_s + turn.cpu_s
        assert turn.end - now == pytest.approx(total, abs=1e-9)
        busy = [(start, stop) for _, start, stop in turn.busy]
        assert all(one[1] <= other[0] + 1e-9 for one, other in pairwise(busy))
        for store in bench.machine.residency[0].stores:
            assert len(store.resident[0]) + len(store.coming[0]) <= store.room[0]
            assert not store.coming[0]
        done += len(needed)
        # Prefetches of the next layer go on meanwhile.
        now = turn.end + data.draw(st.sampled_from([0.0, 0.5, 10.0]))
        bench.machine.wanted[0].extend(
            (0, e, 0) for e in data.draw(st.lists(st.integers(0, experts - 1), max_size=2))
        )
        bench.machine.feed(0, turn.end)
        bench.machine.run_to(now)
        assert bench.machine.passing == [0]
        bench.machine.wanted[0].clear()
        bench.machine.run_to(now + 100.0)
        now += 100.0
    counts = bench.counts
    served = sum(counts[at] for at in (HITS, LATE, LOADS, LOW_LOADS, SKIPPED, CPU))
    assert served >= done
    if misses in ("load", "fiddler", "cpu"):
        assert served == done
