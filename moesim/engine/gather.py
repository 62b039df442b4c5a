"""Exchange without dispatch of copies: every device sees every token and keeps what its experts need.

Tokens are gathered by all devices and the results summed where they belong (an all-gather and a
reduce-scatter). Where tensor parallelism already has all devices work on the same tokens, nothing is gathered
and one all-reduce sums the results. Which device computes which expert changes nothing on the wire.
"""

from __future__ import annotations

import numpy as np

from moesim.engine.exchange import ExchangeCosts, ExchangePricer
from moesim.engine.setup import Setup
from moesim.hardware.collectives import CollectiveCost, all_gather, all_reduce, reduce_scatter
from moesim.hardware.group_collectives import group_collective_seconds
from moesim.hardware.legs import Legs
from moesim.hardware.protocols import Operation
from moesim.hardware.traffic import Traffic
from moesim.policies.plan import DispatchPlan

_PATTERNS = {"all_gather": all_gather, "reduce_scatter": reduce_scatter, "all_reduce": all_reduce}


class GatherPricer(ExchangePricer):
    """Prices plans whose tokens are gathered instead of dispatched."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.calibrations = setup.calibrations
        self.replicated = setup.parallel.attention_tp == setup.cluster.size
        everything = float(self.tokens.sum())
        self.gathered = np.zeros(self.devices) if self.replicated else everything - self.tokens
        self.out = self._collective(
            "all_gather", 0.0 if self.replicated else everything * self.dispatch_bytes
        )
        summing: Operation = "all_reduce" if self.replicated else "reduce_scatter"
        self.back = self._collective(summing, everything * self.token_bytes)

    def price(self, plan: DispatchPlan) -> ExchangeCosts:
        """Price all MoE layers of one step."""
        joint, moved_in = self.out, np.zeros((self.layers, self.devices))
        if len(plan.moves):
            weights = self._weights(plan.moves)
            moved_in = weights.inbound - weights.local
            nothing = Legs.of(self.cluster, Traffic.of_pairs(np.zeros_like(weights.dense())))
            moving = self.exchange.joint(self.out, nothing, weights)
            links = self.out.link_bytes + moving.link_bytes
            drain = self.network.drain(links)
            seconds = np.maximum(moving.seconds, drain)
            joint = CollectiveCost(seconds, links, seconds - drain)
            joint, fetched = self._fetching(joint, plan.moves)
            moved_in = moved_in + fetched
        received = np.broadcast_to(self.gathered * self.dispatch_bytes, moved_in.shape)
        return ExchangeCosts(
            dispatch=self.out.seconds,
            weight_move=np.where(moved_in.any(axis=1), joint.seconds - self.out.seconds, 0.0),
            combine=self.back.seconds,
            latency=np.stack([joint.latency, self.back.latency]),
            dispatch_links=joint.link_bytes,
            combine_links=self.back.link_bytes,
            moved_bytes=moved_in.sum(axis=1),
            received=received,
            moved_in=moved_in,
        )

    def _collective(self, operation: Operation, size: float) -> CollectiveCost:
        """Price one collective over all devices for every MoE layer."""
        sizes = np.full(self.layers, size)
        links = _PATTERNS[operation](self.cluster, sizes).link_bytes
        drain = self.network.drain(links)
        measured = group_collective_seconds(self.cluster, operation, sizes, self.devices, self.calibrations)
        seconds = np.where(sizes > 0, np.maximum(measured, drain), 0.0)
        return CollectiveCost(seconds, links, seconds - drain)


def exchange_pricer(setup: Setup) -> ExchangePricer:
    """Return what prices the exchange of a kernel style."""
    return GatherPricer(setup) if setup.kernels.exchange == "gather" else ExchangePricer(setup)
