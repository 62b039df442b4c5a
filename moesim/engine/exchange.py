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
from moesim.engine.weight_moves import WeightMover
from moesim.hardware.collectives import CollectiveCost
from moesim.hardware.exchanges import Exchange, Messages
from moesim.hardware.legs import Legs
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
        self.exchange = Exchange(setup.cluster, setup.kernels, setup.calibrations)
        self.mover = WeightMover(setup, self.exchange)
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
        joint, moved_in = self.mover.beside(out, legs, moves, self.mover.expert_bytes)
        costs = self._costs(out, back, legs, joint, moved_in)
        if not self.backward:
            return costs
        returned = None
        if self.dispatch_bytes > 0:
            returned = legs.returned(self.cluster, self.token_bytes / self.dispatch_bytes)
        if returned is None:
            returned = Legs.of(self.cluster, sent.reversed().scaled(self.token_bytes))
        size = self.mover.gradient_bytes
        back, gradients = self.mover.beside(back, returned, moves, size, home=True)
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
