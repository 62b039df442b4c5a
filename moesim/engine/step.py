"""One step: plan it, price it, run it, and say what took how long."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.engine.bound import BoundPricer
from moesim.engine.events import Transfers, simulate_events
from moesim.engine.exchange import ExchangeCosts
from moesim.engine.expert_costs import ExpertCosts
from moesim.engine.exposure import overhang
from moesim.engine.host import HOST_CAUSES, launch_waits
from moesim.engine.memory import MemoryModel
from moesim.engine.micro_batches import joined_exchange, joined_experts, joined_plans, micro_batches, split
from moesim.engine.overlap import schedule
from moesim.engine.own_work import OwnWork
from moesim.engine.refresher import Refresher, Transition
from moesim.engine.setup import Setup, blamed
from moesim.engine.timeline import Segments, Timeline, lock_step
from moesim.errors import InputError
from moesim.policies.plan import DispatchPlan
from moesim.routing.load import Load

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_REMEMBERED = 64
"""Steps whose loads policies may look back on."""


@dataclass(frozen=True, eq=False)
class StepRecord:
    """What happened in one step, all micro-batches together.

    Attributes:
        step: number of the step.
        load: what the routing asked for.
        plan: what the policy decided.
        experts: what the experts took.
        exchange: what the network was asked to carry.
        exchanges: the same by micro-batch.
        segments: what every device and the network did, by micro-batch.
        timeline: when.
        migration: seconds that the step first waits for a new placement's weights [MoE layers].
        migration_links: bytes per link of weights that begin to migrate [links].
        migrated_bytes: these weights.
        host: seconds in which devices wait for their host, by cause [micro-batches, MoE layers] each.
        overhang: seconds by which weight moves outlast the dispatch beside them [micro-batches, MoE layers].
        bound_layers: lower bound per transformer layer, network apart [layers].
        bound: lower bound of the step (s).
    """

    step: int
    load: Load
    plan: DispatchPlan
    experts: ExpertCosts
    exchange: ExchangeCosts
    exchanges: list[ExchangeCosts]
    segments: Segments
    timeline: Timeline
    migration: Array
    migration_links: Array
    migrated_bytes: float
    host: Mapping[str, Array]
    overhang: Array
    bound_layers: Array
    bound: float


class StepRunner:
    """Runs the steps of one setup; holds what does not change between them."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.batches = micro_batches(setup)
        self.schedule = schedule(setup.overlap, len(setup.moe_rows))
        self.bound = BoundPricer(setup, [own.costs for own in self.own])
        self.memory = MemoryModel(setup)
        self.refresher = Refresher(setup, self.batches[0].exchange)
        self.still = self.refresher.nothing()
        self.now = 0.0
        self.recent: deque[Counts] = deque(maxlen=_REMEMBERED)
        self.view = setup.view
        if self.view.past is not None:
            self.view = replace(self.view, past=replace(self.view.past, recent_of=self._last))
        dispatch = setup.policy.dispatch
        self.planning = dispatch.planning_seconds(setup.model.experts, setup.view.devices)
        if not 0 <= self.planning < math.inf:
            message = f"dispatch policy '{dispatch.name}' plans for {self.planning} seconds"
            raise InputError(message, hint="planning_seconds must return a number from 0 up")

    @property
    def own(self) -> list[OwnWork]:
        """What devices do by themselves in each micro-batch."""
        return [batch.own for batch in self.batches]

    def run(self, step: int) -> StepRecord:
        """Plan, price and run one step.

        Raises:
            InputError: the plan loses or invents copies.
            PolicyError: the policy itself fails.
        """
        transition = self._refresh(step)
        setup = self.setup
        load = setup.routing.load(step, setup.rank_tokens)
        self.refresher.observe(load)
        plans, experts, exchanges = self._plans(load), [], []
        for batch, plan in zip(self.batches, plans, strict=True):
            computed, sent = batch.price(plan)
            experts.append(computed)
            exchanges.append(sent)
        host = {
            "launch": np.stack(
                [
                    launch_waits(batch.setup, batch.own, computed, sent)
                    for batch, computed, sent in zip(self.batches, experts, exchanges, strict=True)
                ]
            ),
            "planning": np.stack(
                [
                    np.where(plan.planned, 0.0 if batch.backward else self.planning, 0.0)
                    for batch, plan in zip(self.batches, plans, strict=True)
                ]
            ),
        }
        segments = self._segments(host, experts, exchanges)
        self.recent.append(load.per_expert)
        plan, sent = joined_plans(plans), joined_exchange(exchanges)
        self.memory.observe(step, plan, sent, self.now)
        timeline = self._times(segments, exchanges)
        if transition.seconds.any():
            timeline = timeline.after(float(transition.seconds.sum()))
        self.now += timeline.latency
        bound_layers, bound = self.bound.of_step(step, load, self._computed(plan))
        return StepRecord(
            step=step,
            load=load,
            plan=plan,
            experts=joined_experts(experts, plan),
            exchange=sent,
            exchanges=exchanges,
            segments=segments,
            timeline=timeline,
            migration=transition.seconds,
            migration_links=transition.links,
            migrated_bytes=transition.moved_bytes,
            host=host,
            overhang=overhang(
                timeline,
                np.stack([one.dispatch for one in exchanges]),
                np.stack([one.weight_move for one in exchanges]),
            ),
            bound_layers=bound_layers,
            bound=bound,
        )

    def _plans(self, load: Load) -> list[DispatchPlan]:
        """Plan the micro-batches of a load; a forward and a backward pass follow one plan."""
        setup, batches, loads = self.setup, self.batches, [load]
        if setup.overlap.trains:
            batches = batches[:1]
        elif len(batches) > 1:
            loads = split(load, batches[0].setup.rank_tokens)
        plans = []
        for batch, part in zip(batches, loads, strict=True):
            with blamed(setup.policy, "planning a step"):
                decided = setup.policy.dispatch.plan(part, setup.rank_placement, self.view)
            plan = setup.parallel.spread(decided, batch.setup.tokens)
            self._check(part, plan)
            plans.append(plan)
        return plans * (len(self.batches) // len(plans))

    def _refresh(self, step: int) -> Transition:
        """Let the placement follow the loads."""
        transition = self.refresher.before(step, self.now)
        if transition is None:
            return self.still
        self.memory.migrate(step, transition.layer, transition.beside, self.now)
        if transition.changed:
            ranks = self.refresher.placement
            self.setup = self.setup.with_placement(ranks)
            first = self.batches[0]
            placed = first.placed(ranks)
            self.batches = [placed if batch is first else batch.placed(ranks) for batch in self.batches]
            self.bound.place(self.setup.placement)
            self.memory.place(self.setup.placement)
        self.memory.staged = transition.staged
        return transition

    def _computed(self, plan: DispatchPlan) -> npt.NDArray[np.int64] | None:
        """Return the copies that experts compute [MoE layers, experts] if they are not those asked for."""
        if plan.changed is None or not plan.changed.any():
            return None
        layers, experts = len(self.setup.moe_rows), self.setup.model.experts
        return plan.assignments.per_expert(layers, experts) // self.setup.parallel.expert_tp

    def _last(self, count: int) -> Counts:
        """Return copies per expert of the last steps, int64 [steps, layers, experts]."""
        steps = list(self.recent)[-count:]
        return np.stack(steps) if steps else np.zeros((0, 0, 0), dtype=np.int64)

    def _segments(
        self, host: Mapping[str, Array], experts: list[ExpertCosts], exchanges: list[ExchangeCosts]
    ) -> Segments:
        """Lay out the work of all micro-batches."""
        own = [batch.own for batch in self.batches]
        before = np.stack([one.before for one in own])
        for cause in HOST_CAUSES:
            for batch, waits in enumerate(host[cause]):
                # A backward pass dispatches the gradients of a layer after what follows it in a forward pass.
                ahead = slice(1, None) if own[batch].backward else slice(-1)
                before[batch, ahead] += waits[:, np.newaxis]
        return Segments(
            first=np.stack([one.first for one in own]),
            before=before,
            shared=np.stack([one.shared for one in own]),
            experts=np.stack([one.seconds for one in experts]),
            exchange=np.stack([[one.dispatch + one.weight_move, one.combine] for one in exchanges]),
            own_weights=np.stack([one.own_weights for one in own]),
            expert_weights=np.stack([one.weights for one in experts]),
        )

    def _check(self, load: Load, plan: DispatchPlan) -> None:
        """Refuse a plan of a third-party policy that a comparison must not believe."""
        rows, shape = plan.assignments, plan.traffic.inbound.shape
        keys = rows.layer * shape[1] + rows.device
        computed = np.bincount(keys, weights=rows.copies, minlength=shape[0] * shape[1]).reshape(shape)
        copies = computed.sum(axis=1) / self.setup.parallel.expert_tp
        copies = copies + (0 if plan.dropped is None else plan.dropped)
        asked = load.per_expert.sum(axis=1)
        wrong = copies != asked
        if wrong.any():
            layer = int(wrong.argmax())
            fault = f"handles {copies[layer]:g} of {asked[layer]} copies in MoE layer {layer}"
        elif not np.allclose(plan.traffic.inbound, computed, rtol=1e-6, atol=1e-6):
            fault = "sends devices other copies than they compute"
        else:
            return
        message = f"dispatch policy '{self.setup.policy.dispatch.name}' {fault}"
        raise InputError(message, hint="moesim.testing.check_dispatch_policy shows where")

    def _times(self, segments: Segments, exchanges: list[ExchangeCosts]) -> Timeline:
        if self.setup.detail == "array":
            return lock_step(self.schedule, segments)
        transfers = Transfers(
            latency=np.stack([one.latency for one in exchanges]),
            links=np.stack([[one.dispatch_links, one.combine_links] for one in exchanges]),
            bandwidth=self.setup.cluster.network.bandwidth,
        )
        return simulate_events(self.schedule, segments, transfers)
