"""EPLB gives what the reference implementation gives, and fits itself to the machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.policies.placement import eplb
from moesim.policies.placement.eplb_policy import Eplb, EplbParameters
from moesim.testing import make_view

CASES = json.loads((Path(__file__).parent / "data" / "policy_goldens.json").read_text())["eplb"]
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "goldens"
SHARED_FILES = sorted(SHARED.glob("eplb_*.json"))


def device_loads(weight: Any, slots: Any, gpus: int) -> np.ndarray:
    """Sorted load per device when copies of an expert share its load evenly."""
    weight, slots = np.asarray(weight, dtype=float), np.asarray(slots)
    rows = np.arange(slots.shape[0])[:, np.newaxis]
    count = np.zeros_like(weight)
    np.add.at(count, (rows, slots), 1)
    per_slot = weight[rows, slots] / count[rows, slots]
    return np.sort(per_slot.reshape(slots.shape[0], gpus, -1).sum(axis=2), axis=1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_small_golden_cases(case):
    slots, slots_of, count = eplb.rebalance(
        case["weight"], case["replicas"], case["groups"], case["nodes"], case["gpus"]
    )
    np.testing.assert_array_equal(slots, case["slots"])
    np.testing.assert_array_equal(slots_of, case["slots_of"])
    np.testing.assert_array_equal(count, case["count"])
    np.testing.assert_allclose(
        device_loads(case["weight"], slots, case["gpus"]),
        device_loads(case["weight"], case["unstable_slots"], case["gpus"]),
        rtol=1e-6,
    )


@pytest.mark.skipif(not SHARED_FILES, reason="the shared golden cases are not beside this checkout")
@pytest.mark.parametrize("path", SHARED_FILES, ids=lambda path: path.stem)
def test_all_shared_golden_cases(path):
    case = json.loads(path.read_text())
    sizes = [case["inputs"][f"num_{what}"] for what in ("replicas", "groups", "nodes", "gpus")]
    slots, slots_of, count = eplb.rebalance(case["inputs"]["weight"], *sizes)
    stable = case["outputs_stable_sort"]
    np.testing.assert_array_equal(slots, stable["physical_to_logical"])
    np.testing.assert_array_equal(count, stable["logical_count"])
    if "logical_to_physical" in stable:
        np.testing.assert_array_equal(slots_of, stable["logical_to_physical"])
    else:
        digest = hashlib.sha256(slots_of.astype("<i8").tobytes()).hexdigest()
        assert digest == stable["logical_to_physical_sha256_int64_le"]
    unstable = case["outputs"]["physical_to_logical"]
    np.testing.assert_array_equal(np.sort(slots, axis=1), np.sort(unstable, axis=1))
    weight = case["inputs"]["weight"]
    np.testing.assert_allclose(
        device_loads(weight, slots, sizes[3]), device_loads(weight, unstable, sizes[3]), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((17, 4, 2, 8), "8 devices do not divide 17 slots"),
        ((16, 5, 5, 8), "5 groups do not divide 12 experts"),
        ((16, 4, 4, 6), "4 nodes do not divide 6 devices"),
        ((8, 1, 1, 4), "12 experts in 8 slots"),
        ((16, 4, 0, 0), "0 devices do not divide"),
    ],
)
def test_numbers_that_do_not_divide_are_refused(sizes, words):
    with pytest.raises(InputError, match=words):
        eplb.rebalance(np.ones((1, 12)), *sizes)


def test_policy_places_what_the_reference_places():
    case = next(case for case in CASES if case["name"] == "readme_hierarchical")
    view = make_view(8, 12, nodes=2, groups=4)
    placement = Eplb(EplbParameters(redundant=4)).place(np.asarray(case["weight"]), view)
    np.testing.assert_array_equal(placement.slots.reshape(2, 16), case["slots"])


def test_nodes_keep_their_groups_when_devices_are_numbered_across_nodes():
    view = make_view(4, 8, nodes=2, groups=2, interleaved=True)
    placement = Eplb(EplbParameters(mode="hierarchical")).place(np.arange(8)[np.newaxis], view)
    groups = [set((placement.slots[0, view.node_of == node] // 4).ravel().tolist()) for node in (0, 1)]
    assert sorted(map(len, groups)) == [1, 1]
    assert groups[0] != groups[1]


def test_global_form_ignores_nodes():
    statistics = np.asarray([[95, 1, 1, 1, 1, 1, 1, 1]])
    view = make_view(4, 8, nodes=2, groups=2)
    spread = Eplb(EplbParameters(mode="global", redundant=4)).place(statistics, view)
    kept = Eplb(EplbParameters(mode="auto", redundant=4)).place(statistics, view)
    nodes_of_hot = [
        {int(n) for n in view.node_of[(placement.slots[0] == 0).any(axis=1)]} for placement in (spread, kept)
    ]
    assert nodes_of_hot == [{0, 1}, {0}]


def test_hierarchical_form_says_why_it_cannot_be_used():
    policy = Eplb(EplbParameters(mode="hierarchical"))
    with pytest.raises(InputError, match="2 nodes do not divide 1 expert groups"):
        policy.place(np.ones((1, 8), dtype=np.int64), make_view(4, 8, nodes=2))
    with pytest.raises(InputError, match="different numbers of devices"):
        policy.place(np.ones((1, 8), dtype=np.int64), make_view(5, 8, nodes=2, groups=2))


def test_default_adds_one_slot_per_device_as_deepseek_does():
    placement = Eplb().place(np.ones((2, 256), dtype=np.int64), make_view(32, 256))
    assert placement.slots.shape == (2, 32, 9)


def test_default_takes_only_what_memory_holds():
    placement = Eplb().place(np.ones((1, 8), dtype=np.int64), make_view(4, 8, free_expert_slots=0))
    assert placement.experts_per_device.tolist() == [[2, 2, 2, 2]]


def test_redundant_experts_beyond_memory_are_refused_with_the_number_that_fits():
    policy = Eplb(EplbParameters(redundant=8))
    with pytest.raises(InputError, match="at most 4 fit"):
        policy.place(np.ones((1, 8), dtype=np.int64), make_view(4, 8, free_expert_slots=1))


def test_slots_that_devices_do_not_divide_pair_the_lightest_copies():
    statistics = np.arange(100, 0, -1)[np.newaxis, :8]
    placement = Eplb(EplbParameters(redundant=0)).place(statistics, make_view(6, 8))
    held = [[e for e in device if e >= 0] for device in placement.slots[0].tolist()]
    assert held == [[0], [1], [2], [3], [4, 7], [5, 6]]


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_every_further_copy_goes_to_the_hottest_expert(gpus, per_gpu, extra, seed):
    experts = gpus * per_gpu
    weight = np.random.default_rng(seed).integers(0, 1000, (3, experts))
    slots, slots_of, count = eplb.rebalance(weight, experts + extra * gpus, 1, 1, gpus)
    assert (count.sum(axis=1) == experts + extra * gpus).all()
    hottest = (weight / count).max(axis=1)
    before_last = np.where(count > 1, weight / np.maximum(count - 1, 1), np.inf).min(axis=1)
    assert (hottest <= before_last * (1 + 1e-6)).all()
    for layer in range(3):
        for expert in range(experts):
            where = slots_of[layer, expert, : count[layer, expert]]
            assert (slots[layer, where] == expert).all()
