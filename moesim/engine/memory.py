"""What stands in each device's memory, and where a step peaks.

Weights and caches stand all the time; buffers come and go with the stages of each MoE layer. How many
buffers a stage holds is counted by the kernel style. Peaks are found over all layers and stages at
once, and the fullest moment of each device is entered in the ledger, owner by owner.

A step that trains has the buffers of a forward and of a backward pass at a time, of equal size, and keeps
gradients and activations besides (``training_memory``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moesim.engine.exchange import ExchangeCosts
from moesim.engine.setup import Setup
from moesim.engine.training_memory import KeptActivations, gradient_bytes
from moesim.hardware.memory import MemoryLedger
from moesim.policies.plan import DispatchPlan, Placement

Array = npt.NDArray[np.float64]

STAGES = ("dispatch", "experts", "reorder", "combine")
"""Stages of an MoE layer that hold different buffers."""


MIGRATING = "migrating experts"
"""Owner of weights that stand in their new slots before the placement that they are for is in force."""


class Moment(NamedTuple):
    """When something stood in memory: step, MoE layer (row) and stage."""

    step: int
    layer: int
    stage: str


class MemoryModel:
    """Counts bytes per owner for one setup and keeps the peak of every device."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.width = float(setup.model.token_bytes)
        self.tokens = setup.tokens.astype(np.float64)
        self.standing = _standing(setup)
        widest = max((e.intermediate for experts in setup.routed for e in experts), default=0)
        self.hidden = widest * self.width / setup.model.hidden
        device = setup.cluster.devices[0]
        self.ledger = MemoryLedger(setup.cluster.memory_capacity, device.memory.name)
        self.kept = KeptActivations(setup) if setup.overlap.trains else None
        self.ledger.hold(self.standing, 0.0)
        self.buffers: tuple[str, ...] = ()
        self.placed: dict[str, Array] = {}
        self.staged = np.zeros(setup.cluster.size)

    def place(self, placement: Placement) -> None:
        """Let experts stand elsewhere from now on."""
        if not self.setup.memory.replicated_experts:
            native, replicas = _expert_bytes(self.setup, placement)
            self.placed = {"experts": native, "expert replicas": replicas}
        if self.setup.overlap.trains:
            self.placed["gradients"] = gradient_bytes(self.setup, placement)
        self.standing |= self.placed

    def migrate(self, step: int, layer: int, beside: Array | None, begin_s: float) -> None:
        """Take into account what stands beside the old placement while a step waits for a new one.

        Args:
            step: number of the step.
            layer: first layer (row) of those that move.
            beside: bytes [devices]; None where the step does not wait.
            begin_s: when (s).
        """
        if beside is None:
            return
        standing = np.sum([np.ceil(amount) for amount in self.standing.values()], axis=0)
        chosen = np.flatnonzero(standing + beside > self.ledger.peak)
        if chosen.size:
            held = dict.fromkeys(self.buffers, np.zeros(chosen.size))
            held |= {owner: amount[chosen] for owner, amount in self.placed.items()}
            held[MIGRATING] = beside[chosen]
            self.ledger.hold(held, begin_s, Moment(step, layer, "migration"), chosen)

    def observe(self, step: int, plan: DispatchPlan, exchange: ExchangeCosts, begin_s: float) -> None:
        """Take one step's plan into account.

        Only the fullest moment of each device is entered in the ledger, and only if it is fuller than any
        before: what happens between is not needed to know the peak.

        Args:
            step: number of the step.
            plan: what the policy decided.
            exchange: what the network carries.
            begin_s: when the step begins (s).
        """
        held = self._transient(plan, exchange)
        self.buffers = tuple(held)
        if MIGRATING in self.ledger.owners or self.staged.any():
            shape = (*next(iter(held.values())).shape[:2], 1)
            held[MIGRATING] = np.tile(self.staged, shape)
        total = np.sum(list(held.values()), axis=0)
        layers, _, devices = total.shape
        flat = total.transpose(2, 0, 1).reshape(devices, layers * len(STAGES))
        moment, column = flat.argmax(axis=1), np.arange(devices)
        standing = np.sum([np.ceil(amount) for amount in self.standing.values()], axis=0)
        fuller = standing + flat[column, moment] > self.ledger.peak
        for place in np.unique(moment[fuller]):
            chosen = np.flatnonzero(fuller & (moment == place))
            layer, stage = divmod(int(place), len(STAGES))
            amounts = {owner: amount[layer, stage, chosen] for owner, amount in held.items()}
            amounts |= {owner: amount[chosen] for owner, amount in self.placed.items()}
            self.ledger.hold(amounts, begin_s, Moment(step, layer, STAGES[stage]), chosen)

    def _transient(self, plan: DispatchPlan, exchange: ExchangeCosts) -> dict[str, Array]:
        """Return owner -> bytes [MoE layers, stages, devices]."""
        style, width = self.setup.kernels, self.width
        traffic = plan.traffic
        received, sent = traffic.inbound * width, traffic.outbound * width
        working, last = self._expert_buffers(plan)
        nothing = np.zeros_like(received)

        def stages(dispatch: Array, experts: Array, reorder: Array, combine: Array) -> Array:
            return np.stack([dispatch, experts, reorder, combine], axis=1)

        tokens = np.broadcast_to(self.tokens * width * style.combine_tokens, received.shape)
        held = {
            "send buffers": stages(sent * style.dispatch_sent, nothing, nothing, sent * style.combine_sent),
            "receive buffers": stages(
                received,
                received * style.expert_model,
                received * style.reorder_model,
                received * style.combine_received,
            ),
            "expert activations": stages(nothing, working, last, tokens),
        }
        if self.kept is not None:
            held = {owner: 2 * amount for owner, amount in held.items()}
            kept = self.kept.under(plan.assignments)
            held["kept activations"] = np.broadcast_to(kept, (received.shape[0], len(STAGES), kept.size))
        return held | {"moved weights": stages(*[exchange.moved_in] * 4)}

    def _expert_buffers(self, plan: DispatchPlan) -> tuple[Array, Array]:
        """Return bytes while experts run and just after the last one [MoE layers, devices] each.

        A sliced style works through a device's experts in order; what the one before left behind is
        freed only as its successors are made.
        """
        style, hidden = self.setup.kernels, self.hidden
        early = style.expert_hidden * hidden
        late = style.expert_hidden_late * hidden + style.expert_model_late * self.width
        if not style.sliced:
            copies = plan.traffic.inbound
            return copies * max(early, late), copies * (style.reorder_hidden * hidden)
        shape = plan.traffic.inbound.shape
        rows = plan.assignments
        busy = np.flatnonzero(rows.copies)
        place = rows.layer[busy] * shape[1] + rows.device[busy]
        order = np.lexsort((rows.expert[busy], place))
        place, copies = place[order], rows.copies[busy][order].astype(np.float64)
        first = np.append(True, place[1:] != place[:-1])
        before = np.where(first, 0.0, np.append(0.0, copies[:-1]))
        peaks = np.maximum(copies * early + before * (style.expert_hidden_carried * hidden), copies * late)
        working, last = np.zeros(shape[0] * shape[1]), np.zeros(shape[0] * shape[1])
        np.maximum.at(working, place, peaks)
        last[place] = copies * (style.reorder_hidden * hidden)
        return working.reshape(shape), last.reshape(shape)


