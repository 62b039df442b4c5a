"""What placements by load and by affinity have in common: from devices of experts to slots, and back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.policies.base import ClusterView
from moesim.policies.past import Past

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

SLOWER_BETWEEN = 9.0
"""How much slower nodes exchange than devices of a node, where a machine does not say: the set-up of
MoETuner (arXiv 2502.06643)."""


def slots_of(device_of: IntArray, devices: int, expert: IntArray | None = None) -> IntArray:
    """Put experts that have a device into slots, in the order in which they come.

    Args:
        device_of: device of each item, int64 [layers, items].
        devices: number of devices.
        expert: expert of each item, int64 [layers, items]; by default item i is expert i.

    Returns:
        Experts of each device, padded with -1, int64 [layers, devices, slots].
    """
    layers, items = device_of.shape
    rows = np.arange(layers)[:, np.newaxis]
    order = np.argsort(device_of, axis=1, kind="stable")
    device = np.take_along_axis(device_of, order, axis=1)
    counts = np.bincount((rows * devices + device_of).ravel(), minlength=layers * devices)
    counts = counts.reshape(layers, devices)
    first = np.cumsum(counts, axis=1) - counts
    rank = np.arange(items) - np.take_along_axis(first, device, axis=1)
    slots = np.full((layers, devices, max(1, int(counts.max(initial=0)))), -1, dtype=np.int64)
    slots[rows, device, rank] = order if expert is None else np.take_along_axis(expert, order, axis=1)
    return slots


def even_room(items: int, devices: int) -> IntArray:
    """Share items evenly, int64 [devices]; the first devices have one more where they do not divide."""
    room = np.full(devices, items // devices, dtype=np.int64)
    room[: items % devices] += 1
    return room


def contiguous(experts: int, devices: int) -> IntArray:
    """Return the device of each expert in blocks of neighbours, int64 [experts]."""
    return np.repeat(np.arange(devices, dtype=np.int64), even_room(experts, devices))


def most_slots(view: ClusterView) -> int:
    """Return how many experts of a layer the memory of a device holds."""
    return -(-view.experts // view.devices) + view.free_expert_slots


def check_redundant(policy: str, redundant: int, view: ClusterView) -> None:
    """Check that so many further copies per layer find room.

    Raises:
        InputError: they do not; says how many would.
    """
    holds = most_slots(view)
    needed = -(-(view.experts + redundant) // view.devices)
    if needed > holds:
        message = (
            f"{policy}: {redundant} redundant experts need {needed} slots per device and layer,"
            f" memory holds {holds}"
        )
        raise InputError(message, hint=f"at most {holds * view.devices - view.experts} fit")


def past_of(statistics: IntArray, view: ClusterView) -> Past:
    """Return the past, or one that knows only totals if none is known of these layers.

    Args:
        statistics: past copies per expert, int64 [layers, experts].
        view: the machine.
    """
    past, (layers, experts) = view.past, statistics.shape
    if past is not None and past.together.shape == (layers, experts, experts):
        return past
    return Past.of_counts(statistics, view.top_k)


def bandwidths(view: ClusterView) -> tuple[float, float]:
    """Return what a device sends inside its node and between nodes (bytes/s)."""
    return view.inside_bandwidth, view.between_bandwidth or view.inside_bandwidth / SLOWER_BETWEEN


def near_worth(view: ClusterView) -> float:
    """Return what staying in the node saves of what staying on the device saves, as transfer time."""
    inside, between = bandwidths(view)
    return max(0.0, 1.0 - between / inside) if inside > 0 else 0.0
