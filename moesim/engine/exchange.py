"""Prices of what devices exchange under a plan: dispatch, weight moves beside it, and combine.

The kernel style says which messages carry the copies and which library moves them. Dispatch and the
weight moves posted with it are awaited together before the experts run, so they form one collective. The
time that the moves add to dispatch alone is booked as ``weight_move``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.engine.reach import group_spared
from moesim.engine.sends import once_per_device, once_per_node
from moesim.engine.setup import Setup
from moesim.hardware.collectives import CollectiveCost
from moesim.hardware.exchanges import Exchange, Messages
from moesim.hardware.traffic import Traffic
from moesim.measured.exchange import EvenExchange
from moesim.measured.notes import outside
from moesim.policies.plan import DispatchPlan, WeightMoves

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ExchangeCosts:
    """What the network of a step takes.

    Attributes:
        dispatch: seconds of dispatch alone [MoE layers].
        weight_move: seconds that weight moves add [MoE layers].
        combine: seconds [MoE layers].
        latency: seconds of dispatch and of combine in which nothing flows yet [2, MoE layers].
        dispatch_links: bytes per link, weight moves included [MoE layers, links].
        combine_links: bytes per link [MoE layers, links].
        moved_bytes: weights sent [MoE layers].
        received: token bytes that each device gets from others on dispatch [MoE layers, devices].
        moved_in: weights each device receives (bytes) [MoE layers, devices].
    """

    dispatch: Array
    weight_move: Array
    combine: Array
    latency: Array
    dispatch_links: Array
    combine_links: Array
    moved_bytes: Array
    received: Array
    moved_in: Array


class ExchangePricer:
    """Prices plans for one setup."""

    def __init__(self, setup: Setup) -> None:
        self.cluster = setup.cluster
        self.network = setup.cluster.network
        self.devices = setup.cluster.size
        self.layers = len(setup.moe_rows)
        self.sends = setup.kernels.sends
        self.tokens = setup.tokens.astype(np.float64)
        self.top_k = setup.model.top_k
        self.node_of = setup.cluster.node_of
        self.token_bytes = float(setup.model.token_bytes)
        self.dispatch_bytes = self.token_bytes * setup.kernels.dispatch_width
        self.expert_bytes = setup.expert_bytes
        self.exchange = Exchange(setup.cluster, setup.kernels, setup.calibrations)
        self.held = float(setup.placement.experts_per_device.max(initial=1))
        self.device_spared, self.node_spared = group_spared(setup)
        self.factors = self._factors(setup)

    def price(self, plan: DispatchPlan) -> ExchangeCosts:
        """Price all MoE layers of one step."""
        sent = self._sent(plan)
        out, back, legs = self.exchange.round_trip(sent, self.token_bytes)
        out, back = (self._scaled(cost, by) for cost, by in zip((out, back), self.factors, strict=True))
        joint, moved_in = out, np.zeros((self.layers, self.devices))
        if len(plan.moves):
            weights = self._weights(plan.moves)
            moved_in = weights.inbound - weights.local
            joint = self.exchange.joint(out, legs, weights)
        return ExchangeCosts(
            dispatch=out.seconds,
            weight_move=np.where(moved_in.any(axis=1), joint.seconds - out.seconds, 0.0),
            combine=back.seconds,
            latency=np.stack([joint.latency, back.latency]),
            dispatch_links=joint.link_bytes,
            combine_links=back.link_bytes,
            moved_bytes=moved_in.sum(axis=1),
            received=legs.received,
            moved_in=moved_in,
        )

    def _factors(self, setup: Setup) -> tuple[float, float]:
        """Return by how much measured dispatch and combine are slower than priced, under an even load."""
        if setup.tables is None or not self.tokens.any():
            return 1.0, 1.0
        total = float(self.tokens.sum())
        copies = np.full((self.layers, self.devices), total * self.top_k / self.devices)
        even = self._messages(
            Traffic.pooled(copies, self.tokens / total), np.zeros(self.layers, dtype=np.bool_)
        )
        told = EvenExchange(
            exchange=self.exchange.name,
            tokens=total / self.devices,
            hidden=setup.model.hidden,
            top_k=self.top_k,
            experts=setup.model.experts,
            devices=self.devices,
            nodes=self.exchange.nodes,
            sms=setup.kernels.exchange_sms,
            narrow=setup.kernels.dispatch_width < 1.0,
            size=float(even.traffic.inbound[0, 0]) * self.dispatch_bytes,
            back=float(even.traffic.inbound[0, 0]) * self.token_bytes,
        )
        out, back, _ = self.exchange.round_trip(even, self.token_bytes)
        readings = (told.read(setup.tables, "dispatch"), told.read(setup.tables, "combine"))
        if not all(bool(reading.inside) and float(reading.seconds) > 0 for reading in readings):
            setup.said.add(outside(str(told), setup.tables.device, ""))
            return 1.0, 1.0
        dispatch, combine = (
            float(reading.seconds) / float(cost.seconds[0])
            for reading, cost in zip(readings, (out, back), strict=True)
        )
        return dispatch, combine

    def _scaled(self, cost: CollectiveCost, factor: float) -> CollectiveCost:
        """Return a cost of another duration, which is never less than its links need."""
        if factor == 1.0:
            return cost
        drain = self.network.drain(cost.link_bytes)
        seconds = np.where(cost.seconds > 0, np.maximum(cost.seconds * factor, drain), 0.0)
        return CollectiveCost(seconds, cost.link_bytes, np.maximum(seconds - drain, 0.0))

    def _sent(self, plan: DispatchPlan) -> Messages:
        """Return the messages that carry the copies to their experts."""
        # Where work moves away from the experts' homes, groups no longer stand together.
        return self._messages(plan.traffic, np.bincount(plan.moves.layer, minlength=self.layers) > 0)

    def _messages(self, traffic: Traffic, moved: npt.NDArray[np.bool_]) -> Messages:
        """Return the messages that carry copies, given the layers in which work moves."""
        pairs = None
        if self.sends != "copies":
            by_device = np.where(moved, 1.0, self.device_spared)
            if self.sends == "devices":
                traffic = once_per_device(traffic, self.tokens, self.top_k, by_device)
            else:
                by_node = np.where(moved, 1.0, self.node_spared)
                relayed = once_per_node(traffic, self.tokens, self.top_k, self.node_of, by_device, by_node)
                traffic, pairs = relayed.traffic, relayed.node_pairs
        return Messages(traffic, self.tokens, self.dispatch_bytes, pairs, self.held)

    def _weights(self, moves: WeightMoves) -> Traffic:
        """Return the bytes of weights that go from device to device."""
        amounts = np.zeros((self.layers, self.devices, self.devices))
        size = self.expert_bytes[moves.layer, moves.expert]
        np.add.at(amounts, (moves.layer, moves.source, moves.target), size)
        return Traffic.of_pairs(amounts)
