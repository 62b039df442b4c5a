"""FlexMoE's moves in one layer: give an expert a further copy, take one away, or swap two experts.

Every round looks at the device that is busiest. Its hottest expert may get a further copy elsewhere
(*expand*), in an empty slot or in place of a copy that another expert can spare; it may give up a copy that
stands elsewhere too (*shrink*); or it may swap an expert with the least busy device (*migrate*). The move
that leaves the busiest device with least is made. Moves are kept once their gain exceeds their cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

TARGETS = 4
"""Least busy devices that are looked at for a further copy."""


@dataclass(frozen=True, eq=False)
class Prices:
    """What moves of a layer are worth and cost.

    Attributes:
        per_copy: seconds that a device spends on a token copy of the past, times the horizon [devices].
        same_node: seconds to load an expert from the device's node.
        other_node: seconds to load it from another node.
        node_of: node of each device, int64 [devices].
    """

    per_copy: FloatArray
    same_node: float
    other_node: float
    node_of: IntArray


@dataclass(frozen=True, eq=False)
class Layer:
    """Experts of a layer in their slots.

    Attributes:
        slots: expert of each slot, -1 where empty, int64 [devices, slots].
        room: slots that may be filled, int64 [devices].
        load: copies per expert [experts].
    """

    slots: IntArray
    room: IntArray
    load: FloatArray

    @property
    def copies(self) -> IntArray:
        """Slots of each expert, int64 [experts]."""
        return np.bincount(self.slots[self.slots >= 0], minlength=self.load.size).astype(np.int64)

    @property
    def shares(self) -> FloatArray:
        """Load of a slot of each expert, 0 at the end for empty slots [experts + 1]."""
        return np.append(self.load / self.copies, 0.0)

    def seconds(self, prices: Prices) -> FloatArray:
        """Return the time of each device [devices]."""
        return np.asarray(self.shares[self.slots].sum(axis=1) * prices.per_copy)

    def filled(self, *changes: tuple[int, int, int]) -> Layer:
        """Return the layer after (device, slot, expert) changes."""
        slots = self.slots.copy()
        for device, slot, expert in changes:
            slots[device, slot] = expert
        return Layer(slots, self.room, self.load)


def adjusted(layer: Layer, prices: Prices, threshold: float, most: int) -> Layer:
    """Return a layer after all moves that are worth it.

    Args:
        layer: as it is.
        prices: what moves are worth and cost.
        threshold: nothing moves while the busiest device has at most this many times the mean.
        most: most moves.
    """
    kept, spent = layer, 0.0
    times = layer.seconds(prices)
    worst = float(times.max())
    for _ in range(most):
        if times.max() <= threshold * times.mean():
            break
        options = [
            (float(after.max()), float((after**2).sum()), number, made, cost)
            for number, (made, cost) in enumerate(_moves(layer, times, prices))
            for after in [made.seconds(prices)]
        ]
        best = min(options, key=lambda option: option[:3], default=None)
        # Every move evens out the squares or it is the last one, so that no move is undone.
        if best is None or best[0] > times.max() or best[1] >= (times**2).sum() * (1 - 1e-12):
            break
        layer, spent = best[3], spent + best[4]
        times = layer.seconds(prices)
        if worst - times.max() > spent:
            kept, worst, spent = layer, float(times.max()), 0.0
    return kept


def _moves(layer: Layer, times: FloatArray, prices: Prices) -> Iterator[tuple[Layer, float]]:
    """Yield what the next move may be, with its cost (s)."""
    busiest = int(times.argmax())
    mine = layer.slots[busiest]
    shares, copies = layer.shares, layer.copies
    hottest = int(mine[shares[mine].argmax()])
    for device in np.argsort(times, kind="stable")[:TARGETS]:
        slot = _spare(layer, int(device), hottest)
        if device != busiest and slot is not None and hottest not in layer.slots[device]:
            yield layer.filled((int(device), slot, hottest)), _cost(layer, hottest, int(device), prices)
    for place in np.flatnonzero(mine >= 0):
        if copies[mine[place]] > 1:
            yield layer.filled((busiest, int(place), -1)), 0.0
    idle = int(times.argmin())
    if idle != busiest:
        yield from _swaps(layer, times, prices, busiest, idle)


def _spare(layer: Layer, device: int, expert: int) -> int | None:
    """Return a slot of a device for a copy of an expert: an empty one, or what is missed least."""
    held = layer.slots[device]
    empty = np.flatnonzero(held < 0)
    if empty.size and (held >= 0).sum() < layer.room[device]:
        return int(empty[0])
    spare = np.flatnonzero((held >= 0) & (layer.copies[held] > 1) & (held != expert))
    return int(spare[layer.shares[held[spare]].argmin()]) if spare.size else None


def _swaps(
    layer: Layer, times: FloatArray, prices: Prices, busiest: int, idle: int
) -> Iterator[tuple[Layer, float]]:
    """Yield the swap of two devices, or move into an empty slot, that brings them closest together."""
    mine, theirs = layer.slots[busiest], layer.slots[idle]
    room = (theirs >= 0).sum() < layer.room[idle]
    shares = layer.shares
    given = shares[mine][:, np.newaxis] - shares[theirs]
    after = np.maximum(
        times[busiest] - given * prices.per_copy[busiest], times[idle] + given * prices.per_copy[idle]
    )
    allowed = (mine >= 0)[:, np.newaxis] & ((theirs >= 0) | room) & (given > 0)
    allowed &= ~np.isin(mine, theirs[theirs >= 0])[:, np.newaxis] & ~np.isin(theirs, mine[mine >= 0])
    if allowed.any():
        out, back = np.unravel_index(int(np.where(allowed, after, np.inf).argmin()), after.shape)
        gone, come = int(mine[out]), int(theirs[back])
        cost = _cost(layer, gone, idle, prices)
        if come >= 0:
            cost += _cost(layer, come, busiest, prices)
        yield layer.filled((idle, int(back), gone), (busiest, int(out), come)), cost


def _cost(layer: Layer, expert: int, device: int, prices: Prices) -> float:
    """Return the time to load an expert."""
    holders = np.flatnonzero((layer.slots == expert).any(axis=1))
    near = (prices.node_of[holders] == prices.node_of[device]).any()
    return prices.same_node if near else prices.other_node