def _standing(setup: Setup) -> dict[str, Array]:
    """Return owner -> bytes that stand all the time [devices]."""
    devices, model = setup.cluster.size, setup.model
    tokens = setup.tokens.astype(np.float64)
    together = setup.together.astype(np.float64)
    buffers = together * model.token_bytes * setup.kernels.token_buffers
    native, replicas = _expert_bytes(setup, setup.placement)
    if setup.memory.replicated_experts:
        everything = float(setup.expert_bytes.sum())
        native, replicas = np.full(devices, everything), np.zeros(devices)
    others = (tokens.sum() - tokens) * model.token_bytes if setup.memory.other_inputs else np.zeros(devices)
    resident, cache = float(model.resident_bytes), np.zeros(devices)
    if setup.workload.moe_only:
        resident = 0.0
    elif not setup.overlap.trains:
        # A decoded token continues a sequence of its own; prefill tokens fill prompts.
        context = setup.workload.context
        sequences = together if setup.workload.phase == "decode" else np.ceil(together / context)
        cache = sequences * model.sequence_bytes(context)
    gradients = {"gradients": gradient_bytes(setup, setup.placement)} if setup.overlap.trains else {}
    return {
        "model weights": np.full(devices, resident),
        "experts": native,
        "expert replicas": replicas,
        "KV cache": cache,
        "tokens": buffers,
        "inputs of other devices": others,
        "reserve": np.full(devices, float(setup.memory.reserve)),
        **gradients,
    }


def _expert_bytes(setup: Setup, placement: Placement) -> tuple[Array, Array]:
    """Return bytes of experts and of their further copies [devices].

    Of an expert with r copies each holder books one r-th as the expert and the rest as replica.
    """
    layer, device, slot = np.nonzero(placement.slots >= 0)
    expert = placement.slots[layer, device, slot]
    size = setup.expert_bytes[layer, expert]
    own = size * setup.parallel.expert_tp / placement.replicas[layer, expert]
    native, extra = (
        np.bincount(device, weights=amount, minlength=placement.devices) for amount in (own, size - own)
    )
    return native.astype(np.float64), extra.astype(np.float64)
