"""A dispatch policy that breaks the contract is told how."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.hardware.traffic import Traffic
from moesim.policies import create_dispatch
from moesim.policies.base import Parameters
from moesim.policies.dispatch.standard import Standard
from moesim.policies.placement.blocks import Contiguous, NoParameters
from moesim.policies.plan import DispatchPlan, WeightMoves
from moesim.testing import DispatchCase, check_dispatch_policy, check_plan, make_load, make_view


@dataclass(frozen=True)
class Base:
    parameters: NoParameters = field(default_factory=NoParameters)
    name: ClassVar[str] = "mine"
    summary: ClassVar[str] = "a policy of these tests"
    source: ClassVar[str] = "these tests"
    exact: ClassVar[bool] = True
    parameters_type: ClassVar[type[Parameters]] = NoParameters

    def plan(self, load, placement, view):
        return Standard().plan(load, placement, view)

    def planning_seconds(self, experts, devices):
        return 0.0


class Refuses(Base):
    def plan(self, load, placement, view):
        raise InputError("not today")


@dataclass(frozen=True)
class HoldsALambda(Base):
    score: Any = field(default_factory=lambda: lambda: 0)


def changed(plan: DispatchPlan, **columns: Any) -> DispatchPlan:
    return dataclasses.replace(plan, assignments=dataclasses.replace(plan.assignments, **columns))


def moves(*rows: tuple[int, int, int, int]) -> WeightMoves:
    return WeightMoves(*np.asarray(rows, dtype=np.int64).reshape(-1, 4).T)


class EditsPlans(Base):
    """Applies the edit of a subclass to what standard dispatch decides."""

    def edit(self, plan, load):
        raise AssertionError

    def plan(self, load, placement, view):
        return self.edit(super().plan(load, placement, view), load)


class LosesCopies(EditsPlans):
    def edit(self, plan, load):
        return changed(plan, copies=plan.assignments.copies // 2)


class InventsCopies(EditsPlans):
    def edit(self, plan, load):
        return changed(plan, copies=plan.assignments.copies + 1)


class DropsButExact(EditsPlans):
    def edit(self, plan, load):
        return dataclasses.replace(plan, dropped=np.ones(load.layers, dtype=np.int64))


class ChangesButExact(EditsPlans):
    def edit(self, plan, load):
        return dataclasses.replace(plan, changed=np.ones(load.layers, dtype=np.int64))


class CountsInFloats(EditsPlans):
    def edit(self, plan, load):
        return dataclasses.replace(plan, changed=np.zeros(load.layers))


class ChangesTooMany(ChangesButExact):
    exact = False


class DropsSilently(EditsPlans):
    exact = False

    def edit(self, plan, load):
        return changed(plan, copies=plan.assignments.copies * 0)


class ComputesElsewhere(EditsPlans):
    def edit(self, plan, load):
        return changed(plan, device=(plan.assignments.device + 1) % load.devices)


class RepeatsRows(EditsPlans):
    def edit(self, plan, load):
        columns = {
            f.name: np.repeat(getattr(plan.assignments, f.name), 2)
            for f in dataclasses.fields(plan.assignments)
        }
        return changed(plan, **columns)


class UnevenColumns(EditsPlans):
    def edit(self, plan, load):
        return changed(plan, copies=plan.assignments.copies[:-1])


class OutOfRange(EditsPlans):
    def edit(self, plan, load):
        return changed(plan, device=plan.assignments.device + load.devices)


class FloatCopies(EditsPlans):
    def edit(self, plan, load):
        return changed(plan, copies=plan.assignments.copies / 1.0)


class SendsToItself(EditsPlans):
    def edit(self, plan, load):
        work = plan.assignments
        first = (0, int(work.expert[0]), int(work.device[0]), int(work.device[0]))
        return dataclasses.replace(plan, moves=moves(first))


class SendsWhatItLacks(EditsPlans):
    def edit(self, plan, load):
        work = plan.assignments
        source = (int(work.device[0]) + 1) % load.devices
        row = (0, int(work.expert[0]), source, int(work.device[0]))
        return dataclasses.replace(plan, moves=moves(row))


class WrongRows(EditsPlans):
    def edit(self, plan, load):
        received, total = plan.traffic.inbound, plan.traffic.inbound.sum(axis=1, keepdims=True)
        share = np.zeros_like(received)
        share[:, 0] = 1.0
        return dataclasses.replace(plan, traffic=Traffic(None, share, received * (total > 0)))


class WrongColumns(EditsPlans):
    def edit(self, plan, load):
        return dataclasses.replace(plan, traffic=plan.traffic.scaled(2.0))


class NegativeTraffic(EditsPlans):
    def edit(self, plan, load):
        amounts = plan.traffic.dense().copy()
        if load.devices > 1:
            amounts[:, 0, 0] -= 1e9
            amounts[:, 1, 0] += 1e9
        return dataclasses.replace(plan, traffic=Traffic.of_pairs(amounts))


class SmallTraffic(EditsPlans):
    def edit(self, plan, load):
        return dataclasses.replace(plan, traffic=Traffic.of_pairs(np.zeros((load.layers, 1, 1))))


class OneFlagForAll(EditsPlans):
    def edit(self, plan, load):
        return dataclasses.replace(plan, planned=np.zeros(1, dtype=bool))


class NothingOnEmpty(EditsPlans):
    def edit(self, plan, load):
        return plan if load.counts.any() else None


class FailsOnEmpty(EditsPlans):
    def edit(self, plan, load):
        if not load.counts.any():
            message = "nothing to share"
            raise ZeroDivisionError(message)
        return plan


class NegativeTime(Base):
    def planning_seconds(self, experts, devices):
        return -1.0


class EditsTheLoad(Base):
    def plan(self, load, placement, view):
        load.counts[:] += 1
        return super().plan(load, placement, view)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (LosesCopies(), "do not add up to the load"),
        (InventsCopies(), "more copies than were sent"),
        (DropsButExact(), "calls itself exact and drops"),
        (ChangesButExact(), "calls itself exact and changes"),
        (CountsInFloats(), "changed is not one int64 per layer"),
        (ChangesTooMany(), "more tokens are said to be changed than copies are"),
        (DropsSilently(), "do not add up to the load"),
        (ComputesElsewhere(), "which it neither holds nor receives"),
        (RepeatsRows(), r"assignments repeats a \(layer, expert, device\)"),
        (UnevenColumns(), "assignments.copies has another length"),
        (OutOfRange(), "assignments.device has a value outside"),
        (FloatCopies(), "assignments.copies is float64, not int64"),
        (SendsToItself(), "from a device to itself"),
        (SendsWhatItLacks(), "neither holds nor is sent them|from a device to itself"),
        (WrongRows(), "traffic sent is not what the source has"),
        (WrongColumns(), "traffic received is not what is computed there"),
        (NegativeTraffic(), "negative amount"),
        (SmallTraffic(), r"traffic is for \(2, 1\)"),
        (OneFlagForAll(), "planned is not one bool per layer"),
        (NothingOnEmpty(), "an empty batch: it did not return a DispatchPlan"),
        (FailsOnEmpty(), "an empty batch: it raised"),
        (NegativeTime(), "planning_seconds gave -1.0"),
        (EditsTheLoad(), "it changed its input"),
        (Refuses(), "it refused: not today"),
        (HoldsALambda(), "cannot be pickled"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Base) else "",
)
def test_broken_dispatches_are_told_how(policy, words):
    with pytest.raises(AssertionError, match=words):
        check_dispatch_policy(policy)


def test_weights_beyond_memory_are_refused():
    view = make_view(2, 4, free_expert_slots=0)
    load = make_load([[[500, 0, 0, 0], [0, 0, 0, 0]]], 2)
    placement = Contiguous().place(np.zeros((1, 4), dtype=np.int64), view)
    case = DispatchCase("tight", load, placement, view)
    with pytest.raises(AssertionError, match="tight: a device receives 1 experts of a layer, memory holds 0"):
        check_plan(create_dispatch("llep", {"m": 1}), case)


class DropsHalf(EditsPlans):
    """Computes every second copy of each row and owns up to it."""

    exact = False

    tells: ClassVar[bool] = True

    def edit(self, plan, load):
        kept = changed(plan, copies=plan.assignments.copies // 2)
        received = kept.assignments.per_device(load.layers, load.devices)
        share = np.broadcast_to(load.share, received.shape)
        if not load.is_pooled:
            total = np.maximum(load.per_source.sum(axis=1, keepdims=True), 1)
            share = load.per_source / total
        dropped = load.per_expert.sum(axis=1) - received.sum(axis=1)
        told = {"dropped": dropped, "changed": dropped if self.tells else None}
        return dataclasses.replace(kept, traffic=Traffic.pooled(received, share), **told)


class ForgetsTokens(DropsHalf):
    tells: ClassVar[bool] = False


def test_a_policy_that_says_what_it_drops_passes():
    check_dispatch_policy(DropsHalf())


def test_a_policy_that_drops_says_which_tokens_that_changes():
    with pytest.raises(AssertionError, match="copies dropped or moved to other experts than it says"):
        check_dispatch_policy(ForgetsTokens())
