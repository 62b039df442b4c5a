"""Keep experts in the slots in which they stand already.

vLLM orders the slots of each device like this after every rebalancing (``preserve_intragpu_slots``), so that
only experts that are new to a device are copied.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.policies.base import ClusterView
from moesim.policies.plan import Placement

IntArray = npt.NDArray[np.int64]


def previous_slots(view: ClusterView, like: tuple[int, ...]) -> IntArray | None:
    """Return the slots in force, int64 [layers, devices, slots]; None if there are none of that shape."""
    previous = None if view.past is None else view.past.previous
    if previous is None or previous.slots.shape != like or previous.experts != view.experts:
        return None
    return previous.slots


def kept(placement: Placement, view: ClusterView) -> Placement:
    """Return a placement with the slots of each device ordered like those in force.

    The first slots that hold an expert keep it; what is new to the device fills the other slots in order.
    """
    before = previous_slots(view, placement.slots.shape)
    if before is None:
        return placement
    width = before.shape[2]
    slots = reordered(placement.slots.reshape(-1, width), before.reshape(-1, width))
    return Placement(slots.reshape(before.shape), placement.experts)


def reordered(new: IntArray, old: IntArray) -> IntArray:
    """Order each row of new slots like the old ones, as far as it goes, int64 [rows, slots]."""
    used, filled = np.zeros(new.shape, dtype=np.bool_), np.zeros(new.shape, dtype=np.bool_)
    ordered = new.copy()
    every = np.arange(len(new))
    for slot in range(new.shape[1]):
        same = (new == old[:, slot : slot + 1]) & ~used
        found = same.any(axis=1)
        used[every[found], same.argmax(axis=1)[found]] = True
        filled[:, slot] = found
        ordered[found, slot] = old[found, slot]
    # As many slots are left as experts; both keep their order.
    ordered[~filled] = new[~used]
    return ordered
