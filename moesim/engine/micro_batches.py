"""Micro-batches of a step: each has its own tokens, load and plan, and is priced by itself.

A forward and a backward micro-batch have the same load and share one plan: a backward pass follows the plan
that its forward pass made, and in a run of equal steps any micro-batch stands for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.engine.exchange import ExchangeCosts, ExchangePricer
from moesim.engine.expert_costs import ExpertCosts, ExpertPricer
from moesim.engine.gather import exchange_pricer
from moesim.engine.overlap import BACKWARD, stretch
from moesim.engine.own_work import OwnWork
from moesim.engine.setup import Setup
from moesim.hardware.traffic import Traffic
from moesim.policies.plan import Assignments, DispatchPlan, Placement, WeightMoves
from moesim.routing.load import Load

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Prices of the tokens that go through the layers together.

    Attributes:
        setup: the run with the tokens of this micro-batch only.
        own: what devices do by themselves.
        experts: prices of experts.
        exchange: prices of dispatch and combine.
        stretch: how many times as long experts take beside exchange kernels [devices].
        backward: whether they go backward.
    """

    setup: Setup
    own: OwnWork
    experts: ExpertPricer
    exchange: ExchangePricer
    stretch: Array
    backward: bool = False

    @classmethod
    def of(cls, setup: Setup, backward: bool = False) -> MicroBatch:
        """Prepare the prices of a setup's tokens."""
        slower = np.ones(setup.cluster.size)
        if setup.overlap.kind != "none":
            slower = stretch(setup.cluster, setup.kernels)
        both = setup.overlap.paired
        return cls(
            setup=setup,
            own=OwnWork.of(setup, slower, backward),
            experts=ExpertPricer(setup, backward),
            exchange=exchange_pricer(setup, backward),
            stretch=slower if both else np.ones(setup.cluster.size),
            backward=backward,
        )

    def placed(self, ranks: Placement) -> MicroBatch:
        """Return the same tokens with experts on other ranks."""
        setup = self.setup.with_placement(ranks)
        return replace(
            self,
            setup=setup,
            experts=self.experts.placed(setup.placement),
            exchange=self.exchange.placed(setup),
        )

    def price(self, plan: DispatchPlan) -> tuple[ExpertCosts, ExchangeCosts]:
        """Price a plan for the tokens of this micro-batch, beside what it overlaps with."""
        experts, exchange = self.experts.price(plan.assignments), self.exchange.price(plan)
        if self.setup.overlap.kind == "none":
            return experts, exchange
        slower = self.setup.overlap.slower
        joint = exchange.dispatch + exchange.weight_move
        added = (slower - 1.0) * np.stack([joint, exchange.combine])
        computed = replace(
            experts, seconds=experts.seconds * self.stretch, weights=experts.weights * self.stretch
        )
        return computed, replace(
            exchange,
            dispatch=exchange.dispatch * slower,
            weight_move=exchange.weight_move * slower,
            combine=exchange.combine * slower,
            latency=exchange.latency + added,
        )


def micro_batches(setup: Setup) -> list[MicroBatch]:
    """Return the micro-batches of a step: all tokens, two halves of every device's tokens, or both passes."""
    if setup.overlap.batches == 1:
        return [MicroBatch.of(setup)]
    if setup.overlap.trains:
        return [MicroBatch.of(setup, batch == BACKWARD) for batch in range(2)]
    second = setup.tokens // 2
    batches = [MicroBatch.of(setup.with_tokens(setup.tokens - second))]
    even = np.array_equal(second, batches[0].setup.tokens)
    batches.append(batches[0] if even else MicroBatch.of(setup.with_tokens(second)))
    return batches


