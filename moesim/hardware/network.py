"""The network of a cluster: links, the path of every pair, and the load that traffic puts on links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moesim.hardware.link_sets import LinkSets
from moesim.hardware.routes import FloatArray, LinkTable, Routes, shortest_routes
from moesim.hardware.traffic import Traffic

if TYPE_CHECKING:
    import networkx

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Network:
    """Links between devices and what traffic does to them.

    Every pair uses one path: the one that makes the fewest devices forward, of those the cheapest,
    then the one with the fewest links, then by name. Build it with ``from_graph``.

    Attributes:
        names: ``from->to`` of each link.
        kinds: kind of each link, for example ``nvlink``.
        bandwidth: usable bytes/s of each link [links].
        latency: seconds of each link [links].
        hop_latency: summed latency of each pair's path, 0 to itself [devices, devices] (s).
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    bandwidth: FloatArray
    latency: FloatArray
    hop_latency: FloatArray
    _routes: Routes
    _sets: LinkSets

    @classmethod
    def from_graph(cls, graph: networkx.DiGraph[Any], device_nodes: Sequence[str]) -> Network:
        """Compile a graph.

        Args:
            graph: edges carry ``bandwidth`` (usable bytes/s), ``latency`` (s), ``link`` (kind) and
                optionally ``cost`` (routing weight, the latency if absent); nodes may carry ``kind``.
            device_nodes: the node of each device, in device order.

        Raises:
            InputError: a link without bandwidth or two devices without a path, both ends named.
        """
        table = LinkTable.from_graph(graph, device_nodes)
        routes = shortest_routes(table, device_nodes)
        ends = zip(table.tail.tolist(), table.head.tolist(), strict=True)
        return cls(
            names=tuple(f"{table.nodes[tail]}->{table.nodes[head]}" for tail, head in ends),
            kinds=table.kinds,
            bandwidth=table.bandwidth,
            latency=table.latency,
            hop_latency=routes.latency,
            _routes=routes,
            _sets=LinkSets.from_routes(routes, len(table.kinds)),
        )

    @property
    def devices(self) -> int:
        """Number of devices."""
        return int(self.hop_latency.shape[0])

    @property
    def links(self) -> int:
        """Number of directed links."""
        return int(self.bandwidth.size)

    @cached_property
    def opposite(self) -> npt.NDArray[np.int64] | None:
        """The link that leads back for each link, int64 [links]; None unless every path back is the path out.

        Then what a link carries on the way back is what its opposite carried on the way out.
        """
        place = {name: index for index, name in enumerate(self.names)}
        back = [place.get("->".join(reversed(name.split("->")))) for name in self.names]
        found = np.asarray([-1 if index is None else index for index in back], dtype=np.int64)
        start, link = self._routes.start, self._routes.link
        pair = np.arange(self.devices**2).reshape(self.devices, self.devices)
        hops, mirror = np.diff(start), pair.T.ravel()
        if (found < 0).any() or not np.array_equal(hops, hops[mirror]):
            return None
        position = np.arange(link.size) - np.repeat(start[:-1], hops)
        last = np.repeat(start[1:][mirror], hops) - 1
        same = np.array_equal(found[link[last - position]], link)
        return found if same and np.array_equal(self.hop_latency, self.hop_latency.T) else None

    def path(self, src: int, dst: int) -> tuple[int, ...]:
        """Return the links from one device to another in order, none from a device to itself."""
        pair = src * self.devices + dst
        start, stop = self._routes.start[pair : pair + 2]
        return tuple(self._routes.link[start:stop].tolist())

    def link_amounts(self, traffic: Traffic) -> FloatArray:
        """Add up what crosses each link, in the unit of the traffic [layers, links].

        What a device sends to itself crosses no link.
        """
        if traffic.matrix is not None:
            return self._sets.dense(traffic.matrix)
        return self._sets.pooled(_shares(traffic), traffic.inbound).T

    def drain(self, amounts: FloatArray) -> FloatArray:
        """Return the time in which the slowest link gets rid of its bytes [layers, links] -> [layers] (s)."""
        return np.asarray((amounts / self.bandwidth).max(axis=1, initial=0.0))

    def drain_seconds(self, traffic: Traffic) -> FloatArray:
        """Return how long the bytes of a collective keep the network busy [layers] (s).

        Its flows progress in proportion to their sizes (a coflow), so all end when the most loaded
        link has drained; no schedule of the same paths can be faster.
        """
        return self.drain(self.link_amounts(traffic))

    def crossing(self, traffic: Traffic) -> BoolArray:
        """Tell which layers send anything between different devices, bool [layers]."""
        return self._worst(np.ones_like(self.hop_latency), traffic) > 0

    def latency_seconds(self, traffic: Traffic) -> FloatArray:
        """Return the largest path latency of all pairs that send anything [layers] (s)."""
        return self._worst(self.hop_latency, traffic)

    def _worst(self, values: FloatArray, traffic: Traffic) -> FloatArray:
        """Return the largest value [devices, devices] among different devices that send [layers]."""
        values = values.copy()
        np.fill_diagonal(values, 0.0)
        if traffic.matrix is not None:
            return np.asarray(np.where(traffic.matrix > 0, values, 0.0).max(axis=(1, 2), initial=0.0))
        senders, receivers = _shares(traffic) > 0, traffic.inbound > 0
        if senders.all():
            reach = values.max(axis=0, initial=0.0)
            return np.asarray(np.where(receivers, reach, 0.0).max(axis=1, initial=0.0))
        if receivers.all():
            reach = values.max(axis=1, initial=0.0)
            worst = np.where(senders, reach, 0.0).max(axis=1, initial=0.0)
            return np.broadcast_to(worst, (traffic.layers,)).copy()
        reach = np.stack([_column_max(values, row) for row in senders])
        return np.asarray(np.where(receivers, reach, 0.0).max(axis=1, initial=0.0))


def _column_max(values: FloatArray, rows: BoolArray) -> FloatArray:
    """Return the largest value of each column over the chosen rows, 0 where none is chosen."""
    chosen = values if rows.all() else values[rows]
    return np.asarray(chosen.max(axis=0, initial=0.0))


def _shares(traffic: Traffic) -> FloatArray:
    """Return the share of each source of pooled traffic, [1, devices] if it is the same for all layers."""
    share = traffic.share
    assert share is not None
    return share[:1] if share.shape[0] > 1 and share.strides[0] == 0 else share
