"""A placement as sorted columns, worked out once per placement.

Dispatch policies ask the same questions of a placement on every step. The answers depend on the
placement alone, so they are kept as long as it lives, found by identity.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.policies.plan import Placement
from moesim.routing.load import Load

IntArray = npt.NDArray[np.int64]
Number = TypeVar("Number", np.int64, np.float64)

_SHORT: Final = 16


@dataclass(frozen=True, eq=False)
class PlacementIndex:
    """One row per distinct (layer, device, expert), sorted in that order; arrays are read only.

    Copies of an expert are ranked by device, then slot; two slots of one device form one row.

    Attributes:
        layers, devices, experts: sizes of the placement.
        layer, device, expert: what the row stands for, int64 [rows].
        key: ``layer * experts + expert``, int64 [rows].
        first: rank of the row's first slot among the slots of its expert, int64 [rows].
        slots: slots of the expert on this device, int64 [rows].
        replicas: slots of the expert on all devices, int64 [rows].
        shared: rows whose expert stands in more than one slot, int64.
        starts: first row of every (layer, device) that holds anything, int64.
        filled: these (layer, device) as ``layer * devices + device``, int64.
        home: device of the first slot of each expert, int64 [layers, experts].
    """

    layers: int
    devices: int
    experts: int
    layer: IntArray
    device: IntArray
    expert: IntArray
    key: IntArray
    first: IntArray
    slots: IntArray
    replicas: IntArray
    shared: IntArray
    starts: IntArray
    filled: IntArray
    home: IntArray

    @cached_property
    def in_order(self) -> bool:
        """Whether rows are the experts of all layers, each once and in order."""
        return bool(np.array_equal(self.key, np.arange(self.layers * self.experts)))

    @cached_property
    def run(self) -> int:
        """Rows of every filled device where all have as many and they are few, else 0.

        Such sums are a few additions of whole arrays, which takes a third of the time of sums over ranges.
        """
        sizes = np.diff(self.starts, append=self.key.size)
        few = sizes.size > 0 and int(sizes.min()) == int(sizes.max()) <= _SHORT
        return int(sizes[0]) if few else 0

    def sum_per_device(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Add up rows, [..., rows], into devices, [..., layers * devices]."""
        devices = self.layers * self.devices
        if not self.starts.size:
            return np.zeros((*values.shape[:-1], devices), dtype=values.dtype)
        if self.run and np.issubdtype(values.dtype, np.integer):
            summed = values[..., :: self.run].copy()
            for place in range(1, self.run):
                summed += values[..., place :: self.run]
        else:
            summed = np.add.reduceat(values, self.starts, axis=-1)
        if self.filled.size == devices:
            return np.asarray(summed)
        result = np.zeros((*values.shape[:-1], devices), dtype=values.dtype)
        result[..., self.filled] = summed
        return result

    def holds(self, layer: IntArray, device: IntArray, expert: IntArray) -> npt.NDArray[np.bool_]:
        """Say for each (layer, device, expert) whether the device holds the expert."""
        return np.asarray(self.rows_of(layer, device, expert) >= 0)

    def rows_of(self, layer: IntArray, device: IntArray, expert: IntArray) -> IntArray:
        """Return the row of each (layer, device, expert), -1 where the device does not hold the expert."""
        mine = (self.layer * self.devices + self.device) * self.experts + self.expert
        asked = (layer * self.devices + device) * self.experts + expert
        if not mine.size:
            return np.full(asked.shape, -1, dtype=np.int64)
        found = np.minimum(np.searchsorted(mine, asked), mine.size - 1)
        return np.where(mine[found] == asked, found, -1)

    def held(self) -> npt.NDArray[np.bool_]:
        """Say which device holds which expert, bool [layers, devices, experts]."""
        table = np.zeros((self.layers, self.devices, self.experts), dtype=bool)
        table[self.layer, self.device, self.expert] = True
        return table


def ranks_within(group: IntArray, sizes: IntArray, groups: int) -> tuple[IntArray, IntArray]:
    """Number members of each group in row order.

    Args:
        group: group of each row, int64 [rows].
        sizes: members that each row stands for, int64 [rows].
        groups: number of groups.

    Returns:
        Number of the row's first member within its group, and members of the row's group, [rows].
    """
    order = np.argsort(group, kind="stable")
    before = np.concatenate([[0], np.cumsum(sizes[order])])
    totals = np.zeros(groups, dtype=np.int64)
    np.add.at(totals, group, sizes)
    starts = np.concatenate([[0], np.cumsum(totals)])
    first = np.empty_like(group)
    first[order] = before[:-1] - starts[group[order]]
    return first, totals[group]


def _build(placement: Placement) -> PlacementIndex:
    layers, devices, experts = placement.layers, placement.devices, placement.experts
    layer, device, slot = np.nonzero(placement.slots >= 0)
    held = (layer * devices + device) * experts + placement.slots[layer, device, slot]
    rows, slots = np.unique(held, return_counts=True)
    where, expert = np.divmod(rows, experts)
    layer, device = np.divmod(where, devices)
    key = layer * experts + expert
    first, replicas = ranks_within(key, slots, layers * experts)
    starts = np.flatnonzero(np.concatenate([[True], where[1:] != where[:-1]])) if rows.size else where
    home = np.empty(layers * experts, dtype=np.int64)
    home[key[first == 0]] = device[first == 0]
    columns = (layer, device, expert, key, first, slots, replicas)
    rest = (np.flatnonzero(replicas > 1), starts, where[starts], home.reshape(layers, experts))
    arrays = [np.ascontiguousarray(array, dtype=np.int64) for array in (*columns, *rest)]
    for array in arrays:
        array.flags.writeable = False
    return PlacementIndex(layers, devices, experts, *arrays)


_KNOWN: weakref.WeakKeyDictionary[Placement, PlacementIndex] = weakref.WeakKeyDictionary()


def index_of(placement: Placement) -> PlacementIndex:
    """Return the index of a placement, building it the first time."""
    index = _KNOWN.get(placement)
    if index is None:
        index = _KNOWN[placement] = _build(placement)
    return index


def index_for(load: Load, placement: Placement) -> PlacementIndex:
    """Return the index of a placement that a load fits.

    Raises:
        InputError: load and placement differ in layers, devices or experts.
    """
    for name, mine, theirs in (
        ("layers", load.layers, placement.layers),
        ("devices", load.devices, placement.devices),
        ("experts", load.experts, placement.experts),
    ):
        if mine != theirs:
            message = f"the load has {mine} {name}, the placement {theirs}"
            raise InputError(message)
    return index_of(placement)


def columns_per_source(load: Load) -> IntArray:
    """Copies from each source to each (layer, expert), int64 [sources, layers * experts]."""
    return load.counts.transpose(1, 0, 2).reshape(load.counts.shape[1], -1)
