"""From what is predicted to what is wanted: order, and what a cache has room for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.policies.prefetch.base import Floats, Ints, Outlook, Wanted


def by_load(ids: Ints) -> dict[int, int]:
    """Return predicted tokens of each expert, the most urgent expert first.

    That is the one of most tokens, then the one that ranks higher in some token, then the lower number.

    Args:
        ids: predicted experts, [tokens, k], falling rank; negative ones are left out.
    """
    if len(ids) == 1:
        return {expert: 1 for expert in ids[0].tolist() if expert >= 0}
    rank = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)[ids >= 0]
    experts, index, load = np.unique(ids[ids >= 0], return_inverse=True, return_counts=True)
    best = np.full(len(experts), ids.shape[1], dtype=np.int64)
    np.minimum.at(best, index, rank)
    order = np.lexsort((experts, best, -load))
    return dict(zip(experts[order].tolist(), load[order].tolist(), strict=True))


def needed_of(outlook: Outlook, target: int, experts: list[int]) -> Wanted:
    """Return a layer's needed experts that are there, and of the absent ones those that fit beside them.

    Args:
        outlook: what is known.
        target: their layer; counts on into the next iteration.
        experts: needed experts, most urgent first.
    """
    layer = target % len(outlook.resident)
    resident = outlook.resident[layer]
    there = [expert for expert in experts if expert in resident]
    missing = [expert for expert in experts if expert not in resident]
    room = max(outlook.slots[layer] - len(there), 0)
    return [(target, expert) for expert in (*there, *missing[:room])]


def best_of(outlook: Outlook, target: int, worth: Floats, top: int | None = None) -> Wanted:
    """Return the experts that a layer's cache would hold best, the worthiest first.

    Args:
        outlook: what is known.
        target: their layer; counts on into the next iteration.
        worth: of each expert, [experts]; equal ones: the lower number first; 0: not wanted.
        top: looks at this many only; None: at as many as the cache holds.
    """
    layer = target % len(outlook.resident)
    held = outlook.slots[layer] if top is None else min(top, outlook.slots[layer])
    order = np.argsort(-worth, kind="stable")[: max(held, 0)]
    return [(target, int(expert)) for expert in order if worth[expert] > 0]


def activations(ids: npt.NDArray[np.integer[Any]], experts: int) -> Floats:
    """Return tokens of each expert, [layers, experts], of ids [tokens, layers, k]."""
    layers = ids.shape[1]
    flat = ids.astype(np.int64) + np.arange(layers)[:, np.newaxis] * experts
    counts = np.bincount(flat.ravel(), minlength=layers * experts)
    return counts.reshape(layers, experts).astype(np.float64)


class Stored:
    """Maps of experts by layer, the newest so many, compared with one that comes about layer by layer.

    Args:
        layers: layers of a map.
        experts: experts of a layer.
        most: maps kept.
    """

    def __init__(self, layers: int, experts: int, most: int) -> None:
        self.maps = np.zeros((most, layers, experts))
        self.total = np.zeros((layers, experts))
        self._unit = np.zeros((layers, most, experts))
        self._added = 0
        self._sum = np.zeros(most)
        self._seen = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return min(self._added, len(self.maps))

    def add(self, one: Floats) -> None:
        """Keep a map, [layers, experts], in place of the oldest if all places are taken."""
        at = self._added % len(self.maps)
        self.total += one - self.maps[at]
        self.maps[at] = one
        length = np.linalg.norm(one, axis=1, keepdims=True)
        self._unit[:, at] = one / np.where(length > 0, length, 1)
        self._added += 1

    def follow(self, layer: int, row: Floats) -> None:
        """Take note of the next layer of the map that comes about; layer 0 begins a new one."""
        if layer == 0:
            self._sum[:] = 0
        length = float(np.linalg.norm(row))
        if length > 0:
            self._sum += self._unit[layer] @ (row / length)
        self._seen = layer + 1

    @property
    def likeness(self) -> Floats:
        """Mean over the layers followed of the cosine with each map kept, [maps]."""
        same: Floats = self._sum[: len(self)] / self._seen
        return same
