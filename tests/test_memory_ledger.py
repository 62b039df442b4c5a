"""The memory ledger: who holds what, what the peak was made of, and when it did not fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.hardware import MemoryLedger

GIB = 2**30
DEVICES = 3
OWNERS = ("weights", "kv", "buffers", "replicas")

_AMOUNTS = st.lists(st.integers(0, 100), min_size=DEVICES, max_size=DEVICES)
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(OWNERS), st.none() | _AMOUNTS | st.integers(0, 100), st.none() | st.integers(0, 2)
    ),
    max_size=30,
)


def replay(steps, capacity):
    """Run steps through a ledger and through plain dictionaries."""
    ledger = MemoryLedger(capacity)
    plain = {owner: np.zeros(DEVICES, dtype=np.int64) for owner in OWNERS}
    history = [plain]
    for number, (owner, amount, device) in enumerate(steps):
        plain = {name: held.copy() for name, held in plain.items()}
        where = slice(None) if device is None else device
        if amount is None:
            ledger.release(owner, float(number), devices=None if device is None else [device])
            plain[owner][where] = 0
        else:
            wanted = amount if device is None or isinstance(amount, int) else amount[device]
            ledger.hold(
                {owner: wanted}, float(number), f"step {number}", None if device is None else [device]
            )
            plain[owner][where] = wanted
        history.append(plain)
    return ledger, history


@given(steps=_STEPS, capacity=st.lists(st.integers(0, 300), min_size=DEVICES, max_size=DEVICES))
def test_ledger_agrees_with_plain_bookkeeping(steps, capacity):
    ledger, history = replay(steps, capacity)
    totals = np.array([sum(state.values()) for state in history])
    last = history[-1]
    for owner in OWNERS:
        assert ledger.held(owner).tolist() == last[owner].tolist()
    assert ledger.current.tolist() == totals[-1].tolist()
    assert (ledger.current >= 0).all()
    assert ledger.peak.tolist() == totals.max(axis=0).tolist()


@given(steps=_STEPS, capacity=st.lists(st.integers(0, 300), min_size=DEVICES, max_size=DEVICES))
def test_the_peak_is_explained_by_its_owners_at_its_moment(steps, capacity):
    ledger, history = replay(steps, capacity)
    totals = np.array([sum(state.values()) for state in history])
    for device in range(DEVICES):
        moment = int(totals[:, device].argmax())  # the first one
        explained = {owner: int(held[device]) for owner, held in ledger.at_peak.items()}
        assert sum(explained.values()) == ledger.peak[device]
        assert explained == {owner: int(history[moment][owner][device]) for owner in explained}
        if moment:
            assert ledger.peak_when[device] == moment - 1
            assert ledger.peak_label[device] == f"step {moment - 1}"
        else:
            assert ledger.peak_label[device] is None


@given(steps=_STEPS, capacity=st.lists(st.integers(0, 300), min_size=DEVICES, max_size=DEVICES))
def test_overflow_is_reported_once_for_exactly_the_devices_whose_peak_exceeds_capacity(steps, capacity):
    ledger, history = replay(steps, capacity)
    totals = np.array([sum(state.values()) for state in history])
    reported = {overflow.device: overflow for overflow in ledger.overflows}
    assert len(reported) == len(ledger.overflows)
    assert set(reported) == set(np.flatnonzero(ledger.peak > np.array(capacity)).tolist())
    for device, overflow in reported.items():
        first = int(np.argmax(totals[:, device] > capacity[device]))
        assert overflow.when_s == first - 1
        assert overflow.label == f"step {first - 1}"
        assert overflow.needed == totals[first, device] > overflow.capacity == capacity[device]
        held = [amount for _, amount in overflow.holders]
        assert sum(held) == overflow.needed
        assert held == sorted(held, reverse=True)
        assert min(held) > 0


def test_running_out_says_which_device_when_and_what_held_the_bytes():
    ledger = MemoryLedger([80 * GIB, 80 * GIB])
    ledger.hold({"weights": 60 * GIB}, 0.0, "start")
    ledger.hold({"receive buffer": [10 * GIB, 30 * GIB]}, 1.5, (0, 3, "dispatch"))
    (overflow,) = ledger.overflows
    assert (overflow.device, overflow.when_s, overflow.label) == (1, 1.5, (0, 3, "dispatch"))
    assert overflow.holders == (("weights", 60 * GIB), ("receive buffer", 30 * GIB))
    assert ledger.peak_label == [(0, 3, "dispatch")] * 2


def test_holding_replaces_and_releasing_empties():
    ledger = MemoryLedger([100], "DRAM")
    ledger.hold({"kv": 70}, 0.0)
    ledger.hold({"kv": 20}, 1.0)
    ledger.release("kv", 2.0)
    ledger.release("nobody", 3.0)
    assert ledger.tier == "DRAM"
    assert ledger.current.tolist() == [0]
    assert ledger.peak.tolist() == [70]
    assert ledger.owners == ("kv",)
    assert ledger.held("nobody").tolist() == [0]


def test_fractions_of_a_byte_are_rounded_up():
    ledger = MemoryLedger([10])
    ledger.hold({"expected": 1.2}, 0.0)
    assert ledger.current.tolist() == [2]


def test_many_owners_find_room():
    ledger = MemoryLedger(np.full(4, 1000))
    for number in range(40):
        ledger.hold({f"owner {number}": np.arange(4)}, float(number))
    assert ledger.peak.tolist() == [0, 40, 80, 120]
    assert len(ledger.at_peak) == 40


@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf"), 2.0**60])
def test_impossible_amounts_are_refused_and_change_nothing(amount):
    ledger = MemoryLedger([10, 10])
    with pytest.raises(ValueError, match="finite, not negative"):
        ledger.hold({"kv": [1, amount]}, 0.0)
    assert ledger.current.tolist() == [0, 0]
    assert ledger.owners == ()


def test_what_is_handed_out_cannot_change_the_ledger():
    ledger = MemoryLedger([10])
    ledger.hold({"kv": 5}, 0.0)
    ledger.current[0] = ledger.peak[0] = ledger.held("kv")[0] = ledger.at_peak["kv"][0] = 99
    assert ledger.current.tolist() == ledger.peak.tolist() == ledger.held("kv").tolist() == [5]
