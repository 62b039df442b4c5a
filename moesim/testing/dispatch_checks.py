"""The contract of dispatch policies."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.policies.base import DispatchPolicy
from moesim.policies.plan import DispatchPlan
from moesim.testing.cases import DispatchCase, dispatch_cases
from moesim.testing.common import check_description, decide, require

IntArray = npt.NDArray[np.int64]


def _first(mask: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    found = np.argwhere(mask)
    return tuple(int(i) for i in found[0]) if found.size else ()


def _check_shape(policy: DispatchPolicy, case: DispatchCase, plan: DispatchPlan) -> None:
    """Columns are parallel, in range and without repeats."""
    load, name = case.load, case.name
    sizes = {"layer": load.layers, "expert": load.experts, "device": load.devices}
    sizes |= {"source": load.devices, "target": load.devices}
    for table, columns in (
        ("assignments", ("layer", "expert", "device", "copies")),
        ("moves", ("layer", "expert", "source", "target")),
    ):
        arrays = {column: getattr(getattr(plan, table), column) for column in columns}
        for column, array in arrays.items():
            where = f"{table}.{column}"
            require(array.dtype == np.int64, policy, name, f"{where} is {array.dtype}, not int64")
            require(array.shape == arrays["layer"].shape, policy, name, f"{where} has another length")
            bound = sizes.get(column, math.inf)
            # Weights may come from a host's memory, where the machine has one.
            least = -1 if column == "source" and case.view.host_bandwidth > 0 else 0
            fits = bool(np.all((array >= least) & (array < bound)))
            require(fits, policy, name, f"{where} has a value outside 0..{bound - 1}")
        key = [column for column in columns if column not in ("copies", "source")]
        rows = np.stack([arrays[column] for column in key], axis=1)
        distinct = np.unique(rows, axis=0).shape[0]
        require(distinct == rows.shape[0], policy, name, f"{table} repeats a ({', '.join(key)})")
    shape = (plan.traffic.layers, plan.traffic.devices)
    expected = (load.layers, load.devices)
    require(shape == expected, policy, name, f"traffic is for {shape} (layers, devices), not {expected}")
    ready = plan.planned.shape == (load.layers,) and plan.planned.dtype == np.bool_
    require(ready, policy, name, "planned is not one bool per layer")
    for what, number in (("dropped", plan.dropped), ("changed", plan.changed)):
        counts = number is None or (number.shape == (load.layers,) and number.dtype == np.int64)
        require(counts, policy, name, f"{what} is not one int64 per layer")
        require(number is None or bool((number >= 0).all()), policy, name, f"{what} has a negative number")


def _check_conservation(policy: DispatchPolicy, case: DispatchCase, plan: DispatchPlan) -> None:
    """What is sent is computed or said to be dropped, and traffic agrees with both."""
    load, name = case.load, case.name
    done, asked = plan.assignments.per_expert(load.layers, load.experts), load.per_expert
    dropped = np.zeros(load.layers, dtype=np.int64) if plan.dropped is None else plan.dropped
    if policy.exact:
        more = _first(done > asked)
        require(not more, policy, name, f"(layer, expert) {more} is computed for more copies than were sent")
        require(not dropped.any(), policy, name, "it calls itself exact and drops copies")
    lost = _first(done.sum(axis=1) + dropped != asked.sum(axis=1))
    require(not lost, policy, name, f"layer {lost}: copies computed and dropped do not add up to the load")
    received = plan.assignments.per_device(load.layers, load.devices)
    close = np.isclose(plan.traffic.inbound, received, rtol=1e-9, atol=1e-6)
    off = _first(~close)
    require(not off, policy, name, f"(layer, device) {off}: traffic received is not what is computed there")
    amounts = plan.traffic.dense()
    require(bool((amounts >= 0).all()), policy, name, "traffic has a negative amount")
    columns = np.isclose(amounts.sum(axis=1), received, rtol=1e-9, atol=1e-6)
    require(not _first(~columns), policy, name, "traffic columns do not add up to copies computed")
    sent, offered = amounts.sum(axis=2), load.per_source
    rows = np.isclose(sent, offered, rtol=1e-9, atol=1e-6) | ((dropped > 0)[:, np.newaxis] & (sent < offered))
    off = _first(~rows)
    require(not off, policy, name, f"(layer, source) {off}: traffic sent is not what the source has")


def _check_changes(policy: DispatchPolicy, case: DispatchCase, plan: DispatchPlan) -> None:
    """Tokens with copies that are dropped or computed by other experts are told."""
    load, name = case.load, case.name
    changed = np.zeros(load.layers, dtype=np.int64) if plan.changed is None else plan.changed
    if policy.exact:
        require(not changed.any(), policy, name, "it calls itself exact and changes tokens")
        return
    done, asked = plan.assignments.per_expert(load.layers, load.experts), load.per_expert
    affected = np.maximum(asked - done, 0).sum(axis=1)
    few = _first(changed < -(-affected // case.view.top_k))
    what = "more tokens have copies dropped or moved to other experts than it says are changed"
    require(not few, policy, name, f"layer {few}: {what}")
    many = _first(changed > affected)
    require(not many, policy, name, f"layer {many}: more tokens are said to be changed than copies are")


def _check_weights(policy: DispatchPolicy, case: DispatchCase, plan: DispatchPlan) -> None:
    """Only devices that hold or receive an expert compute it, and only holders send it."""
    load, name, moves, work = case.load, case.name, plan.moves, plan.assignments
    holds = np.zeros((load.layers, load.devices, load.experts), dtype=bool)
    layer, device, slot = np.nonzero(case.placement.slots >= 0)
    holds[layer, device, case.placement.slots[layer, device, slot]] = True
    sender = holds[moves.layer, moves.source, moves.expert] | (moves.source < 0)
    # A device may hand on what it gets itself from one that holds it, or from the host.
    relays = np.zeros_like(holds)
    relays[moves.layer[sender], moves.target[sender], moves.expert[sender]] = True
    sender |= relays[moves.layer, moves.source, moves.expert]
    require(
        bool(sender.all()), policy, name, "weights are sent by a device that neither holds nor is sent them"
    )
    own = bool((moves.source == moves.target).any())
    require(not own, policy, name, "weights are sent from a device to itself")
    received = np.zeros_like(holds)
    received[moves.layer, moves.target, moves.expert] = True
    most = int((received & ~holds).sum(axis=2).max(initial=0))
    room = case.view.free_expert_slots
    require(most <= room, policy, name, f"a device receives {most} experts of a layer, memory holds {room}")
    able = (holds | received)[work.layer, work.device, work.expert]
    row = _first((work.copies > 0) & ~able)
    what = ""
    if row:
        at = row[0]
        what = f"layer {work.layer[at]}: device {work.device[at]} computes expert {work.expert[at]}"
    require(not row, policy, name, f"{what}, which it neither holds nor receives")


def check_plan(policy: DispatchPolicy, case: DispatchCase) -> DispatchPlan | None:
    """Check what a dispatch policy decides in one case; return it, or None where it may refuse and does.

    Raises:
        AssertionError: the policy breaks the contract; the message says how.
    """
    inputs = (case.load, case.placement, case.view)
    try:
        plan: DispatchPlan = decide(policy, case.name, lambda p: p.plan(*inputs), inputs)
    except InputError as error:
        if case.may_refuse:
            return None
        message = f"policy '{policy.name}', {case.name}: it refused: {error}"
        raise AssertionError(message) from error
    require(isinstance(plan, DispatchPlan), policy, case.name, "it did not return a DispatchPlan")
    _check_shape(policy, case, plan)
    _check_weights(policy, case, plan)
    _check_conservation(policy, case, plan)
    _check_changes(policy, case, plan)
    seconds = policy.planning_seconds(case.load.experts, case.load.devices)
    usable = isinstance(seconds, float) and math.isfinite(seconds) and seconds >= 0
    require(usable, policy, case.name, f"planning_seconds gave {seconds!r}, not a time in seconds")
    return plan


def check_dispatch_policy(policy: DispatchPolicy, cases: Iterable[DispatchCase] | None = None) -> None:
    """Check that a dispatch policy keeps the contract.

    It is pure, deterministic and picklable; copies computed and dropped add up to the load; traffic rows
    add up to what sources send and columns to what devices compute; only devices that hold or receive
    weights compute; weights received fit; tokens that are changed by dropping or moving copies are told,
    and there are none if the policy calls itself exact; empty batches, one device, one expert and all tokens
    to one expert are handled.

    Args:
        policy: the policy, with the parameters to check it with.
        cases: cases to try instead of the built-in ones.

    Raises:
        AssertionError: the policy breaks the contract; the message names policy, case and fault.
    """
    check_description(policy)
    require(isinstance(getattr(policy, "exact", None), bool), policy, "description", "'exact' is not a bool")
    for case in dispatch_cases() if cases is None else cases:
        check_plan(policy, case)
