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
        moved_in: weights each device receives (bytes) [MoE layers, devices].
    """

    dispatch: Array
    weight_move: Array
    combine: Array
    latency: Array
    dispatch_links: Array
    combine_links: Array
    moved_bytes: Array
    moved_in: Array


class ExchangePricer:
    """Prices plans for one setup."""

    def __init__(self, setup: Setup) -> None:
        self.network = setup.cluster.network
        self.fixed = setup.cluster.collective_latency_s
        self.devices = setup.cluster.size
        self.layers = len(setup.moe_rows)
        self.sends = setup.kernels.sends
        self.tokens = setup.tokens.astype(np.float64)
        self.top_k = setup.model.top_k
        self.node_of = setup.cluster.node_of
        self.token_bytes = float(setup.model.token_bytes)
        self.dispatch_bytes = self.token_bytes * setup.kernels.dispatch_width
        moe = setup.model.moe_layers
        self.expert_bytes = np.asarray([[e.bytes for e in layer.experts] for layer in moe], dtype=np.float64)

    def price(self, plan: DispatchPlan) -> ExchangeCosts:
        """Price all MoE layers of one step."""
        sent = self._sent(plan.traffic)
        returning = sent.reversed()
        token_links = self.network.link_amounts(sent) * self.dispatch_bytes
        back_links = self.network.link_amounts(returning) * self.token_bytes
        latency = self._latency(sent)
        dispatch = latency + self.network.drain(token_links)
        joint_links, joint_latency, joint = token_links, latency, dispatch
        moved_in = np.zeros((self.layers, self.devices))
        if len(plan.moves):
            moved_links, moved_in, move_latency = self._moves(plan.moves)
            joint_links = token_links + moved_links
            joint_latency = np.maximum(latency, move_latency)
            joint = joint_latency + self.network.drain(joint_links)
        back_latency = self._latency(returning)
        combine = back_latency + self.network.drain(back_links)
        return ExchangeCosts(
            dispatch=dispatch,
            weight_move=np.where(moved_in.any(axis=1), joint - dispatch, 0.0),
            combine=combine,
            latency=np.stack([joint_latency, back_latency]),
            dispatch_links=joint_links,
            combine_links=back_links,
            moved_bytes=moved_in.sum(axis=1),
            moved_in=moved_in,
        )

    def _sent(self, copies: Traffic) -> Traffic:
        """Return the messages that carry the copies."""
        if self.sends == "copies":
            return copies
        if self.sends == "devices":
            return once_per_device(copies, self.tokens, self.top_k)
        return once_per_node(copies, self.tokens, self.top_k, self.node_of)

    def _latency(self, traffic: Traffic) -> Array:
        """Return the fixed time of a collective that sends anything [layers]."""
        return np.where(
            self.network.crossing(traffic), self.fixed + self.network.latency_seconds(traffic), 0.0
        )

    def _moves(self, moves: WeightMoves) -> tuple[Array, Array, Array]:
        """Return bytes per link, bytes per receiving device and latency of weight moves."""
        links = np.zeros((self.layers, self.network.bandwidth.size))
        received = np.zeros((self.layers, self.devices))
        latency = np.zeros(self.layers)
        size = self.expert_bytes[moves.layer, moves.expert]
        np.add.at(received, (moves.layer, moves.target), size)
        for layer, source, target, amount in zip(
            moves.layer.tolist(), moves.source.tolist(), moves.target.tolist(), size.tolist(), strict=True
        ):
            if source == target:
                continue
            links[layer, list(self.network.path(source, target))] += amount
            hop = self.fixed + float(self.network.hop_latency[source, target])
            latency[layer] = max(latency[layer], hop)
        return links, received, latency
