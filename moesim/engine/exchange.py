"""Prices of what devices exchange under a plan: dispatch, weight moves beside it, and combine.

The kernel style says which messages carry the copies and which library moves them. Dispatch and the
weight moves posted with it are awaited together before the experts run, so they form one collective. The
time that the moves add to dispatch alone is booked as ``weight_move``.

A backward pass dispatches gradients to the experts in the format of the forward dispatch and combines what
they return in that of the forward combine. DeepSeek-V3's report (arXiv 2412.19437, section 3.3.3) quantises
activations before the up-projection and gradients before the down-projection to FP8 for their dispatch, and
keeps both combines in BF16; the kernels of its training profile say the same. Weights that were moved are
moved once more beside the gradients of tokens, and their own gradients go home, in the format of
activations, beside the combine.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.engine.reach import group_spared
from moesim.engine.sends import once_per_device, once_per_node
from moesim.engine.setup import Setup
from moesim.errors import InputError
from moesim.hardware.collectives import CollectiveCost
from moesim.hardware.exchanges import Exchange, Messages
from moesim.hardware.legs import Legs
from moesim.hardware.spec import DTYPE_BYTES
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


@dataclass(frozen=True, eq=False)
class MovingCosts:
    """What weights take that change places while nothing else is sent, layer after layer.

    Attributes:
        seconds: [MoE layers].
        link_bytes: bytes per link [MoE layers, links].
        moved_in: weights that each device gets from others or from its host (bytes) [MoE layers, devices].
    """

    seconds: Array
    link_bytes: Array
    moved_in: Array


class ExchangePricer:
    """Prices plans for one setup.

    Args:
        setup: the tokens that are run together.
        backward: price the backward pass.
    """

    def __init__(self, setup: Setup, backward: bool = False) -> None:
        self.backward = backward
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
        self.gradient_bytes = setup.expert_params * DTYPE_BYTES[setup.model.activation_dtype]
        self.exchange = Exchange(setup.cluster, setup.kernels, setup.calibrations)
        self.memory_rate = np.asarray([device.memory.bandwidth for device in setup.cluster.devices])
        self.held = float(setup.placement.experts_per_device.max(initial=1))
        self.device_spared, self.node_spared = group_spared(setup)
        self.factors = self._factors(setup)

    def price(self, plan: DispatchPlan) -> ExchangeCosts:
        """Price all MoE layers of one step."""
        sent = self._sent(plan)
        out, back, legs = self.exchange.round_trip(sent, self.token_bytes)
        out, back = (self._scaled(cost, by) for cost, by in zip((out, back), self.factors, strict=True))
        if not len(plan.moves):
            return self._costs(out, back, legs)
        return self._moved(out, back, legs, sent.traffic, plan.moves)

    def placed(self, setup: Setup) -> ExchangePricer:
        """Return the prices under the placement of a setup that is otherwise the same."""
        changed = copy.copy(self)
        changed.held = float(setup.placement.experts_per_device.max(initial=1))
        changed.device_spared, changed.node_spared = group_spared(setup)
        changed.factors = changed._factors(setup)
        return changed

    def _moved(
        self, out: CollectiveCost, back: CollectiveCost, legs: Legs, sent: Traffic, moves: WeightMoves
    ) -> ExchangeCosts:
        """Let weights move beside dispatch, and their gradients beside combine in a backward pass.

        Args:
            out: dispatch alone.
            back: combine alone.
            legs: those of dispatch.
            sent: messages of dispatch.
            moves: weights that move.
        """
        joint, moved_in = self._beside(out, legs, moves, self.expert_bytes)
        costs = self._costs(out, back, legs, joint, moved_in)
        if not self.backward:
            return costs
        returned = None
        if self.dispatch_bytes > 0:
            returned = legs.returned(self.cluster, self.token_bytes / self.dispatch_bytes)
        if returned is None:
            returned = Legs.of(self.cluster, sent.reversed().scaled(self.token_bytes))
        back, gradients = self._beside(back, returned, moves, self.gradient_bytes, home=True)
        return replace(
            costs,
            combine=back.seconds,
            latency=np.stack([joint.latency, back.latency]),
            combine_links=back.link_bytes,
            moved_bytes=costs.moved_bytes + gradients.sum(axis=1),
            moved_in=moved_in + gradients,
        )

    def _costs(
        self,
        out: CollectiveCost,
        back: CollectiveCost,
        legs: Legs,
        joint: CollectiveCost | None = None,
        moved_in: Array | None = None,
    ) -> ExchangeCosts:
        """Put dispatch, dispatch with what moves beside it and combine together."""
        joint = out if joint is None else joint
        moved_in = np.zeros((self.layers, self.devices)) if moved_in is None else moved_in
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

    def _beside(
        self, tokens: CollectiveCost, legs: Legs, moves: WeightMoves, size: Array, home: bool = False
    ) -> tuple[CollectiveCost, Array]:
        """Let weights, or what is as many, move beside tokens.

        Args:
            tokens: what they move beside.
            legs: its legs.
            moves: which weights move from where to where.
            size: bytes of each expert [MoE layers, experts].
            home: they go back to where they came from.

        Returns:
            The cost of both, and the bytes that each device gets [MoE layers, devices].
        """
        weights = self._weights(moves, size)
        weights = weights.reversed() if home else weights
        moved_in = weights.inbound - weights.local
        joint = self._joint(tokens, legs, weights) if moved_in.any() else tokens
        joint, fetched = self._fetching(joint, moves, size)
        return joint, moved_in if home else moved_in + fetched

    def _joint(self, tokens: CollectiveCost, legs: Legs, weights: Traffic) -> CollectiveCost:
        """Price tokens and weights (bytes) together."""
        return self.exchange.joint(tokens, legs, weights)

    def moving(self, moves: WeightMoves) -> MovingCosts:
        """Price weights that move by themselves; a move from a device to itself is a copy in its memory."""
        zero = np.zeros((self.layers, self.devices))
        nothing = Traffic.pooled(zero, np.full(self.devices, 1.0 / self.devices))
        legs = Legs.of(self.cluster, nothing)
        idle = CollectiveCost(np.zeros(self.layers), legs.link_bytes, np.zeros(self.layers))
        away = moves.source != moves.target
        weights = self._weights(_some(moves, away & (moves.source >= 0)), self.expert_bytes)
        moved_in = weights.inbound - weights.local
        cost = self.exchange.joint(idle, legs, weights) if moved_in.any() else idle
        cost, fetched = self._fetching(cost, _some(moves, away), self.expert_bytes)
        copied = zero.copy()
        np.add.at(
            copied,
            (moves.layer[~away], moves.target[~away]),
            self.expert_bytes[moves.layer[~away], moves.expert[~away]],
        )
        # Read and written.
        inside = (2 * copied / self.memory_rate).max(axis=1)
        return MovingCosts(cost.seconds + inside, cost.link_bytes, moved_in + fetched)

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

    def _weights(self, moves: WeightMoves, each: Array) -> Traffic:
        """Return the bytes of weights that go from device to device, given those of each expert."""
        amounts = np.zeros((self.layers, self.devices, self.devices))
        sent = moves.source >= 0
        layer, target = moves.layer[sent], moves.target[sent]
        size = each[layer, moves.expert[sent]]
        np.add.at(amounts, (layer, moves.source[sent], target), size)
        return Traffic.of_pairs(amounts)

    def _fetching(
        self, joint: CollectiveCost, moves: WeightMoves, each: Array
    ) -> tuple[CollectiveCost, Array]:
        """Let a dispatch wait for weights from the host's memory, loaded beside it.

        Devices behind one switch, and all of a host, share the way. So do gradients that go to the host.

        Args:
            joint: what else is sent.
            moves: weights that move.
            each: bytes of each expert [MoE layers, experts].

        Returns:
            The cost, and the bytes that each device loads [MoE layers, devices].
        """
        loaded = np.zeros((self.layers, self.devices))
        mine = moves.source < 0
        if not mine.any():
            return joint, loaded
        host = self.cluster.shape.host
        if host is None:
            message = f"the policy fetches experts from the host, and cluster '{self.cluster.name}' has none"
            raise InputError(message, hint="describe 'host' in the cluster")
        size = each[moves.layer[mine], moves.expert[mine]]
        np.add.at(loaded, (moves.layer[mine], moves.target[mine]), size)
        seconds = np.zeros(self.layers)
        for group, rate in ((host.devices_per_switch, host.link.usable), (host.devices_per_host, self.dram)):
            starts = np.arange(0, self.devices, max(1, group))
            seconds = np.maximum(seconds, np.add.reduceat(loaded, starts, axis=1).max(axis=1) / rate)
        copies = np.zeros((self.layers, self.devices))
        np.add.at(copies, (moves.layer[mine], moves.target[mine]), 1.0)
        fixed = copies.max(axis=1) * host.link.start + np.minimum(copies.max(axis=1), 1.0) * host.link.latency
        longer = np.maximum(seconds + fixed - joint.seconds, 0.0)
        return CollectiveCost(joint.seconds + longer, joint.link_bytes, joint.latency + longer), loaded

    @property
    def dram(self) -> float:
        """Rate at which the devices of one host load from its memory together (bytes/s)."""
        host = self.cluster.shape.host
        assert host is not None
        per_node = max(len(row) for row in self.cluster.shape.nodes)
        return host.memory.usable * min(1.0, host.devices_per_host / per_node)


def _some(moves: WeightMoves, rows: npt.NDArray[np.bool_]) -> WeightMoves:
    """Return chosen rows of moves."""
    return WeightMoves(moves.layer[rows], moves.expert[rows], moves.source[rows], moves.target[rows])
