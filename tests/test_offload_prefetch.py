"""Prefetches through the engine: in time, late, wrong, hurried; against schedules worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from offload_runs import WIRE, described, ran

from moesim.engine.offload.machine import PREFETCHES, USED, WASTED
from moesim.policies.offload.create import create_offload
from moesim.policies.offload.system import Offload
from moesim.policies.prefetch.base import Outlook, PrefetchBase, PrefetchFrame
from moesim.policies.presets import create_policy

Mapping = dict[str, Any]
ONESHOT = {"kind": "oneshot", "accuracy": 1}
GATE = {"kind": "gate", "accuracy": 1, "accuracy_far": 1}


def linked(description: Mapping, **wire: Any) -> Mapping:
    """Change the host link."""
    host = description["cluster"]["host"]
    description["cluster"] = {**description["cluster"], "host": {**host, "link": {**WIRE, **wire}}}
    return description


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("warm", [True, False])
def test_a_perfect_predictor_with_time_and_room_leaves_no_waiting(scope: str, warm: bool) -> None:
    offload = {"slots": 6, "scope": scope, "prefetch": ONESHOT, "warm": warm}
    run = ran(linked(described(offload), bandwidth=1e13))
    totals = run.totals
    # Everything is known before the first layer; the first layers' attention gives the time.
    assert totals["wasted"] == 0
    assert totals["used"] == totals["prefetches"] > 0
    waited = sum(turn.load_s for record in run.records for row in record.turns for turn in row)
    assert totals["loads"] == 0
    assert waited == 0


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_prefetches_are_judged_by_their_own_layer(scope: str) -> None:
    run = ran(linked(described({"slots": 4, "scope": scope, "prefetch": GATE}), bandwidth=1e13))
    counts = run.by_layer
    assert counts[1:, PREFETCHES].min() > 0
    np.testing.assert_array_equal(counts[:, USED], counts[:, PREFETCHES])
    assert counts[:, WASTED].sum() == 0


class Scripted(PrefetchBase):
    """Wants what it is told to want: experts by the iteration and layer at which it is asked."""

    name = "scripted"
    summary = "a script"
    source = "this test"

    def __init__(self, script: dict[tuple[int, int], list[tuple[int, int]]]) -> None:
        super().__init__()
        self.script = script

    def start(self, frame: PrefetchFrame) -> Any:
        return self

    def reset(self) -> None: ...

    def see(self, layer: int, ids: Any) -> None: ...

    def wanted(self, outlook: Outlook) -> list[tuple[int, int]]:
        return self.script.get((outlook.iteration, outlook.layer), [])


SLOW = {"bandwidth": 1e8}
WEIGHTS = 3 * 64 * 128 * 2
LOAD = WEIGHTS / 1e8


def scripted(script: Any, wire: Mapping = SLOW, **settings: Any) -> Any:
    """Run one decoded token with a script, caches being empty."""
    description = linked(described(), **wire)
    description["workload"] = {"phase": "decode", "steps": 1, "tokens_per_device": 1, "context": 64}
    made = create_offload({"slots": 8, "warm": False, **settings})
    offload = Offload(made.cache, Scripted(script), made.misses, made.settings)
    return ran(description, replace(create_policy("on_demand"), name="scripted", offload=offload))


def experts(run: Any, layer: int) -> tuple[list[int], int]:
    """Return the experts that a layer needs, and one that it does not."""
    needed = run.records[0].demand.layers[layer].experts
    return needed, next(expert for expert in range(8) if expert not in needed)


@pytest.mark.parametrize("chunks", [1, 3, 8])
def test_a_wrong_prefetch_delays_the_right_loads_by_what_is_left_of_its_chunk(chunks: int) -> None:
    plain = scripted({}, chunks=chunks)
    _, wrong = experts(plain, 1)
    run = scripted({(0, 0): [(1, wrong)]}, chunks=chunks)
    before, after = (record.records[0].turns[1][0] for record in (plain, run))
    assert after.begin == pytest.approx(before.begin, rel=1e-12)
    # The prefetch began when the two loads of the layer before were through.
    began = run.records[0].turns[0][0].begin + 2 * LOAD
    gone = after.begin - began
    piece = -(-WEIGHTS // chunks) / 1e8
    left = (int(gone / piece) + 1) * piece - gone
    assert 0 < left <= piece
    assert before.load_s == pytest.approx(2 * LOAD, rel=1e-9)
    assert after.load_s == pytest.approx(2 * LOAD + left, rel=1e-9)
    assert run.totals["wasted"] == 1
    spans = [span for span in run.records[0].spans if span.prefetched]
    if chunks == 1:
        assert [(span.begin, span.finish) for span in spans] == [
            pytest.approx((began, began + LOAD), rel=1e-9)
        ]
    else:
        # What is left goes on after the loads; those of later layers come before it again.
        assert all(span.finish >= began + 3 * LOAD for span in spans)


@pytest.mark.parametrize("chunks", [1, 3])
def test_a_right_prefetch_takes_off_what_it_has_moved_and_is_hurried(chunks: int) -> None:
    plain = scripted({}, chunks=chunks, compute="arrival")
    needed, _ = experts(plain, 1)
    run = scripted({(0, 0): [(1, needed[1])]}, chunks=chunks, compute="arrival")
    before, after = (record.records[0].turns[1][0] for record in (plain, run))
    began = run.records[0].turns[0][0].begin + 2 * LOAD
    arrivals = sorted(when for when, _ in after.arrivals)
    assert run.totals["late"] == 1
    assert run.totals["used"] == 1
    # Were it not hurried, the demand would overtake all but its first chunk.
    assert arrivals == pytest.approx([began + LOAD, began + 2 * LOAD], rel=1e-9)
    late = next(span for span in run.records[0].spans if span.prefetched)
    assert (late.expert, late.finish) == (needed[1], pytest.approx(began + LOAD, rel=1e-9))
    saved = before.end - before.begin - (after.end - after.begin)
    assert saved == pytest.approx(after.begin - began, rel=1e-6)


def test_hurrying_works_where_links_are_shared_too() -> None:
    description = {"pinned": False, "chunks": 4, "compute": "arrival"}
    plain = scripted({}, **description)
    needed, _ = experts(plain, 1)
    run = scripted({(0, 0): [(1, needed[1])]}, **description)
    spans = [span for span in run.records[0].spans if span.layer == 1]
    assert [span.expert for span in sorted(spans, key=lambda span: span.finish)] == needed[::-1]
    assert next(span for span in spans if span.expert == needed[1]).prefetched


def test_what_is_foreseen_is_loaded_while_a_crowded_prompt_computes() -> None:
    description = linked(described(), bandwidth=1e9)
    description["workload"] = {"tokens_per_device": 1, "requests": {"count": 1, "prompt": 24, "output": 1}}
    made = create_offload({"slots": 2, "warm": False, "prefetch": ONESHOT, "chunks": 1})
    run = ran(description, replace(create_policy("on_demand"), name="a", offload=made))
    crowded = [row[0] for row in run.records[0].turns]
    assert all(turn.active > 2 for turn in crowded)
    spans = run.records[0].spans
    for layer in (1, 2, 3):
        ahead = [s for s in spans if s.layer == layer and s.prefetched and s.begin < crowded[layer].begin]
        assert len(ahead) >= 1
        assert min(s.begin for s in ahead) < crowded[layer - 1].end
