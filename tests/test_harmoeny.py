"""HarMoEny: whole blocks go to the least loaded devices, weights come from the host."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.policies.dispatch.harmoeny import Harmoeny, HarmoenyParameters
from moesim.policies.dispatch.llep import spill
from moesim.policies.placement.blocks import Contiguous
from moesim.testing import make_load, make_view


def plan(counts, devices, **parameters):
    experts = len(counts)
    view = make_view(devices, experts)
    placement = Contiguous().place(np.zeros((1, experts), dtype=np.int64), view)
    per_source = np.zeros((1, devices, experts), dtype=np.int64)
    per_source[0, 0] = counts
    return Harmoeny(HarmoenyParameters(**parameters)).plan(make_load(per_source, devices), placement, view)


def test_blocks_level_the_devices():
    found = plan([100, 20, 0, 0], 2, block=10)
    assert found.assignments.per_device(1, 2).tolist() == [[60, 60]]
    assert found.moves.expert.tolist() == [0]
    assert found.moves.source.tolist() == [-1]
    assert found.moves.target.tolist() == [1]


def test_what_is_smaller_than_a_block_stays_at_home():
    found = plan([100, 20, 0, 0], 2, block=61)
    assert found.assignments.per_device(1, 2).tolist() == [[120, 0]]
    assert len(found.moves) == 0
    assert found.planned.tolist() == [True]


def test_no_device_is_filled_beyond_capacity():
    # LLEP would force the rest of expert 0 on a helper; here it stays.
    found = plan([90, 0, 30], 3, block=25)
    assert found.assignments.per_device(1, 3).tolist() == [[50, 40, 30]]


def test_a_block_hides_the_load_of_its_expert():
    view = replace(make_view(2, 4), expert_bytes=10**6, host_bandwidth=1e9, flops=1e12, expert_flops=1e8)
    assert Harmoeny().block_of(view) == 10  # 1 ms for the weights, 0.1 ms a copy
    assert Harmoeny(HarmoenyParameters(block=7)).block_of(view) == 7


def test_a_machine_without_a_host_is_refused():
    view = make_view(2, 2, host_bandwidth=0.0)
    placement = Contiguous().place(np.zeros((1, 2), dtype=np.int64), view)
    with pytest.raises(InputError, match="'harmoeny' loads experts from the host"):
        Harmoeny().plan(make_load([[[1, 1]] * 2], 2), placement, view)


@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=12),
    st.integers(1, 6),
    st.integers(1, 80),
    st.integers(0, 3),
)
def test_blocks_are_whole_and_help(counts, devices, block, room):
    experts = len(counts)
    homes = [expert * devices // experts for expert in range(experts)]
    loads = [sum(c for c, h in zip(counts, homes, strict=True) if h == d) for d in range(devices)]
    before, capacity = list(loads), max(1, sum(counts) // devices)
    order = sorted(range(experts), key=lambda e: -counts[e])
    moved = spill(counts, homes, order, loads, capacity, block, forced=False, room=room)
    taken = [0] * devices
    for expert, slices in moved.items():
        assert [start for _, start, _ in slices] == [0, *(end for _, _, end in slices[:-1])]
        assert slices[-1][2] == counts[expert]
        for device, start, end in slices:
            if device != homes[expert]:
                assert end - start >= block
                taken[device] += 1
    assert max(taken) <= room
    assert sum(loads) == sum(counts)
    for device in range(devices):
        assert loads[device] <= max(before[device], capacity)
