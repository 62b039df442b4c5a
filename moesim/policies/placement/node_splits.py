"""Best mapping of clusters to devices that form nodes: a walk over ways to share clusters among nodes.

Rates are alike inside nodes and between them. Then how clusters are shared among the nodes in two layers
tells what crosses nodes, and inside a node the best is known: the largest amounts stay on a device one
after the other until one meets a cluster that already stays with another; that one has to be sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

ROWS = 50_000
"""Pairs of ways to share that are priced at a time."""


@dataclass(frozen=True, eq=False)
class Splits:
    """All ways to share clusters among nodes.

    Attributes:
        node_of: node of each device, int64 [devices].
        ways: node of each cluster, int64 [ways, clusters].
        first_of: for each way the first one that is the same but for nodes of equal size, int64 [ways].
        inside: rate inside nodes.
        between: rate between nodes.
    """

    node_of: IntArray
    ways: IntArray
    first_of: IntArray
    inside: float
    between: float

    @classmethod
    def of(cls, node_of: IntArray, bandwidth: FloatArray) -> Splits:
        """List the ways for a machine whose ``bandwidth`` [devices, devices] has at most two rates."""
        sizes = np.bincount(node_of)
        rows: list[list[int]] = [[-1] * node_of.size]
        for node, size in enumerate(sizes.tolist()):
            grown = []
            for row in rows:
                free = [cluster for cluster, taken in enumerate(row) if taken < 0]
                grown += [
                    [node if cluster in chosen else taken for cluster, taken in enumerate(row)]
                    for chosen in combinations(free, size)
                ]
            rows = grown
        ways = np.asarray(rows, dtype=np.int64)
        place = {way.tobytes(): index for index, way in enumerate(ways)}
        first_of = np.arange(len(ways), dtype=np.int64)
        for order in permutations(range(len(sizes))):
            if np.array_equal(sizes[list(order)], sizes):
                swapped = np.asarray(order, dtype=np.int64)[ways]
                first_of = np.minimum(first_of, [place[way.tobytes()] for way in swapped])
        rates = bandwidth[~np.eye(node_of.size, dtype=bool)]
        return cls(node_of, ways, first_of, float(rates.max()), float(rates.min()))

    def best(self, traffic: FloatArray, objective: str) -> IntArray:
        """Return the device of each cluster that minimises the objective, int64 [layers, clusters]."""
        firsts = np.flatnonzero(self.first_of == np.arange(len(self.ways)))
        ahead = np.zeros(len(self.ways))
        choices: list[IntArray] = []
        for amounts in traffic[::-1]:
            cost = self._costs(amounts, firsts)
            whole: FloatArray = cost + ahead if objective == "sum" else np.maximum(cost, ahead)
            chosen = np.zeros(len(self.ways), dtype=np.int64)
            chosen[firsts] = whole.argmin(axis=1)
            choices.append(chosen)
            value = np.zeros(len(self.ways))
            value[firsts] = whole.min(axis=1)
            ahead = value[self.first_of]
        at = int(firsts[ahead[firsts].argmin()])
        nodes = self.ways[at]
        layers = [nodes]
        for chosen in choices[::-1]:
            here, first = layers[-1], int(self.first_of[at])
            # The choice is told for the first way of its kind: rename its nodes to the ones that it has here.
            rename = np.zeros(int(self.node_of.max()) + 1, dtype=np.int64)
            rename[self.ways[first]] = here
            at = int(chosen[first])
            layers.append(rename[self.ways[at]])
        return self._devices(np.stack(layers), traffic)

    def _costs(self, amounts: FloatArray, firsts: IntArray) -> FloatArray:
        """Price a boundary for every way after each first way, [first ways, ways]."""
        count = amounts.shape[0]
        order = np.argsort(-amounts.ravel(), kind="stable")
        left, right = np.repeat(firsts, len(self.ways)), np.tile(np.arange(len(self.ways)), len(firsts))
        cost = np.empty(left.size)
        for start in range(0, left.size, ROWS):
            mine, yours = self.ways[left[start : start + ROWS]], self.ways[right[start : start + ROWS]]
            rows = len(mine)
            crossing, moved = np.zeros(rows), np.zeros(rows)
            settled_from = np.zeros((count, rows), dtype=bool)
            settled_to = np.zeros((count, rows), dtype=bool)
            crossed, met = np.zeros(rows, dtype=bool), np.zeros(rows, dtype=bool)
            for entry in order:
                source, target = divmod(int(entry), count)
                amount = float(amounts[source, target])
                near = mine[:, source] == yours[:, target]
                crossing[~near & ~crossed] = amount
                crossed |= ~near
                meets = near & (settled_from[source] | settled_to[target])
                moved[meets & ~met] = amount
                met |= meets
                settled_from[source] |= near
                settled_to[target] |= near
                if met.all() and crossed.all():
                    break
            cost[start : start + ROWS] = np.maximum(crossing / self.between, moved / self.inside)
        return cost.reshape(len(firsts), len(self.ways))

    def _devices(self, nodes: IntArray, traffic: FloatArray) -> IntArray:
        """Choose devices inside the nodes of clusters, int64 [layers, clusters]."""
        device_of = np.full(nodes.shape, -1, dtype=np.int64)
        for node in range(int(self.node_of.max()) + 1):
            device_of[0, nodes[0] == node] = np.flatnonzero(self.node_of == node)
        for layer, amounts in enumerate(traffic):
            follow(device_of[layer], device_of[layer + 1], nodes[layer + 1], self.node_of, amounts)
        return device_of


def follow(here: IntArray, after: IntArray, nodes: IntArray, node_of: IntArray, amounts: FloatArray) -> None:
    """Let the largest amounts stay on their device, as far as the nodes of the next layer's clusters allow.

    Args:
        here: device of each cluster, int64 [clusters].
        after: device of each cluster of the next layer, all -1; written.
        nodes: node of each cluster of the next layer.
        node_of: node of each device.
        amounts: from clusters to clusters of the next layer, [clusters, clusters].
    """
    free = np.ones(len(here), dtype=bool)
    for entry in np.argsort(-amounts.ravel(), kind="stable"):
        source, target = divmod(int(entry), len(here))
        device = here[source]
        if free[device] and after[target] < 0 and node_of[device] == nodes[target]:
            after[target] = device
            free[device] = False
