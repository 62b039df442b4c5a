"""How devices that all send the same amount may exchange it: in rings, or each with each other.

All move a share of (n - 1) / n of every device's bytes. Rings cross each NIC once and so win between
nodes: those of neighbours where devices hang on a tree, zigzag ones where they are all linked to each
other. Sending directly needs one step instead of n - 1 and uses all links of a full mesh. As libraries
do when they tune themselves, the cheapest is taken for each size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from moesim.hardware.network import Network
from moesim.hardware.traffic import Traffic

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pattern:
    """One way to gather or to scatter.

    Attributes:
        amounts: bytes over each link per byte that a device holds in the end [links].
        latency_s: summed path latency of all steps (s).
    """

    amounts: FloatArray
    latency_s: float


_KNOWN: WeakKeyDictionary[Network, dict[tuple[int, ...], tuple[Pattern, ...]]] = WeakKeyDictionary()


def patterns(network: Network, node_of: IntArray, group: Sequence[int]) -> tuple[Pattern, ...]:
    """Return the ways in which a group of different devices can exchange equal amounts, none for one device.

    Args:
        network: links and paths.
        node_of: node of each device, int64 [devices].
        group: devices that take part, all different.
    """
    members = tuple(group)
    if len(members) < 2:
        return ()
    known = _KNOWN.setdefault(network, {})
    key = (*members, *(int(node) for node in node_of[list(members)]))
    if key not in known:
        rings = (ring_orders(node_of, members, zigzag) for zigzag in (False, True))
        known[key] = (_direct(network, members), *(_rings(network, orders) for orders in rings))
    return known[key]


def _direct(network: Network, members: tuple[int, ...]) -> Pattern:
    """Every device sends its n-th part to each other one at the same time."""
    matrix = np.zeros((network.devices, network.devices))
    matrix[np.ix_(members, members)] = 1.0 / len(members)
    traffic = Traffic.of_pairs(matrix)
    return Pattern(network.link_amounts(traffic)[0], float(network.latency_seconds(traffic)[0]))


def _rings(network: Network, rings: Sequence[IntArray]) -> Pattern:
    """Divide the bytes over rings through the same devices; each step is as slow as its longest path."""
    size = rings[0].size
    amounts, slowest = np.zeros(network.links), 0.0
    for ring in rings:
        for src, dst in zip(ring, np.roll(ring, -1), strict=True):
            path = list(network.path(int(src), int(dst)))
            amounts[path] += (size - 1) / size / len(rings)
            slowest = max(slowest, float(network.hop_latency[src, dst]))
    return Pattern(amounts, (size - 1) * slowest)


def ring_orders(node_of: IntArray, members: Sequence[int], zigzag: bool) -> list[IntArray]:
    """Order the devices of a group into rings, as many as its smallest node has devices.

    Ring r enters the first node at its r-th device and walks all devices of it; the next node is
    walked the other way round, so that the ring enters it at the place (rail) where it left the node
    before. Every device thus sends to and receives from other nodes once over all rings together.

    Args:
        node_of: node of each device, int64 [devices].
        members: the devices of the group.
        zigzag: walk nodes as r, r + 1, r - 1, r + 2 ... instead of r, r + 1, r + 2 ...; the rings then
            use every pair of an even number of devices once (Walecki's decomposition).
    """
    nodes = [
        np.array([device for device in members if node_of[device] == node], dtype=np.int64)
        for node in dict.fromkeys(int(node_of[device]) for device in members)
    ]
    rings = []
    for first in range(min(node.size for node in nodes)):
        walks = []
        for index, node in enumerate(nodes):
            step = np.arange(node.size)
            place = np.where(step % 2 == 1, (step + 1) // 2, -(step // 2)) if zigzag else step
            walk = node[(first + place) % node.size]
            walks.append(walk[::-1] if index % 2 else walk)
        rings.append(np.concatenate(walks))
    return rings
