"""Prices of what devices exchange under a plan: dispatch, weight moves beside it, and combine.

Dispatch and the weight moves posted with it are awaited together before the experts run, so they form
one collective: it ends when its most loaded link has drained. The time that the moves add to
dispatch alone is booked as ``weight_move``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.engine.sends import once_per_device, once_per_node
from moesim.engine.setup import Setup
from moesim.hardware.collectives import all_to_all
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

    def price(self, plan: DispatchPlan) -> ExchangeCosts:
        """Price all MoE layers of one step."""
        sent = self._sent(plan.traffic)
        out = all_to_all(self.cluster, sent.scaled(self.dispatch_bytes))
        back = all_to_all(self.cluster, sent.reversed().scaled(self.token_bytes))
        joint_links, joint_latency, joint = out.link_bytes, out.latency, out.seconds
        moved_in = np.zeros((self.layers, self.devices))
        if len(plan.moves):
            weights = self._weights(plan.moves)
            moving = all_to_all(self.cluster, weights)
            moved_in = weights.inbound - weights.local
            joint_links = out.link_bytes + moving.link_bytes
            joint_latency = np.maximum(out.latency, moving.latency)
            joint = joint_latency + self.network.drain(joint_links)
        return ExchangeCosts(
            dispatch=out.seconds,
            weight_move=np.where(moved_in.any(axis=1), joint - out.seconds, 0.0),
            combine=back.seconds,
            latency=np.stack([joint_latency, back.latency]),
            dispatch_links=joint_links,
            combine_links=back.link_bytes,
            moved_bytes=moved_in.sum(axis=1),
            received=(sent.inbound - sent.local) * self.dispatch_bytes,
            moved_in=moved_in,
        )

    def _sent(self, copies: Traffic) -> Traffic:
        """Return the messages that carry the copies."""
        if self.sends == "copies":
            return copies
        if self.sends == "devices":
            return once_per_device(copies, self.tokens, self.top_k)
        return once_per_node(copies, self.tokens, self.top_k, self.node_of)

    def _weights(self, moves: WeightMoves) -> Traffic:
        """Return the bytes of weights that go from device to device."""
        amounts = np.zeros((self.layers, self.devices, self.devices))
        size = self.expert_bytes[moves.layer, moves.expert]
        np.add.at(amounts, (moves.layer, moves.source, moves.target), size)
        return Traffic.of_pairs(amounts)
