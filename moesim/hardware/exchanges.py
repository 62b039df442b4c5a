"""What an exchange of any amounts costs with the library that a kernel style names.

Each model is the one fitted to measured tables (``moesim.hardware.protocols`` and
``moesim.hardware.exchange_kernels``), fed with the busiest device's share of the traffic instead of an even
one. No exchange ends before its most loaded link has drained, so oversubscribed and shared links hold it up
as they hold up every other flow. Between nodes the rate is that of the cluster's own NICs and switches.

NCCL's all-to-all spends its link time on a device's own bytes (a copy) and on those of its busier direction;
latency between nodes is that of the path beyond what a path inside the node takes, which the launch already
holds. Where nothing was measured on a device, a fixed latency and the most loaded link remain (``plain``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError, unknown_name
from moesim.hardware.calibrations import Calibrations
from moesim.hardware.cluster import Cluster
from moesim.hardware.collectives import CollectiveCost
from moesim.hardware.exchange_kernels import (
    LowLatencyConstants,
    NormalConstants,
    RackConstants,
    low_latency_time,
    normal_copying,
    normal_time,
    rack_time,
)
from moesim.hardware.kernels import EXCHANGES, KernelStyle
from moesim.hardware.legs import Legs, inside_nodes
from moesim.hardware.network_constants import Constants, links_fit
from moesim.hardware.protocols import CollectiveConstants, cheapest_protocol
from moesim.hardware.traffic import Traffic

FloatArray = npt.NDArray[np.float64]
Direction = Literal["dispatch", "combine"]

_MODELS: Final[dict[str, tuple[str, type[Constants]]]] = {
    "nccl": ("all_to_all", CollectiveConstants),
    "deepep_normal": ("normal_{}", NormalConstants),
    "deepep_low_latency": ("low_latency_{}", LowLatencyConstants),
    "rack": ("rack_{}", RackConstants),
}
"""Section of the constants and their type; ``{}`` is the direction."""


@dataclass(frozen=True, eq=False)
class Messages:
    """What is sent one way.

    Attributes:
        traffic: messages between devices, those to oneself included.
        tokens: tokens of each device [devices].
        row_bytes: bytes of a message.
        node_pairs: (token, node) pairs that each device sends or hands on, its own node's included
            [layers, devices]; None where tokens are not sent once per node.
        experts: experts that the busiest device holds.
    """

    traffic: Traffic
    tokens: FloatArray
    row_bytes: float
    node_pairs: FloatArray | None = None
    experts: float = 1.0


class Exchange:
    """Prices dispatch and combine of one kernel style on one cluster.

    Attributes:
        name: the library that prices are of: that of the style, or ``plain`` where it was not measured.
    """

    def __init__(
        self, cluster: Cluster, style: KernelStyle, calibrations: Calibrations | None = None
    ) -> None:
        """Look up what was measured on the devices of the cluster.

        Raises:
            InputError: an exchange that does not exist, or copies inside nodes over NICs that are not there.
        """
        if style.exchange not in EXCHANGES:
            raise unknown_name("exchange", style.exchange, EXCHANGES)
        self.cluster, self.network, self.style = cluster, cluster.network, style
        self.calibrations = calibrations or Calibrations()
        self.name = style.exchange if measured(cluster, style.exchange, self.calibrations) else "plain"
        self.bulk = "nccl" if measured(cluster, "nccl", self.calibrations) else "plain"
        self.kinds = {device.name: device for device in cluster.devices}
        self.nodes = np.unique(cluster.node_of).size
        intra, inter = cluster.shape.intra, cluster.shape.inter
        self.rate = intra.wire.peak if intra is not None else 1.0
        same = cluster.node_of[:, np.newaxis] == cluster.node_of
        self.within_hop = float(np.where(same, self.network.hop_latency, 0.0).max())
        self.outer_rate = np.where(_used_inside(cluster), np.inf, self.network.bandwidth)
        self.nic_rate = np.inf
        if not style.nvlink and self.name == "deepep_low_latency":
            if inter is None:
                message = "'nvlink: false' sends all copies over NICs, and the cluster has none"
                raise InputError(message, hint="describe 'inter' or leave 'nvlink' true")
            per_node = max(len(row) for row in cluster.shape.nodes)
            self.nic_rate = inter.wire.usable * inter.nics_per_node / per_node

    def round_trip(self, out: Messages, back_row: float) -> tuple[CollectiveCost, CollectiveCost, Legs]:
        """Price dispatch and combine of the same messages; the legs are those of dispatch.

        Args:
            out: what is dispatched.
            back_row: bytes of a message on the way back.
        """
        dispatched, legs = self.cost("dispatch", out)
        returned = replace(out, traffic=out.traffic.reversed(), row_bytes=back_row)
        known = legs.returned(self.cluster, back_row / out.row_bytes) if out.row_bytes > 0 else None
        return dispatched, self.cost("combine", returned, known)[0], legs

    def cost(
        self, direction: Direction, messages: Messages, known: Legs | None = None
    ) -> tuple[CollectiveCost, Legs]:
        """Price one way; the legs serve to price what runs beside it, and may be known already."""
        traffic = messages.traffic
        legs = known if known is not None else Legs.of(self.cluster, traffic.scaled(messages.row_bytes))
        if self.name in ("nccl", "plain"):
            return self._bulk(legs), legs
        if not legs.crossing.any():
            return self._finished(legs, np.zeros(traffic.layers)), legs
        outside = np.asarray((legs.link_bytes / self.outer_rate).max(axis=1, initial=0.0))
        seconds = [
            self._kernel(self._constants(self.name, name, direction), messages, legs, outside, name)
            for name in self.kinds
        ]
        return self._finished(legs, np.maximum.reduce(seconds)), legs

    def joint(self, tokens: CollectiveCost, legs: Legs, weights: Traffic) -> CollectiveCost:
        """Price a dispatch together with weights (bytes) that move beside it and are awaited with it.

        Weights go as bulk transfers. With other kernels than those the two share links, and neither ends
        before both have drained.
        """
        both = self._bulk(legs.beside(Legs.of(self.cluster, weights)))
        seconds = np.maximum(tokens.seconds, both.seconds)
        return CollectiveCost(seconds, both.link_bytes, both.latency + (seconds - both.seconds))

    def _bulk(self, legs: Legs) -> CollectiveCost:
        """Price an all-to-all of any amounts, or a fixed latency and links that drain."""
        if self.bulk == "plain" or self.style.exchange == "plain":
            fixed = self.cluster.collective_latency_s + legs.hop
            drain = self.network.drain(legs.link_bytes)
            return self._finished(legs, fixed + drain, drain)
        drain = self.network.drain(legs.link_bytes)
        hop = np.maximum(legs.hop - self.within_hop, 0.0)
        seconds = []
        for name in self.kinds:
            constants = self._constants("nccl", name, "dispatch")
            assert isinstance(constants, CollectiveConstants)
            spent = (legs.local * constants.ends + legs.remote * constants.through) / self.rate
            base = constants.start_s + constants.step_s * np.log2(self.network.devices) + hop
            seconds.append(cheapest_protocol(base, spent.max(axis=1), constants, drain))
        return self._finished(legs, np.maximum.reduce(seconds), drain)

    def _kernel(
        self, constants: Constants, messages: Messages, legs: Legs, outside: FloatArray, kind: str
    ) -> FloatArray:
        """Return seconds of DeepEP's or a rack's kernels on one kind of device [layers]."""
        row = np.asarray(messages.row_bytes)
        tokens, nodes = np.asarray(messages.tokens.max()), np.asarray(float(self.nodes))
        devices = self.network.devices
        if isinstance(constants, RackConstants):
            wire = legs.remote.max(axis=1) / self.rate
            group = np.asarray(devices / self.nodes)
            return rack_time(tokens * row, wire, outside, group, constants)
        sent, received = (
            amount * messages.row_bytes for amount in inside_nodes(messages.traffic, self.cluster.node_of)
        )
        busiest = np.maximum(sent, received)
        inside = np.maximum(busiest - legs.local, 0.0).max(axis=1) / self.rate
        if isinstance(constants, LowLatencyConstants):
            if not self.style.nvlink:
                inside = np.zeros_like(inside)
                outside = np.maximum(outside, legs.remote.max(axis=1) / self.nic_rate)
            group, units = np.asarray(float(devices)), np.asarray(float(self.kinds[kind].compute_units))
            experts = messages.experts * group
            return low_latency_time(tokens, experts, group, nodes, units, inside, outside, constants)
        assert isinstance(constants, NormalConstants)
        relayed = np.zeros_like(busiest)
        if self.nodes > 1 and messages.node_pairs is not None:
            relayed = messages.node_pairs
        sms = np.asarray(float(min(self.style.exchange_sms, self.kinds[kind].compute_units)))
        pairs = busiest / messages.row_bytes
        copying = normal_copying(messages.tokens * row, pairs, relayed, row, sms, constants)
        return normal_time(copying.max(axis=1), inside, outside, row, nodes, constants)

    def _finished(self, legs: Legs, seconds: FloatArray, drain: FloatArray | None = None) -> CollectiveCost:
        """Return a cost that ends no sooner than its links drain, and is 0 where nothing leaves a device."""
        drained = self.network.drain(legs.link_bytes) if drain is None else drain
        busy = np.where(legs.crossing, np.maximum(seconds, drained), 0.0)
        return CollectiveCost(busy, legs.link_bytes, np.where(legs.crossing, busy - drained, 0.0))

    def _constants(self, exchange: str, device: str, direction: Direction) -> Constants:
        section, kind = _MODELS[exchange]
        return kind.of(self.calibrations.network(section.format(direction), device) or {})


def measured(cluster: Cluster, exchange: str, calibrations: Calibrations) -> bool:
    """Tell whether a library was measured on all devices of a cluster, and on links of the same kind."""
    if exchange not in _MODELS:
        return False
    section = _MODELS[exchange][0]
    names = {device.name for device in cluster.devices}
    ways = {section.format(way) for way in ("dispatch", "combine")}
    if not all(calibrations.network(way, name) for way in ways for name in names):
        return False
    intra = cluster.shape.intra
    if intra is None:
        return all(len(row) == 1 for row in cluster.shape.nodes)
    return all(links_fit(name, intra.wire.kind) for name in names)


def _used_inside(cluster: Cluster) -> npt.NDArray[np.bool_]:
    """Tell which links carry traffic between devices of one node, bool [links]."""
    same = (cluster.node_of[:, np.newaxis] == cluster.node_of).astype(np.float64)
    return np.asarray(cluster.network.link_amounts(Traffic.of_pairs(same))[0] > 0)
