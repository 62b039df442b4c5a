"""Shortest paths between devices, compiled once into flat arrays.

All devices are routed at the same time: one numpy operation per round relaxes every link for every
source (Bellman-Ford), and networks of devices and switches settle in a handful of rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError

if TYPE_CHECKING:
    import networkx

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_UNREACHED = np.int64(1) << 62
_USABLE_BITS = 61
_CELLS_AT_ONCE = 1 << 22


@dataclass(frozen=True, eq=False)
class LinkTable:
    """The directed links of a network, sorted by the node they lead to and the node they leave.

    Attributes:
        nodes: node names, sorted.
        tail: node that each link leaves, int64 [links].
        head: node that each link leads to, int64 [links].
        bandwidth: usable bytes/s [links].
        latency: s [links].
        cost: routing weight [links].
        kinds: what each link is made of, for example ``nvlink``.
        forwarding: link leaves a device, so a path through it makes that device forward [links].
    """

    nodes: tuple[str, ...]
    tail: IntArray
    head: IntArray
    bandwidth: FloatArray
    latency: FloatArray
    cost: FloatArray
    kinds: tuple[str, ...]
    forwarding: npt.NDArray[np.bool_]

    @classmethod
    def from_graph(cls, graph: networkx.DiGraph[Any], device_nodes: Sequence[str]) -> LinkTable:
        """Read the edges of a graph.

        Raises:
            InputError: a link without bandwidth, or with a latency or cost that is no such quantity.
        """
        edges = sorted(
            ((str(head), str(tail), data) for tail, head, data in graph.edges(data=True)),
            key=lambda edge: edge[:2],
        )
        nodes = tuple(sorted(str(node) for node in graph.nodes))
        place = {name: index for index, name in enumerate(nodes)}
        devices = {str(node) for node, data in graph.nodes(data=True) if data.get("kind") == "device"}
        devices |= set(device_nodes)
        bandwidth, latency, cost = [], [], []
        for head, tail, data in edges:
            rate, delay = float(data.get("bandwidth", 0.0)), float(data.get("latency", 0.0))
            weight = float(data.get("cost", delay))
            if not (rate > 0 and math.isfinite(rate)):
                message = f"the link from '{tail}' to '{head}' has no usable bandwidth ({rate:g} B/s)"
                raise InputError(message, hint="give it a bandwidth above zero or remove the link")
            if not all(math.isfinite(value) and value >= 0 for value in (delay, weight)):
                message = f"the link from '{tail}' to '{head}' has latency {delay:g} s and cost {weight:g}"
                raise InputError(message, hint="both must be finite and not negative")
            bandwidth.append(rate)
            latency.append(delay)
            cost.append(weight)
        return cls(
            nodes=nodes,
            tail=np.array([place[tail] for _, tail, _ in edges], dtype=np.int64),
            head=np.array([place[head] for head, _, _ in edges], dtype=np.int64),
            bandwidth=np.array(bandwidth, dtype=np.float64),
            latency=np.array(latency, dtype=np.float64),
            cost=np.array(cost, dtype=np.float64),
            kinds=tuple(str(data.get("link", "link")) for _, _, data in edges),
            forwarding=np.array([tail in devices for _, tail, _ in edges], dtype=np.bool_),
        )


@dataclass(frozen=True, eq=False)
class Routes:
    """The path of every ordered pair of devices.

    Attributes:
        start: where each pair's path begins in ``link``, int64 [pairs + 1]; pair = source * devices + target.
        link: links of all paths one after the other, each from source to target, int64 [entries].
        latency: summed link latency of each path, 0 to itself [devices, devices] (s).
    """

    start: IntArray
    link: IntArray
    latency: FloatArray


def _weights(table: LinkTable) -> IntArray:
    """Turn costs into integers whose sums rank paths.

    A path is better if it makes fewer devices forward, then if it costs less, then if it has fewer
    links. Integers make equal costs exactly equal, whatever the order of addition.
    """
    hop_bits = len(table.nodes).bit_length()
    cost_bits = _USABLE_BITS - 2 * hop_bits - int(table.forwarding.sum()).bit_length()
    top = float(table.cost.max(initial=0.0))
    scaled = np.rint(table.cost / top * (2.0**cost_bits - 1)).astype(np.int64) if top > 0 else 0
    weights = (np.asarray(scaled, dtype=np.int64) << hop_bits) + 1
    return np.asarray(weights + (table.forwarding.astype(np.int64) << (cost_bits + 2 * hop_bits)))


def _predecessors(table: LinkTable, weights: IntArray, sources: IntArray) -> tuple[IntArray, IntArray]:
    """Find the last link of the shortest path from each source to each node.

    Returns:
        (distance, last link), both int64 [nodes, sources]. Of equally good last links the one that
        leaves the node with the smallest name is taken, which is the first in the table's order.
    """
    distance = np.full((len(table.nodes), sources.size), _UNREACHED)
    distance[sources, np.arange(sources.size)] = 0
    last = np.full(distance.shape, -1)
    if not table.head.size:
        return distance, last
    heads, starts = np.unique(table.head, return_index=True)
    while True:
        through = distance[table.tail] + weights[:, np.newaxis]
        best = np.minimum(distance[heads], np.minimum.reduceat(through, starts, axis=0))
        if np.array_equal(best, distance[heads]):
            break
        distance[heads] = best
    tight = through == distance[table.head]
    order = np.arange(table.head.size)[:, np.newaxis]
    last[heads] = np.minimum.reduceat(np.where(tight, order, table.head.size), starts, axis=0)
    return distance, last


def shortest_routes(table: LinkTable, device_nodes: Sequence[str]) -> Routes:
    """Route every ordered pair of devices over its shortest path.

    Args:
        table: the links.
        device_nodes: node of each device, all different.

    Raises:
        InputError: a device is not a node, is named twice, or cannot reach another one.
    """
    place = {name: index for index, name in enumerate(table.nodes)}
    missing = [name for name in device_nodes if name not in place]
    if missing:
        message = f"device '{missing[0]}' is not a node of the network"
        raise InputError(message)
    if len(set(device_nodes)) != len(device_nodes):
        message = "a device is named twice in the network"
        raise InputError(message)
    devices = np.array([place[name] for name in device_nodes], dtype=np.int64)
    count, weights = devices.size, _weights(table)
    pairs, links, steps = [], [], []
    latency, hops = np.zeros((count, count)), np.zeros((count, count), dtype=np.int64)
    chunk = max(1, _CELLS_AT_ONCE // max(1, table.head.size))
    for first in range(0, count, chunk):
        sources = devices[first : first + chunk]
        distance, last = _predecessors(table, weights, sources)
        cut = np.argwhere(distance[devices].T >= _UNREACHED)
        if cut.size:
            source, target = device_nodes[first + int(cut[0, 0])], device_nodes[int(cut[0, 1])]
            message = f"there is no path from '{source}' to '{target}'"
            raise InputError(message, hint="connect them or take one of them out")
        source_of, target_of = (axis.ravel() for axis in np.indices((sources.size, count)))
        at = devices[target_of]
        step = 0
        while (moving := at != sources[source_of]).any():
            source_of, target_of, at = source_of[moving], target_of[moving], at[moving]
            link = last[at, source_of]
            latency[first + source_of, target_of] += table.latency[link]
            hops[first + source_of, target_of] += 1
            pairs.append((first + source_of) * count + target_of)
            links.append(link)
            steps.append(np.full(link.size, step))
            at = table.tail[link]
            step += 1
    start = np.concatenate([[0], np.cumsum(hops.ravel())])
    flat = np.zeros(int(start[-1]), dtype=np.int64)
    if pairs:
        pair = np.concatenate(pairs)
        # Paths were walked from the target back to the source: turn them round.
        flat[start[pair + 1] - 1 - np.concatenate(steps)] = np.concatenate(links)
    return Routes(start, flat, latency)
