"""Weights of experts that move: beside a dispatch, their gradients beside a combine, or by themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.engine.setup import Setup
from moesim.errors import InputError
from moesim.hardware.collectives import CollectiveCost
from moesim.hardware.exchanges import Exchange
from moesim.hardware.legs import Legs
from moesim.hardware.spec import DTYPE_BYTES
from moesim.hardware.traffic import Traffic
from moesim.policies.plan import WeightMoves

Array = npt.NDArray[np.float64]


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


class WeightMover:
    """Prices moves for one setup.

    Attributes:
        expert_bytes: weights of each expert [MoE layers, experts].
        gradient_bytes: their gradients, in the format of activations [MoE layers, experts].
    """

    def __init__(self, setup: Setup, exchange: Exchange) -> None:
        self.cluster = setup.cluster
        self.exchange = exchange
        self.devices = setup.cluster.size
        self.layers = len(setup.moe_rows)
        self.expert_bytes = setup.expert_bytes
        self.gradient_bytes = setup.expert_params * DTYPE_BYTES[setup.model.activation_dtype]
        self.memory_rate = np.asarray([device.memory.bandwidth for device in setup.cluster.devices])

    def beside(
        self, tokens: CollectiveCost, legs: Legs, moves: WeightMoves, size: Array, home: bool = False
    ) -> tuple[CollectiveCost, Array]:
        """Let weights, or their gradients, move beside tokens.

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
        joint = self.joint(tokens, legs, weights) if moved_in.any() else tokens
        joint, fetched = self._fetching(joint, moves, size)
        return joint, moved_in if home else moved_in + fetched

    def joint(self, tokens: CollectiveCost, legs: Legs, weights: Traffic) -> CollectiveCost:
        """Price tokens and weights (bytes) that move beside them."""
        return self.exchange.joint(tokens, legs, weights)

    def alone(self, moves: WeightMoves) -> MovingCosts:
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
