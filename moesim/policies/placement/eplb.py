"""EPLB: replicate hot experts and pack replicas so that devices carry equal load.

The algorithm is DeepSeek's (deepseek-ai/EPLB, commit d52c72d): give further copies to the expert with the
largest load per copy, then deal copies to devices heaviest first. The hierarchical form first deals
routing groups to nodes, so that tokens limited to few groups stay within few nodes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.policies.placement.packing import inverse, pack, replicate

IntArray = npt.NDArray[np.int64]


def divides(replicas: int, experts: int, groups: int, nodes: int, gpus: int) -> str | None:
    """Say what keeps the hierarchical form from being used, or None if nothing does."""
    for whole, part, text in (
        (experts, groups, f"{groups} groups do not divide {experts} experts"),
        (groups, nodes, f"{nodes} nodes do not divide {groups} expert groups"),
        (gpus, nodes, f"{nodes} nodes do not divide {gpus} devices"),
        (replicas, gpus, f"{gpus} devices do not divide {replicas} slots"),
    ):
        if part < 1 or whole % part:
            return text
    return None


def rebalance(
    weight: npt.ArrayLike, replicas: int, groups: int, nodes: int, gpus: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Place experts as the reference does: hierarchically if the nodes divide the groups, else globally.

    Args:
        weight: load per expert, [layers, experts]; taken as float32.
        replicas: slots over all devices, a multiple of ``gpus`` and at least the experts.
        groups: routing groups of the model.
        nodes: number of nodes.
        gpus: number of devices; device j owns slots ``j * replicas / gpus`` onwards.

    Returns:
        Expert of each slot [layers, replicas]; slots of each expert padded with -1
        [layers, experts, largest count]; number of slots of each expert [layers, experts].

    Raises:
        InputError: the numbers do not divide, or there are fewer slots than experts.
    """
    loads = np.asarray(weight, dtype=np.float32)
    if nodes < 1 or groups % nodes:
        groups, nodes = 1, 1
    obstacle = divides(replicas, loads.shape[1], groups, nodes, gpus)
    if obstacle:
        message = f"EPLB cannot place experts: {obstacle}"
        raise InputError(message)
    room = np.full(gpus, replicas // gpus, dtype=np.int64)
    slots, copy_of, count = balance(loads, room, groups, nodes)
    slot_of = np.full((*loads.shape, int(count.max(initial=1))), -1, dtype=np.int64)
    slot_of[np.arange(loads.shape[0])[:, np.newaxis], slots, copy_of] = np.arange(replicas)
    return slots, slot_of, count


def balance(
    loads: npt.NDArray[np.float32], room: IntArray, groups: int, nodes: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Fill ``room`` slots per device, int64 [devices]; uneven room needs one node.

    Returns:
        Expert of each slot, device after device [layers, slots]; which copy of it stands there
        [layers, slots]; copies per expert [layers, experts].

    Raises:
        InputError: there are fewer slots than experts.
    """
    layers, experts = loads.shape
    slots, in_group = int(room.sum()), experts // groups
    if slots < experts:
        message = f"EPLB cannot place {experts} experts in {slots} slots"
        raise InputError(message)
    # Deal groups to nodes and renumber experts node by node.
    per_group = loads.reshape(layers, groups, in_group).sum(axis=2, dtype=np.float32)
    node, rank = pack(per_group, np.full(nodes, groups // nodes, dtype=np.int64))
    group_at = (node * (groups // nodes) + rank) * in_group
    new_of = (group_at[:, :, np.newaxis] + np.arange(in_group)).reshape(layers, experts)
    old_of = inverse(new_of)
    # Replicate within each node.
    per_node = np.take_along_axis(loads, old_of, axis=1).reshape(layers * nodes, experts // nodes)
    expert_of, copy_of, count = replicate(per_node, slots // nodes)
    # Deal the copies of each node to its devices.
    per_copy: npt.NDArray[np.float32] = np.take_along_axis(
        np.divide(per_node, count, dtype=np.float32), expert_of, axis=1
    )
    here = room[: room.size // nodes]
    device, rank = pack(per_copy, here)
    first = np.concatenate([[0], np.cumsum(here)[:-1]])
    at = inverse(first[device] + rank)
    expert_of, copy_of = (np.take_along_axis(array, at, axis=1) for array in (expert_of, copy_of))
    # Back to the numbers that the caller knows.
    shift = np.tile(np.arange(nodes) * (experts // nodes), layers)[:, np.newaxis]
    renumbered = (expert_of + shift).reshape(layers, slots)
    original = np.take_along_axis(old_of, renumbered, axis=1)
    counts = np.take_along_axis(count.reshape(layers, experts), new_of, axis=1)
    return original, copy_of.reshape(layers, slots), counts
