"""LLEP gives what the reference implementation gives, as plans of slices, moves and traffic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.policies.dispatch import llep
from moesim.policies.dispatch.llep_policy import Llep, LlepParameters
from moesim.policies.placement.blocks import Contiguous, RoundRobin
from moesim.policies.plan import Placement
from moesim.routing.load import Load
from moesim.testing import make_load, make_view

CASES = json.loads((Path(__file__).parent / "data" / "policy_goldens.json").read_text())["llep"]
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "goldens"
SHARED_FILES = sorted(SHARED.glob("llep_*.json"))


def contiguous(devices: int, experts: int, layers: int = 1) -> Placement:
    return Contiguous().place(np.zeros((layers, experts), dtype=np.int64), make_view(devices, experts))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_assignments(case):
    found = llep.assign(case["counts"], case["devices"], case["experts_per_device"], case["alpha"], case["m"])
    assert [[e, [list(s) for s in slices]] for e, slices in found.slices.items()] == case["slices"]
    assert [list(transfer) for transfer in found.transfers] == case["transfers"]
    assert found.loads == case["loads"]
    assert found.capacity == case["capacity"]


@pytest.mark.skipif(not SHARED_FILES, reason="the shared golden cases are not beside this checkout")
@pytest.mark.parametrize("path", SHARED_FILES, ids=lambda path: path.stem)
def test_all_shared_golden_assignments(path):
    for case in json.loads(path.read_text())["cases"]:
        given_, expected = case["inputs"], case["outputs"]
        found = llep.assign(
            given_["global_expert_counts"],
            given_["ep_size"],
            given_["num_local_experts"],
            given_["max_tokens_factor_alpha"],
            given_["min_tokens_per_gemm"],
        )
        assert list(found.slices) == expected["processing_order"], case["name"]
        assert {str(e): [list(s) for s in found.slices[e]] for e in found.slices} == expected["assignments"]
        transfers = expected["weight_transfers_expert_src_dst_start_end"]
        assert [list(transfer) for transfer in found.transfers] == transfers, case["name"]
        assert found.loads == expected["gpu_loads"], case["name"]


def plan_of(case):
    devices, experts = case["devices"], len(case["counts"])
    if case["per_source"]:
        load = make_load([case["per_source"]], devices)
    else:
        load = Load(np.asarray([[case["counts"]]], dtype=np.int64), np.ones(devices, dtype=np.int64))
    policy = Llep(LlepParameters(alpha=case["alpha"], min_tokens_per_gemm=case["m"], threshold=0))
    return policy.plan(load, contiguous(devices, experts), make_view(devices, experts))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_plans_carry_the_golden_assignment(case):
    plan = plan_of(case)
    experts, devices = len(case["counts"]), case["devices"]
    expected = np.zeros((experts, devices), dtype=np.int64)
    for expert, slices in case["slices"]:
        for device, start, end in slices:
            expected[expert, device] += end - start
    found = np.zeros_like(expected)
    found[plan.assignments.expert, plan.assignments.device] = plan.assignments.copies
    np.testing.assert_array_equal(found, expected)
    moves = set(zip(*(getattr(plan.moves, c).tolist() for c in ("expert", "source", "target")), strict=True))
    assert moves == {(e, home, helper) for e, home, helper, _, _ in case["transfers"]}
    assert len(moves) == len(plan.moves)
    if case["send"]:
        np.testing.assert_array_equal(plan.traffic.dense()[0], case["send"])


@pytest.mark.parametrize(("threshold", "planned"), [(1.59, True), (1.6, True), (1.61, False), (0.0, True)])
def test_plans_only_where_the_busiest_device_reaches_the_threshold(threshold, planned):
    load = make_load([[[300, 20, 40, 40], [0, 0, 0, 0]]], 2)
    policy = Llep(LlepParameters(threshold=threshold, min_tokens_per_gemm=1))
    plan = policy.plan(load, contiguous(2, 4), make_view(2, 4))
    assert plan.planned.tolist() == [planned]
    received = plan.assignments.per_device(1, 2).tolist()
    assert received == ([[200, 200]] if planned else [[320, 80]])
    assert len(plan.moves) == int(planned)


def test_the_threshold_looks_at_devices_not_experts():
    load = make_load([[[0, 100, 0, 100], [0, 100, 0, 100]]], 2)
    policy = Llep(LlepParameters(threshold=1.3, min_tokens_per_gemm=1))
    assert not policy.plan(load, contiguous(2, 4), make_view(2, 4)).planned.any()


def test_layers_are_planned_one_by_one():
    load = make_load([[[10, 10]] * 2, [[40, 0]] * 2], 2)
    plan = Llep(LlepParameters(min_tokens_per_gemm=1)).plan(load, contiguous(2, 2, 2), make_view(2, 2))
    assert plan.planned.tolist() == [False, True]
    assert plan.moves.layer.tolist() == [1]
    np.testing.assert_array_equal(plan.traffic.dense(), [[[10, 10], [10, 10]], [[40, 0], [0, 40]]])


def test_homes_follow_the_placement():
    view = make_view(2, 4)
    placement = RoundRobin().place(np.zeros((1, 4), dtype=np.int64), view)
    load = make_load([[[90, 0, 110, 0], [0, 0, 0, 0]]], 2)
    plan = Llep(LlepParameters(min_tokens_per_gemm=1)).plan(load, placement, view)
    assert plan.moves.expert.tolist() == [2]
    assert plan.moves.source.tolist() == [0]
    assert plan.assignments.per_device(1, 2).tolist() == [[100, 100]]


def test_a_helper_with_a_replica_needs_no_weights():
    placement = Placement(np.asarray([[[0, 1], [2, 0]]], dtype=np.int64), 3)
    load = make_load([[[200, 0, 0], [0, 0, 0]]], 2)
    policy = Llep(LlepParameters(min_tokens_per_gemm=1))
    plan = policy.plan(load, placement, make_view(2, 3))
    assert plan.assignments.per_device(1, 2).tolist() == [[100, 100]]
    assert len(plan.moves) == 0


def test_planning_time_is_a_parameter():
    assert Llep().planning_seconds(128, 8) == pytest.approx(128 * 45e-6)
    policy = Llep(LlepParameters(planning_per_expert_s=0.0, planning_fixed_s=1e-3))
    assert policy.planning_seconds(128, 8) == 1e-3


def literal(counts, devices, per_device, alpha, m):
    """The published description step by step, with pending and assigned loads kept apart."""
    share = sum(counts) // devices
    capacity = max(1, int(alpha * share) if share else sum(counts))
    pending = [sum(counts[d * per_device : (d + 1) * per_device]) for d in range(devices)]
    assigned, slices = [0] * devices, {}

    def ranking(home):
        return sorted((assigned[d] + pending[d], d) for d in range(devices) if d != home)

    for expert in sorted(range(len(counts)), key=lambda e: (-counts[e], e)):
        count, home = counts[expert], expert // per_device
        if not count:
            continue
        pending[home] -= count
        room = capacity - assigned[home] - pending[home]
        kept = count if devices == 1 else min(count, max(0, room))
        parts = [(home, 0, kept)] if kept else []
        assigned[home] += kept
        at, frozen = kept, ranking(home)
        walk = iter(frozen)
        while at < count:
            rest = count - at
            candidates = ranking(home) if kept else walk
            found = None
            for load, device in candidates:
                chunk = min(rest, capacity - load)
                if chunk > 0 and (chunk >= m or chunk == rest):
                    found = (device, chunk)
                    break
            device, chunk = found or ((ranking(home) if kept else frozen)[0][1], rest)
            parts.append((device, at, at + chunk))
            assigned[device] += chunk
            at += chunk
        slices[expert] = parts
    return slices, assigned


@settings(max_examples=300)
@given(
    st.integers(1, 7).flatmap(
        lambda devices: st.tuples(
            st.just(devices),
            st.integers(1, 3).flatmap(
                lambda per_device: st.lists(
                    st.one_of(st.integers(0, 8), st.integers(0, 3000)),
                    min_size=per_device * devices,
                    max_size=per_device * devices,
                )
            ),
        )
    ),
    st.sampled_from([0.3, 0.5, 1.0, 1.1, 2.0]),
    st.sampled_from([0, 1, 3, 50, 1024]),
)
def test_any_load_is_assigned_as_described(shape, alpha, m):
    devices, counts = shape
    per_device = len(counts) // devices
    found = llep.assign(counts, devices, per_device, alpha, m)
    slices, loads = literal(counts, devices, per_device, alpha, m)
    assert found.slices == slices
    assert list(found.slices) == list(slices)
    assert found.loads == loads


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_totals_and_counts_per_source_give_the_same_work(devices, seed):
    counts = np.random.default_rng(seed).integers(0, 60, (2, devices, 2 * devices))
    counts[:, :, 0] *= 10
    view, tokens = make_view(devices, 2 * devices), np.ones(devices, dtype=np.int64)
    policy = Llep(LlepParameters(min_tokens_per_gemm=4, threshold=1.0))
    placement = contiguous(devices, 2 * devices, 2)
    dense = policy.plan(Load(counts, tokens), placement, view)
    pooled = policy.plan(Load(counts.sum(axis=1, keepdims=True), tokens), placement, view)
    for column in ("layer", "expert", "device", "copies"):
        np.testing.assert_array_equal(getattr(dense.assignments, column), getattr(pooled.assignments, column))
    np.testing.assert_array_equal(dense.traffic.inbound, pooled.traffic.inbound)
