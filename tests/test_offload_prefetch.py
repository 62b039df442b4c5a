"""Prefetches through the engine: in time, late, wrong, hurried; against schedules worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from offload_runs import WIRE, described, ran

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
    first = run.records[0].turns
    waited = sum(turn.load_s for record in run.records for row in record.turns for turn in row)
    if warm:
        assert totals["loads"] == 0
        assert waited == 0
    else:
        # Before its first access nothing is evicted, but nothing needs to be: the caches are empty.
        assert totals["loads"] == 0
        assert waited == 0
    assert len(first) == 4


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_prefetches_are_judged_by_their_own_layer(scope: str) -> None:
    run = ran(linked(described({"slots": 4, "scope": scope, "prefetch": GATE}), bandwidth=1e13))
    counts = run.by_layer
    from moesim.engine.offload.machine import PREFETCHES, USED, WASTED

    assert counts[1:, PREFETCHES].min() > 0
    np.testing.assert_array_equal(counts[:, USED], counts[:, PREFETCHES])
    assert counts[:, WASTED].sum() == 0
