"""Sets of devices that many links have in common, and sums over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def _keys(masks: BoolArray) -> npt.NDArray[np.void]:
    """Pack masks [rows, columns] into one comparable value per row."""
    packed = np.ascontiguousarray(np.packbits(masks, axis=1))
    return packed.view(np.dtype((np.void, packed.shape[1]))).ravel()


def join_self(many: BoolArray, one: BoolArray, rows: IntArray) -> None:
    """Add the single device of ``one`` to the set ``many`` of a row where that makes sets coincide.

    A pair to oneself never counts, so this changes no load, but turns "all but me", different for every
    device, into "all". Both masks are [rows, devices]; ``many`` is changed in place.
    """
    if not rows.size:
        return
    joined = many[rows] | one[rows]
    shared = []
    for masks in (many[rows], joined):
        _, inverse, count = np.unique(_keys(masks), return_inverse=True, return_counts=True)
        shared.append(count[inverse.ravel()])
    gains = shared[1] > shared[0]
    many[rows[gains]] = joined[gains]


@dataclass(frozen=True, eq=False)
class DeviceSets:
    """One set of devices per row, the different ones stored once.

    Sets of one device are kept as that device. The others are unions of *atoms*, devices that no set
    tells apart (on most clusters the nodes), so a sum first adds up atoms, then few numbers per set.

    Attributes:
        of: set of each row, int64 [rows]: below ``devices`` the single device itself, else a row
            of ``members`` after them.
        members: 1 where an atom is in the set, else 0 [sets, atoms].
        order: devices sorted by atom, int64 [devices].
        first: where each atom begins in ``order``, int64 [atoms].
        ordered: devices are sorted by atom already.
    """

    of: IntArray
    members: FloatArray
    order: IntArray
    first: IntArray
    ordered: bool

    @classmethod
    def from_masks(cls, masks: BoolArray) -> DeviceSets:
        """Number the different sets among masks [rows, devices]."""
        devices = masks.shape[1]
        of = masks.argmax(axis=1).astype(np.int64)
        large = np.flatnonzero(masks.sum(axis=1) != 1)
        different = np.zeros((0, devices), dtype=np.bool_)
        if large.size:
            _, first, inverse = np.unique(_keys(masks[large]), return_index=True, return_inverse=True)
            of[large] = devices + inverse.ravel()
            different = masks[large[first]]
        # A leading constant row keeps the key of every device non-empty when there are no sets.
        marked = np.concatenate([np.ones((1, devices), dtype=np.bool_), different]).T
        _, atom = np.unique(_keys(marked), return_inverse=True)
        order = np.argsort(atom.ravel(), kind="stable")
        starts = np.flatnonzero(np.diff(atom.ravel()[order], prepend=-1))
        # Atoms in the order of their first device, so that nodes stay in place.
        rank = np.argsort(order[starts], kind="stable")
        order = np.concatenate([np.split(order, starts[1:])[i] for i in rank])
        sizes = np.diff(np.append(starts, devices))[rank]
        starts = np.cumsum(sizes) - sizes
        return cls(
            of=of,
            members=different[:, order[starts]].astype(np.float64),
            order=order,
            first=starts,
            ordered=bool(np.array_equal(order, np.arange(devices))),
        )

    @property
    def devices(self) -> int:
        """Number of devices."""
        return int(self.order.size)

    def large_sums(self, values: FloatArray) -> FloatArray:
        """Add up values [..., devices, columns] over each set of several devices: [..., sets, columns]."""
        if not len(self.members):
            return np.zeros((*values.shape[:-2], 0, values.shape[-1]))
        ordered = values if self.ordered else values[..., self.order, :]
        return np.asarray(self.members @ np.add.reduceat(ordered, self.first, axis=-2))

    def large_column_sums(self, values: FloatArray) -> FloatArray:
        """Add up values [..., rows, devices] over each set of several devices: [..., rows, sets]."""
        if not len(self.members):
            return np.zeros((*values.shape[:-1], 0))
        ordered = values if self.ordered else values[..., self.order]
        return np.asarray(np.add.reduceat(ordered, self.first, axis=-1) @ self.members.T)

    def sums(self, values: FloatArray) -> FloatArray:
        """Add up values [devices, columns] over the set of each row: [rows, columns]."""
        table = np.concatenate([values, self.large_sums(values)]) if len(self.members) else values
        return np.asarray(table[self.of])
