"""Tensor parallelism beside expert parallelism: who shares what, and plans spread over shares.

Policies think in expert-parallel *ranks*: devices, or groups of ``expert_tp`` neighbouring devices that share
every expert of the rank between them. What they decide for ranks is spread over devices here: each device
of a rank computes its share of all copies of the rank and is sent each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.hardware.traffic import Traffic
from moesim.policies.plan import Assignments, DispatchPlan, WeightMoves

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Parallelism:
    """How the model is spread besides expert parallelism.

    Attributes:
        attention_tp: neighbouring devices that split attention heads, dense and shared experts and the
            vocabulary between them, and work on the same tokens there.
        expert_tp: neighbouring devices that split every routed expert between them.
    """

    attention_tp: int = 1
    expert_tp: int = 1

    def check(self, devices: int) -> None:
        """Check that the groups divide the devices.

        Raises:
            InputError: one of them does not.
        """
        for name, size in (("attention_tp", self.attention_tp), ("expert_tp", self.expert_tp)):
            if size < 1 or devices % size:
                fitting = [str(n) for n in range(1, devices + 1) if devices % n == 0]
                message = f"'{name}' is {size}, which does not divide the {devices} devices"
                raise InputError(message, hint=f"one of {', '.join(fitting[-8:])}")

    def together(self, tokens: Indices) -> Indices:
        """Return the tokens on which each device works outside the routed experts [devices]."""
        groups = tokens.reshape(-1, self.attention_tp).sum(axis=1)
        return np.asarray(np.repeat(groups, self.attention_tp), dtype=np.int64)

    def by_rank(self, tokens: Indices) -> Indices:
        """Return the tokens of each rank, int64 [ranks]."""
        return np.asarray(tokens.reshape(-1, self.expert_tp).sum(axis=1), dtype=np.int64)

    def spread(self, plan: DispatchPlan, tokens: Indices) -> DispatchPlan:
        """Spread a plan for ranks over devices.

        Args:
            plan: what the policy decided for ranks.
            tokens: tokens of each device, int64 [devices].
        """
        parts = self.expert_tp
        if parts == 1:
            return plan
        rows, moves = plan.assignments, plan.moves
        return DispatchPlan(
            assignments=Assignments(
                layer=np.repeat(rows.layer, parts),
                expert=np.repeat(rows.expert, parts),
                device=_members(rows.device, parts),
                copies=np.repeat(rows.copies, parts),
            ),
            traffic=self._traffic(plan.traffic, tokens),
            planned=plan.planned,
            moves=WeightMoves(
                layer=np.repeat(moves.layer, parts),
                expert=np.repeat(moves.expert, parts),
                source=np.where(np.repeat(moves.source, parts) < 0, -1, _members(moves.source, parts)),
                target=_members(moves.target, parts),
            ),
            dropped=plan.dropped,
            changed=plan.changed,
        )

    def _traffic(self, traffic: Traffic, tokens: Indices) -> Traffic:
        """Send what goes to a rank to each of its devices, from the devices that hold the tokens."""
        parts = self.expert_tp
        own = tokens.astype(np.float64)
        ranks = np.repeat(self.by_rank(tokens), parts)
        part = np.divide(own, ranks, out=np.full(own.shape, 1.0 / parts), where=ranks > 0)
        inbound = np.repeat(traffic.inbound, parts, axis=1)
        if traffic.matrix is None:
            assert traffic.share is not None
            return Traffic.pooled(inbound, np.repeat(traffic.share, parts, axis=1) * part)
        matrix = np.repeat(np.repeat(traffic.matrix, parts, axis=1), parts, axis=2)
        return Traffic.of_pairs(matrix * part[:, np.newaxis])


def _members(ranks: Indices, parts: int) -> Indices:
    """Return the devices of each rank in turn, int64 [rows * parts]."""
    return np.asarray((ranks[:, np.newaxis] * parts + np.arange(parts)).ravel(), dtype=np.int64)
