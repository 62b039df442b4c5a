"""Clusters to devices, the second stage of MoETuner: small worst transfers between neighbouring layers.

In every layer each cluster gets a device of its own. Between two layers, what goes from one device to
another takes traffic / bandwidth of the pair, and the worst pair is what the boundary costs; what stays on a
device is free. The objective is the sum over boundaries, or the largest.

Exact where the devices form nodes with two rates and few ways to share clusters among the nodes (any
number of devices on one node), or where few devices have any rates; else a local search with a bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from math import factorial, prod
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from moesim.policies.placement.mapping_search import bound_of, costs_of, search
from moesim.policies.placement.node_splits import Splits

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Objective = Literal["sum", "max"]

MOST_TRANSITIONS: Final = 400_000
"""Pairs of ways to share clusters among nodes that are compared per boundary."""
MOST_ORDERS: Final = 720
"""Orders of clusters on devices that are compared with each other per boundary, where rates differ freely."""


@dataclass(frozen=True, eq=False)
class Mapping:
    """Devices of clusters.

    Attributes:
        device_of: device of each cluster, int64 [layers, clusters].
        objective: sum or largest of the costs of the boundaries.
        bound: no other mapping has a smaller objective.
        timed_out: whether the search ended before it was done.
    """

    device_of: IntArray
    objective: float
    bound: float
    timed_out: bool = False

    @property
    def optimal(self) -> bool:
        """Whether no mapping is better, but for rounding."""
        return self.objective - self.bound <= 1e-9 * abs(self.objective)


def levels(bandwidth: FloatArray) -> IntArray | None:
    """Return the node of each device if rates are alike inside nodes and between them, else None."""
    count = len(bandwidth)
    rates = np.unique(bandwidth[~np.eye(count, dtype=bool)])
    if rates.size <= 1:
        return np.zeros(count, dtype=np.int64)
    if rates.size > 2:
        return None
    near = (bandwidth == rates.max()) | np.eye(count, dtype=bool)
    node_of = near.argmax(axis=1).astype(np.int64)
    if not np.array_equal(near, node_of[:, np.newaxis] == node_of):
        return None
    return np.unique(node_of, return_inverse=True)[1].astype(np.int64)


def map_clusters(
    traffic: FloatArray, bandwidth: FloatArray, objective: Objective = "sum", seconds: float = np.inf
) -> Mapping:
    """Give every cluster of every layer a device.

    Args:
        traffic: what goes from a cluster to one of the next layer, [layers - 1, clusters, clusters].
        bandwidth: rate from a device to another, [devices, devices]; as many devices as clusters.
        objective: ``sum`` of the worst pairs of the boundaries, or the ``max``.
        seconds: time limit of the search, where one is needed.
    """
    count = len(bandwidth)
    node_of = levels(bandwidth)
    if not len(traffic) or count == 1:
        layers = len(traffic) + 1
        return Mapping(np.tile(np.arange(count, dtype=np.int64), (layers, 1)), 0.0, 0.0)
    exact = None
    if node_of is not None:
        sizes = np.bincount(node_of).tolist()
        ways = factorial(count) // prod(factorial(size) for size in sizes)
        fewer = prod(factorial(sizes.count(size)) for size in set(sizes))
        if ways * (ways // fewer) <= MOST_TRANSITIONS:
            exact = Splits.of(node_of, bandwidth).best(traffic, objective)
    if exact is None and factorial(count) <= MOST_ORDERS:
        exact = _over_orders(traffic, bandwidth, objective)
    if exact is not None:
        costs = costs_of(exact, traffic, bandwidth)
        value = float(costs.sum() if objective == "sum" else costs.max())
        return Mapping(exact, value, value)
    device_of, timed_out = search(traffic, bandwidth, node_of, objective, seconds)
    costs, least = costs_of(device_of, traffic, bandwidth), bound_of(traffic, bandwidth, node_of)
    if objective == "sum":
        return Mapping(device_of, float(costs.sum()), float(least.sum()), timed_out)
    return Mapping(device_of, float(costs.max()), float(least.max()), timed_out)


def _over_orders(traffic: FloatArray, bandwidth: FloatArray, objective: Objective) -> IntArray:
    """Go through all orders of clusters on devices, layer by layer."""
    count = len(bandwidth)
    cluster_on = np.asarray(list(permutations(range(count))), dtype=np.int64)
    ahead = np.zeros(len(cluster_on))
    choices: list[IntArray] = []
    for amounts in traffic[::-1]:
        cost = np.zeros((len(cluster_on), len(cluster_on)))
        for source in range(count):
            for target in range(count):
                if source != target:
                    pairs = amounts[np.ix_(cluster_on[:, source], cluster_on[:, target])]
                    np.maximum(cost, pairs / bandwidth[source, target], out=cost)
        whole: FloatArray = cost + ahead if objective == "sum" else np.maximum(cost, ahead)
        chosen = whole.argmin(axis=1)
        choices.append(chosen)
        ahead = whole[np.arange(len(cluster_on)), chosen]
    at = int(ahead.argmin())
    orders: list[Any] = [cluster_on[at]]
    for chosen in choices[::-1]:
        at = int(chosen[at])
        orders.append(cluster_on[at])
    return np.argsort(np.stack(orders), axis=1).astype(np.int64)
