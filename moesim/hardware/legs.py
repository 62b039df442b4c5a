"""What one exchange asks of devices and links, batched over layers.

Everything but the worst latency adds up, so that two exchanges that run side by side are priced as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moesim.hardware.network import Network
from moesim.hardware.traffic import Traffic

FloatArray = npt.NDArray[np.float64]


class Wired(Protocol):
    """What legs need to know of a cluster."""

    @property
    def network(self) -> Network:
        """Links and paths between devices."""
        ...

    @property
    def node_of(self) -> npt.NDArray[np.int64]:
        """Node of each device, ascending, int64 [devices]."""
        ...


@dataclass(frozen=True, eq=False)
class Legs:
    """Bytes over links, out of devices and into devices.

    Attributes:
        link_bytes: bytes over each link [layers, links].
        sent: bytes each device sends to others [layers, devices].
        received: bytes each device gets from others [layers, devices].
        local: bytes that stay on their device [layers, devices].
        hop: largest path latency of a pair that sends [layers] (s).
        crossing: whether anything leaves its device, bool [layers].
    """

    link_bytes: FloatArray
    sent: FloatArray
    received: FloatArray
    local: FloatArray
    hop: FloatArray
    crossing: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, cluster: Wired, traffic: Traffic) -> Legs:
        """Add up traffic in bytes."""
        network, local = cluster.network, traffic.local
        return cls(
            network.link_amounts(traffic),
            np.maximum(traffic.outbound - local, 0.0),
            np.maximum(traffic.inbound - local, 0.0),
            local,
            network.latency_seconds(traffic),
            network.crossing(traffic),
        )

    def returned(self, cluster: Wired, factor: float) -> Legs | None:
        """Return the legs of the way back in messages of another size, or None where paths back differ.

        Args:
            cluster: where these legs are.
            factor: bytes of a message back over those of a message out.
        """
        opposite = cluster.network.opposite
        if opposite is None:
            return None
        return Legs(
            self.link_bytes[:, opposite] * factor,
            self.received * factor,
            self.sent * factor,
            self.local * factor,
            self.hop,
            self.crossing,
        )

    def beside(self, other: Legs) -> Legs:
        """Return the legs of both at the same time."""
        return Legs(
            self.link_bytes + other.link_bytes,
            self.sent + other.sent,
            self.received + other.received,
            self.local + other.local,
            np.maximum(self.hop, other.hop),
            self.crossing | other.crossing,
        )

    @property
    def remote(self) -> FloatArray:
        """Bytes of each device's busier direction [layers, devices]."""
        return np.maximum(self.sent, self.received)


def inside_nodes(traffic: Traffic, node_of: npt.NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
    """Return what each device sends to and gets from its own node, itself included [layers, devices] each.

    Args:
        traffic: amounts.
        node_of: node of each device, ascending, int64 [devices].
    """
    nodes, first, node = np.unique(node_of, return_index=True, return_inverse=True)
    if nodes.size == 1:
        return traffic.outbound, traffic.inbound
    if traffic.matrix is None:
        assert traffic.share is not None
        inbound = np.add.reduceat(traffic.inbound, first, axis=1)[:, node]
        share = np.add.reduceat(traffic.share, first, axis=1)[:, node]
        return traffic.share * inbound, share * traffic.inbound
    device = np.arange(node.size)
    sent = np.add.reduceat(traffic.matrix, first, axis=2)[:, device, node]
    received = np.add.reduceat(traffic.matrix, first, axis=1)[:, node, device]
    return sent, received
