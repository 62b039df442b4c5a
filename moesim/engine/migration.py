"""From one placement to the next: which slots are filled anew, from where, and in which order.

A slot that gets another expert is one update. Its weights come from the nearest device that holds the expert
under the old placement: the device itself (a copy inside its memory), one of the same node, or any; where
several are equally near, the updates of an expert ask them in turn. A layer changes as a whole, once all of
its updates are done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moesim.policies.plan import Placement, WeightMoves

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def updates(old: Placement, new: Placement, node_of: IntArray, from_host: bool = False) -> WeightMoves:
    """Return the updates that turn one placement into another, in the order of layers, devices and slots.

    Args:
        old: the placement in force.
        new: the one to come, of the same layers, devices and experts.
        node_of: node of each device, int64 [devices].
        from_host: weights that a device does not have come from host memory.

    Returns:
        A row per slot that is filled anew. ``source`` is ``target`` where the device has the weights already.
    """
    before, after = same_width(old.slots, new.slots)
    layer, target, slot = np.nonzero((after != before) & (after >= 0))
    expert = after[layer, target, slot]
    holds = holders(old)
    mine = holds[layer, expert, target]
    # A second copy on one device is made from the first one.
    key = (layer * old.experts + expert) * old.devices + target
    first = np.zeros(key.size, dtype=np.bool_)
    first[np.unique(key, return_index=True)[1]] = True
    source = np.where(mine | ~first, target, -1)
    asked = np.flatnonzero(source < 0)
    if not from_host and asked.size:
        source[asked] = _nearest(holds[layer[asked], expert[asked]], target[asked], key[asked], node_of)
    return WeightMoves(layer, expert, source, target)


def _nearest(holds: Flags, target: IntArray, key: IntArray, node_of: IntArray) -> IntArray:
    """Return the device that sends to each target, int64 [rows].

    Args:
        holds: which devices hold the expert, bool [rows, devices].
        target: device that loads, int64 [rows].
        key: (layer, expert, target) as a number, int64 [rows].
        node_of: node of each device, int64 [devices].
    """
    near = holds & (node_of[target][:, np.newaxis] == node_of)
    inside = near.any(axis=1)
    near[~inside] = holds[~inside]
    # Updates of one expert that can ask the same devices take turns.
    _, place = np.unique(node_of, return_inverse=True)
    asking = key // node_of.size * (int(place.max()) + 2) + np.where(inside, place[target] + 1, 0)
    turn = _counted(asking) % near.sum(axis=1)
    chosen = (near.cumsum(axis=1) == turn[:, np.newaxis] + 1) & near
    return np.asarray(chosen.argmax(axis=1), dtype=np.int64)


def _counted(key: IntArray) -> IntArray:
    """Return how many rows before each one have its key, int64 [rows]."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    begins = np.append(True, ordered[1:] != ordered[:-1])
    since = np.arange(key.size) - np.flatnonzero(begins)[np.cumsum(begins) - 1]
    counted = np.empty(key.size, dtype=np.int64)
    counted[order] = since
    return counted


def holders(placement: Placement) -> Flags:
    """Return which devices hold an expert, bool [layers, experts, devices]."""
    layer, device, slot = np.nonzero(placement.slots >= 0)
    found = np.zeros((placement.layers, placement.experts, placement.devices), dtype=np.bool_)
    found[layer, placement.slots[layer, device, slot], device] = True
    return found


def same_width(one: IntArray, other: IntArray) -> tuple[IntArray, IntArray]:
    """Return two tables of slots with the same number of them, empty ones at the end."""
    width = max(one.shape[2], other.shape[2])
    padded = (
        np.pad(slots, ((0, 0), (0, 0), (0, width - slots.shape[2])), constant_values=-1)
        for slots in (one, other)
    )
    first, second = padded
    return first, second


@dataclass(eq=False)
class Migration:
    """A change of placement that is under way.

    Attributes:
        target: the placement to come.
        moves: all updates, sorted by layer and device.
        changing: layers that have not changed yet, in order, int64 [layers].
        pending: updates that are still to be done, bool [updates].
    """

    target: Placement
    moves: WeightMoves
    changing: IntArray
    pending: Flags = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing done."""
        self.pending = np.ones(len(self.moves), dtype=np.bool_)

    @classmethod
    def between(cls, old: Placement, new: Placement, node_of: IntArray, from_host: bool) -> Migration:
        """Return the migration from one placement to another."""
        before, after = same_width(old.slots, new.slots)
        changing = np.flatnonzero((before != after).any(axis=(1, 2)))
        return cls(new, updates(old, new, node_of, from_host), changing)

    @property
    def over(self) -> bool:
        """Whether all layers have changed."""
        return self.changing.size == 0

    def next(self, layers: int | None, per_device: int | None) -> Flags:
        """Return the updates of the next step, bool [updates].

        Args:
            layers: most layers to work on; None for all.
            per_device: most updates of a device; None for all.
        """
        chosen = self.pending & np.isin(self.moves.layer, self.changing[:layers])
        if per_device is not None:
            rows = np.flatnonzero(chosen)
            chosen[rows[_counted(self.moves.target[rows]) >= per_device]] = False
        return chosen

    def loaded(self) -> Flags:
        """Return updates that are done in layers that have not changed yet, bool [updates]."""
        return ~self.pending & np.isin(self.moves.layer, self.changing)

    def land(self, done: Flags, layers: int | None, placement: Placement) -> Placement:
        """Return the placement in force once some updates are done.

        Args:
            done: the updates, bool [updates].
            layers: as in ``next``.
            placement: the one in force before.
        """
        self.pending &= ~done
        looked_at = self.changing[:layers]
        ready = looked_at[~np.isin(looked_at, self.moves.layer[self.pending])]
        if not ready.size:
            return placement
        self.changing = self.changing[~np.isin(self.changing, ready)]
        slots, after = same_width(placement.slots, self.target.slots)
        slots[ready] = after[ready]
        return Placement(slots, placement.experts)

    def chosen(self, rows: Flags) -> WeightMoves:
        """Return some of the updates."""
        moves = self.moves
        return WeightMoves(moves.layer[rows], moves.expert[rows], moves.source[rows], moves.target[rows])
