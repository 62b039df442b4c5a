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
from moesim.hardware.exchanges import Exchange, Messages
from moesim.hardware.traffic import Traffic
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
        self.exchange = Exchange(setup.cluster, setup.kernels)
        self.held = float(setup.placement.experts_per_device.max(initial=1))
        self.device_spared, self.node_spared = group_spared(setup)

    def price(self, plan: DispatchPlan) -> ExchangeCosts:
        """Price all MoE layers of one step."""
        sent = self._sent(plan)
        out, back, legs = self.exchange.round_trip(sent, self.token_bytes)
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

    def _sent(self, plan: DispatchPlan) -> Messages:
        """Return the messages that carry the copies to their experts."""
        traffic, pairs = plan.traffic, None
        if self.sends != "copies":
            # Where work moves away from the experts' homes, groups no longer stand together.
            moved = np.bincount(plan.moves.layer, minlength=self.layers) > 0
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
