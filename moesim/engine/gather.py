"""Exchange without dispatch of copies: every device sees every token and keeps what its experts need.

Tokens are gathered by all devices and the results summed where they belong (an all-gather and a
reduce-scatter). Where tensor parallelism already has all devices work on the same tokens, nothing is
gathered and one all-reduce sums the results. Which device computes which expert changes nothing on the
wire. A backward pass takes the same two collectives: behind a reduce-scatter there is an all-gather, and
the other way round.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesim.engine.exchange import ExchangeCosts, ExchangePricer
from moesim.engine.setup import Setup
from moesim.engine.weight_moves import WeightMover
from moesim.hardware.collectives import CollectiveCost, all_gather, all_reduce, reduce_scatter
from moesim.hardware.group_collectives import group_collective_seconds
from moesim.hardware.legs import Legs
from moesim.hardware.protocols import Operation
from moesim.hardware.traffic import Traffic
from moesim.policies.plan import DispatchPlan

_PATTERNS = {"all_gather": all_gather, "reduce_scatter": reduce_scatter, "all_reduce": all_reduce}


class BesideGather(WeightMover):
    """Prices weights that move beside tokens that are gathered; they share links."""

    def joint(self, tokens: CollectiveCost, legs: Legs, weights: Traffic) -> CollectiveCost:
        """Price tokens and weights (bytes) that move beside them."""
        nothing = Legs.of(self.cluster, Traffic.of_pairs(np.zeros_like(weights.dense())))
        moving = self.exchange.joint(tokens, nothing, weights)
        links = tokens.link_bytes + moving.link_bytes
        drain = self.cluster.network.drain(links)
        seconds = np.maximum(moving.seconds, drain)
        return CollectiveCost(seconds, links, seconds - drain)


class GatherPricer(ExchangePricer):
    """Prices plans whose tokens are gathered instead of dispatched."""

    def __init__(self, setup: Setup, backward: bool = False) -> None:
        super().__init__(setup, backward)
        self.mover = BesideGather(setup, self.exchange)
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
        received = np.broadcast_to(self.gathered * self.dispatch_bytes, (self.layers, self.devices))
        nothing = Traffic.pooled(np.zeros_like(received), np.full(self.devices, 1.0 / self.devices))
        legs = replace(Legs.of(self.cluster, nothing), received=received)
        if not len(plan.moves):
            return self._costs(self.out, self.back, legs)
        return self._moved(self.out, self.back, legs, nothing, plan.moves)

    def _collective(self, operation: Operation, size: float) -> CollectiveCost:
        """Price one collective over all devices for every MoE layer."""
        sizes = np.full(self.layers, size)
        links = _PATTERNS[operation](self.cluster, sizes).link_bytes
        drain = self.network.drain(links)
        measured = group_collective_seconds(self.cluster, operation, sizes, self.devices, self.calibrations)
        seconds = np.where(sizes > 0, np.maximum(measured, drain), 0.0)
        return CollectiveCost(seconds, links, seconds - drain)


def exchange_pricer(setup: Setup, backward: bool = False) -> ExchangePricer:
    """Return what prices the exchange of a kernel style."""
    kind = GatherPricer if setup.kernels.exchange == "gather" else ExchangePricer
    return kind(setup, backward)
