"""The contract of placement policies."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from moesim.errors import InputError
from moesim.policies.base import PlacementPolicy
from moesim.policies.plan import Placement
from moesim.testing.cases import PlacementCase, placement_cases
from moesim.testing.common import check_description, decide, require


def check_placement(policy: PlacementPolicy, case: PlacementCase) -> Placement | None:
    """Check what a placement policy decides in one case.

    Returns:
        The placement, or None if the policy refused a case that may be refused.

    Raises:
        AssertionError: the policy breaks the contract; the message says how.
    """
    try:
        placement: Placement = decide(
            policy, case.name, lambda p: p.place(case.statistics, case.view), (case.statistics, case.view)
        )
    except InputError as error:
        require(case.may_refuse, policy, case.name, f"it refused: {error}")
        return None
    require(isinstance(placement, Placement), policy, case.name, "it did not return a Placement")
    view, slots = case.view, placement.slots
    layers = case.statistics.shape[0]
    require(slots.dtype == np.int64, policy, case.name, f"slots are {slots.dtype}, not int64")
    require(
        slots.shape[:2] == (layers, view.devices) and placement.experts == view.experts,
        policy,
        case.name,
        f"it placed {placement.experts} experts in slots {slots.shape}, expected {view.experts} experts in"
        f" ({layers}, {view.devices}, slots)",
    )
    missing = np.argwhere(placement.replicas < 1)
    require(
        missing.size == 0,
        policy,
        case.name,
        f"(layer, expert) {tuple(missing[0].tolist()) if missing.size else ()} has no slot",
    )
    share = -(-view.experts // view.devices)
    most = int(placement.experts_per_device.max(initial=0))
    require(
        most <= share + view.free_expert_slots,
        policy,
        case.name,
        f"a device holds {most} experts of a layer, its share is {share} and memory has room for"
        f" {view.free_expert_slots} more",
    )
    return placement


def check_placement_policy(policy: PlacementPolicy, cases: Iterable[PlacementCase] | None = None) -> None:
    """Check that a placement policy keeps the contract.

    It is pure, deterministic and picklable, places every expert of every layer, keeps within the slots
    that memory has room for, and copes with no statistics, one device, one expert, one hot expert and
    numbers that do not divide. With little memory or uneven nodes it may refuse with an InputError.

    Args:
        policy: the policy, with the parameters to check it with.
        cases: cases to try instead of the built-in ones.

    Raises:
        AssertionError: the policy breaks the contract; the message names policy, case and fault.
    """
    check_description(policy)
    for case in placement_cases() if cases is None else cases:
        check_placement(policy, case)