def split(load: Load, first: Indices) -> list[Load]:
    """Split a load in two, copies in proportion to tokens.

    Whole copies are dealt out in turn along the experts, so that each of two halves has at most one copy more
    of an expert than its share, and all copies of its tokens.

    Args:
        load: the load of a step.
        first: tokens of the first part, int64 [devices].
    """
    tokens, part = load.tokens, first
    if load.is_pooled:
        tokens, part = tokens.sum(keepdims=True), part.sum(keepdims=True)
    tokens, part = tokens[:, np.newaxis], part[:, np.newaxis]
    whole = np.maximum(tokens, 1)
    # Sources and layers take turns in who has the odd copy, or all would favour the same experts.
    turn = (np.arange(load.layers)[:, np.newaxis] + np.arange(load.counts.shape[1])) % 2
    begin = turn[:, :, np.newaxis] * (whole // 2)
    dealt = (load.counts.cumsum(axis=2) * part + begin) // whole
    mine = np.diff(dealt, axis=2, prepend=0)
    return [Load(mine, first), Load(load.counts - mine, load.tokens - first)]


def joined_plans(plans: Sequence[DispatchPlan]) -> DispatchPlan:
    """Return what devices do in all micro-batches together; passes that follow one plan do it once."""
    if all(plan is plans[0] for plan in plans):
        return plans[0]
    rows = [plan.assignments for plan in plans]
    moves = [plan.moves for plan in plans]
    planned = np.any([plan.planned for plan in plans], axis=0)
    return DispatchPlan(
        assignments=_summed(rows),
        traffic=_added([plan.traffic for plan in plans]),
        planned=np.asarray(planned, dtype=np.bool_),
        moves=WeightMoves(*(_chained([getattr(one, name) for one in moves]) for name in _MOVE)),
        dropped=_total([plan.dropped for plan in plans]),
        changed=_total([plan.changed for plan in plans]),
    )


_MOVE = ("layer", "expert", "source", "target")


def _chained(columns: Sequence[Indices]) -> Indices:
    return np.concatenate(columns)


def _total(parts: Sequence[Indices | None]) -> Indices | None:
    """Add up what is told per layer; None where nothing is told."""
    told = [part for part in parts if part is not None]
    return np.asarray(np.sum(told, axis=0), dtype=np.int64) if told else None


def _summed(rows: Sequence[Assignments]) -> Assignments:
    """Add up copies of the same expert on the same device."""
    layer, expert, device, copies = (
        _chained([getattr(one, name) for one in rows]) for name in ("layer", "expert", "device", "copies")
    )
    experts, devices = int(expert.max(initial=0)) + 1, int(device.max(initial=0)) + 1
    keys, place = np.unique((layer * experts + expert) * devices + device, return_inverse=True)
    return Assignments(
        layer=keys // (experts * devices),
        expert=keys // devices % experts,
        device=keys % devices,
        copies=np.bincount(place, weights=copies, minlength=keys.size).astype(np.int64),
    )


def _added(parts: Sequence[Traffic]) -> Traffic:
    """Add up traffic; sources' shares are those of all parts together."""
    if any(part.matrix is not None for part in parts):
        return Traffic.of_pairs(np.sum([part.dense() for part in parts], axis=0))
    inbound = np.sum([part.inbound for part in parts], axis=0)
    sent = np.sum([part.outbound for part in parts], axis=0)
    total = inbound.sum(axis=1, keepdims=True)
    shares = np.divide(sent, total, out=np.full_like(sent, 1.0 / sent.shape[1]), where=total > 0)
    return Traffic.pooled(inbound, shares)


def joined_experts(parts: Sequence[ExpertCosts], plan: DispatchPlan) -> ExpertCosts:
    """Return what experts take in all micro-batches together.

    Args:
        parts: the same of each micro-batch.
        plan: what they compute together; a copy that goes forward and backward counts once.
    """
    if len(parts) == 1:
        return parts[0]
    shape, rows = parts[0].active.shape, plan.assignments
    busy = rows.copies > 0
    keys = rows.layer[busy] * shape[1] + rows.device[busy]
    active = np.bincount(keys, minlength=shape[0] * shape[1]).astype(np.float64).reshape(shape)
    copies = np.bincount(keys, weights=rows.copies[busy], minlength=shape[0] * shape[1])
    seconds, weights = (np.sum([getattr(part, name) for part in parts], axis=0) for name in _SUMMED)
    return ExpertCosts(seconds, copies.astype(np.float64).reshape(shape), active, weights)


_SUMMED = ("seconds", "weights")


def joined_exchange(parts: Sequence[ExchangeCosts]) -> ExchangeCosts:
    """Return what the network carries for all micro-batches together, one after the other."""
    if len(parts) == 1:
        return parts[0]
    columns = list(vars(parts[0]))
    return ExchangeCosts(**{name: np.sum([getattr(one, name) for one in parts], axis=0) for name in columns})
