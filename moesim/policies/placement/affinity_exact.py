"""The best placement of all layers for transitions, where one layer can be placed in few ways.

A walk over the layers: for every placement of one layer the best of all that follow is known, and what
differs by the names of like devices is worth the same.
"""

from __future__ import annotations

from math import factorial, prod
from typing import Final

import numpy as np
import numpy.typing as npt

from moesim.policies.placement.affinity import Chain

IntArray = npt.NDArray[np.int64]

MOST_WAYS: Final = 40_320
"""Ways to place one layer that are listed at most."""
MOST_PAIRS: Final = 20_000_000
"""Pairs of such ways that are compared per boundary at most."""


def best_chain(chain: Chain) -> IntArray | None:
    """Return the best device of each expert, int64 [layers, experts], or None if there are too many ways."""
    devices, experts = chain.node_of.size, chain.experts
    count = factorial(experts) // prod(factorial(int(room)) for room in chain.room)
    if count > MOST_WAYS:
        return None
    ways = _ways(chain.room)
    first_of, names_of = _kinds(ways, chain)
    firsts = np.flatnonzero(first_of == np.arange(count))
    if len(firsts) * count > MOST_PAIRS:
        return None
    one_hot = np.zeros((count, experts * devices))
    one_hot[np.arange(count)[:, np.newaxis], np.arange(experts) * devices + ways] = 1.0
    ahead = np.zeros(count)
    choices: list[IntArray] = []
    for amounts in chain.onward[::-1]:
        chosen, value = np.zeros(count, dtype=np.int64), np.zeros(count)
        for part in np.array_split(firsts, max(1, len(firsts) * count // 4_000_000)):
            gains = np.einsum("ef,ped->pfd", amounts, chain.worth[ways[part]], optimize=True)
            whole = gains.reshape(len(part), -1) @ one_hot.T + ahead
            chosen[part], value[part] = whole.argmax(axis=1), whole.max(axis=1)
        choices.append(chosen)
        ahead = value[first_of]
    at = int(firsts[ahead[firsts].argmax()])
    names = np.arange(devices, dtype=np.int64)
    layers = [ways[at]]
    for chosen in choices[::-1]:
        # The choice is told for the first way of its kind: rename devices to the ones it has here.
        names = names[names_of[at]]
        at = int(chosen[first_of[at]])
        layers.append(names[ways[at]])
    return np.stack(layers)


def _ways(room: IntArray) -> IntArray:
    """List all ways to give experts devices with such room, int64 [ways, experts]."""
    rows = np.zeros((1, 0), dtype=np.int64)
    left = np.asarray(room, dtype=np.int64)[np.newaxis]
    for _ in range(int(room.sum())):
        at, device = np.nonzero(left > 0)
        rows = np.concatenate([rows[at], device[:, np.newaxis]], axis=1)
        left = left[at]
        left[np.arange(len(at)), device] -= 1
    return rows


def _kinds(ways: IntArray, chain: Chain) -> tuple[IntArray, IntArray]:
    """Find ways that are the same but for the names of like devices and nodes.

    Returns:
        For each way the one of its kind in which nodes, and devices in nodes, come in order; and the
        devices that the way has in place of those of that one, int64 [ways, devices].
    """
    count, devices = len(ways), chain.node_of.size
    sizes = np.bincount(chain.node_of)
    if len(set(chain.room.tolist())) > 1 or len(set(sizes.tolist())) > 1 or ways.shape[1] == 0:
        return np.arange(count), np.tile(np.arange(devices), (count, 1))
    by_node = np.argsort(chain.node_of, kind="stable").reshape(sizes.size, -1)
    seen = (ways[:, :, np.newaxis] == np.arange(devices)).argmax(axis=1)
    seen = seen[:, by_node]
    node_order = np.argsort(seen.min(axis=2), axis=1, kind="stable")
    inner = np.argsort(seen, axis=2, kind="stable")
    names = by_node[node_order[:, :, np.newaxis], np.take_along_axis(inner, node_order[:, :, np.newaxis], 1)]
    names_of = np.empty((count, devices), dtype=np.int64)
    names_of[:, by_node] = names
    first = np.take_along_axis(np.argsort(names_of, axis=1), ways, axis=1)
    place = {way.tobytes(): index for index, way in enumerate(ways)}
    return np.asarray([place[way.tobytes()] for way in np.ascontiguousarray(first)]), names_of
