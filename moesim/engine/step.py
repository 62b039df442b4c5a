"""One step: plan it, price it, run it, and say what took how long."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.engine.bound import BoundPricer
from moesim.engine.events import Transfers, simulate_events
from moesim.engine.exchange import ExchangeCosts
from moesim.engine.expert_costs import ExpertCosts, ExpertPricer
from moesim.engine.gather import exchange_pricer
from moesim.engine.memory import MemoryModel
from moesim.engine.own_costs import own_costs
from moesim.engine.setup import Setup, blamed
from moesim.engine.timeline import Segments, Timeline, lock_step
from moesim.errors import InputError
from moesim.policies.plan import DispatchPlan
from moesim.routing.load import Load

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StepRecord:
    """What happened in one step.

    Attributes:
        step: number of the step.
        load: what the routing asked for.
        plan: what the policy decided.
        experts: what the experts took.
        exchange: what the network was asked to carry.
        segments: what every device did between collectives.
        timeline: when.
        planning: planning seconds [MoE layers].
        bound_layers: lower bound per transformer layer, network apart [layers].
        bound: lower bound of the step (s).
    """

    step: int
    load: Load
    plan: DispatchPlan
    experts: ExpertCosts
    exchange: ExchangeCosts
    segments: Segments
    timeline: Timeline
    planning: Array
    bound_layers: Array
    bound: float


class StepRunner:
    """Runs the steps of one setup; holds what does not change between them."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.own = own_costs(setup)
        self.experts = ExpertPricer(setup)
        self.exchange = exchange_pricer(setup)
        self.bound = BoundPricer(setup, self.own)
        self.memory = MemoryModel(setup)
        self.now = 0.0
        dispatch = setup.policy.dispatch
        self.planning = dispatch.planning_seconds(setup.model.experts, setup.view.devices)
        if not 0 <= self.planning < math.inf:
            message = f"dispatch policy '{dispatch.name}' plans for {self.planning} seconds"
            raise InputError(message, hint="planning_seconds must return a number from 0 up")
        self.before, self.after = self.own.segments(setup.moe_rows)

    def run(self, step: int) -> StepRecord:
        """Plan, price and run one step.

        Raises:
            InputError: the plan loses or invents copies.
            PolicyError: the policy itself fails.
        """
        setup = self.setup
        load = setup.routing.load(step, setup.rank_tokens)
        with blamed(setup.policy, "planning a step"):
            decided = setup.policy.dispatch.plan(load, setup.rank_placement, setup.view)
        plan = setup.parallel.spread(decided, setup.tokens)
        experts = self.experts.price(plan.assignments)
        self._check(load, plan, experts)
        exchange = self.exchange.price(plan)
        planning = np.where(plan.planned, self.planning, 0.0)
        segments = Segments(
            before=self.before + planning[:, np.newaxis],
            dispatch=exchange.dispatch + exchange.weight_move,
            experts=experts.seconds,
            combine=exchange.combine,
            after=self.after,
        )
        self.memory.observe(step, plan, exchange, self.now)
        timeline = self._times(segments, exchange)
        self.now += timeline.latency
        bound_layers = self.bound.layers(load)
        return StepRecord(
            step=step,
            load=load,
            plan=plan,
            experts=experts,
            exchange=exchange,
            segments=segments,
            timeline=timeline,
            planning=planning,
            bound_layers=bound_layers,
            bound=float(bound_layers.sum()) + self.bound.network(load),
        )

    def _check(self, load: Load, plan: DispatchPlan, experts: ExpertCosts) -> None:
        """Refuse a plan of a third-party policy that a comparison must not believe."""
        copies = experts.copies.sum(axis=1) / self.setup.parallel.expert_tp
        copies = copies + (0 if plan.dropped is None else plan.dropped)
        asked = load.counts.sum(axis=(1, 2))
        wrong = copies != asked
        if wrong.any():
            layer = int(wrong.argmax())
            fault = f"handles {copies[layer]:g} of {asked[layer]} copies in MoE layer {layer}"
        elif not np.allclose(plan.traffic.inbound, experts.copies, rtol=1e-6, atol=1e-6):
            fault = "sends devices other copies than they compute"
        else:
            return
        message = f"dispatch policy '{self.setup.policy.dispatch.name}' {fault}"
        raise InputError(message, hint="moesim.testing.check_dispatch_policy shows where")

    def _times(self, segments: Segments, exchange: ExchangeCosts) -> Timeline:
        if self.setup.detail == "array":
            return lock_step(segments)
        transfers = Transfers(
            exchange.latency,
            exchange.dispatch_links,
            exchange.combine_links,
            self.setup.cluster.network.bandwidth,
        )
        return simulate_events(segments, transfers)
