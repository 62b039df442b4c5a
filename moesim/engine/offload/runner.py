"""Runs an offloading policy: iteration by iteration, layer by layer, with copies in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moesim.engine.exchange import ExchangeCosts
from moesim.engine.micro_batches import MicroBatch
from moesim.engine.offload.demand import Demand, Demands, Iteration, iterations
from moesim.engine.offload.layer import LayerRunner
from moesim.engine.offload.loader import Loader
from moesim.engine.offload.machine import CopySpan, Machine
from moesim.engine.offload.plans import Held, Part, Plans
from moesim.engine.offload.prices import OffloadPrices, Own
from moesim.engine.offload.residency import HIGH, LOW, Residency
from moesim.engine.offload.sizes import Sizes, sizes_of
from moesim.engine.offload.turn import Turn
from moesim.engine.setup import Setup, blamed
from moesim.policies.offload.hybrimoe import ExpertTimes
from moesim.policies.offload.precision import SKIP
from moesim.policies.prefetch.base import Ints, NoPrefetch, Outlook, PrefetchFrame
from moesim.routing.requests import token_source

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class IterationRecord:
    """What happened in one iteration.

    Attributes:
        iteration: which.
        demand: what it asked for.
        own: what devices do by themselves.
        begin: when it began (s).
        end: when it ended (s).
        planning: seconds of predictions.
        turns: what each device did in each MoE layer [MoE layers][devices].
        exchange: what the network was asked to carry; None on one device.
        dispatched: seconds of dispatch and combine [2, MoE layers].
        bound: lower bound of experts and shared experts [MoE layers] (s).
        spans: copies that arrived, where they are recorded.
        counts: totals of the run so far, by what is counted.
        loaded_bytes: bytes loaded on demand and by prefetches so far.
        wasted_bytes: of these, prefetched for nothing so far.
    """

    iteration: Iteration
    demand: Demand
    own: Own
    begin: float
    end: float
    planning: float
    turns: list[list[Turn]]
    exchange: ExchangeCosts | None
    dispatched: Array
    bound: Array
    spans: list[CopySpan]
    counts: Ints
    loaded_bytes: tuple[float, float]
    wasted_bytes: float


class OffloadRunner:
    """Runs the iterations of one setup whose policy offloads.

    Raises:
        InputError: the pieces of the setup do not fit together.
    """

    def __init__(self, setup: Setup) -> None:
        offload = setup.policy.offload
        assert offload is not None
        self.setup, self.offload = setup, offload
        self.source = token_source(setup.routing)
        self.sequences = int(setup.tokens[0])
        self.sizes: Sizes = sizes_of(setup, offload, self.source)
        self.prices = OffloadPrices(setup, self.sizes.narrow)
        self.loader = Loader(setup.cluster, self.sizes.store, offload.settings.pinned, self.sizes.chunk)
        mix = offload.cache.precisions()
        weighted = offload.cache.needs_weights or mix is not None
        devices, regrouped = setup.cluster.size, offload.settings.regroup
        self._demands: Callable[[], Demands] = lambda: Demands(
            self.source,
            setup.workload,
            devices,
            self.sequences,
            setup.model.experts,
            mix,
            weighted,
            regrouped,
        )
        self.demands = self._demands()
        self.machine = Machine(
            self.loader,
            [self._residency(device) for device in range(devices)],
            self.prices.bytes,
            1.0 if mix is None else mix.low_size,
            offload.settings.staging,
        )
        host = setup.cluster.shape.host
        assert host is not None
        first = [int(np.flatnonzero(setup.cluster.node_of == node)[0]) for node in setup.cluster.node_of]
        hosts = [
            int(setup.cluster.node_of[device]) * 65536 + (device - first[device]) // host.devices_per_host
            for device in range(devices)
        ]
        self.layers = LayerRunner(
            self.machine,
            self.prices,
            offload.misses,
            offload.settings.compute == "arrival",
            hosts,
            self.sizes.owned,
        )
        profile, sequence = self.sizes.profile, self.sizes.profile_sequence
        frame = PrefetchFrame(
            len(setup.moe_rows),
            setup.model.experts,
            setup.model.top_k,
            profile,
            sequence,
            int(setup.seed),
        )
        caches = self.machine.residency
        self.resident: Sequence[AbstractSet[int]] = caches[0].present if devices == 1 else Held(caches)
        self.predicts = not isinstance(offload.prefetch, NoPrefetch)
        self.times = self._times() if offload.misses.uses_cpu else None
        self.predictor = offload.prefetch.start(frame)
        self.batch = MicroBatch.of(setup) if devices > 1 else None
        self.now = 0.0
        self._iterations = iterations(setup.workload, self.sequences, regrouped)
        self.owner = self.sizes.owner

    def run(self) -> Iterator[IterationRecord]:
        """Run all iterations that are left, one after another."""
        for iteration in self._iterations:
            yield self._run(iteration)

    def step(self) -> IterationRecord:
        """Run the next iteration."""
        return self._run(next(self._iterations))

    def _times(self) -> ExpertTimes:
        """Return what an expert with one token takes, for predictors that weigh processors."""
        prices, size = self.prices, float(self.prices.bytes[0].max())
        return ExpertTimes(
            prices.cpu(0, 1),
            prices.processor.first,
            prices.experts(0, 0, (1,)),
            0.0,
            self.loader.alone(0, size),
        )

    def _residency(self, device: int) -> Residency:
        offload, sizes = self.offload, self.sizes
        frame = sizes.frames[device]
        if offload.cache.oracle:
            frame = replace(frame, future=self._future(device))
        residency = Residency(offload.cache, frame, offload.cache.precisions())
        if sizes.warmth is not None:
            worth = np.where(sizes.mask[device], sizes.warmth, -np.inf)
            residency.fill(worth.reshape(frame.caches, frame.slots))
        return residency

    def _future(self, device: int) -> Ints:
        """Return what the caches of a device will be asked for, [steps, caches, most experts]."""
        frame = self.sizes.frames[device]
        mine = self.sizes.owned[device]
        asked: list[list[list[int]]] = []
        for demand in self._demands().everything():
            rows = [
                [expert for expert in layer.experts if expert in mine[row]]
                for row, layer in enumerate(demand.layers)
            ]
            if frame.caches == frame.layers:
                asked.append(rows)
            else:
                asked += [
                    [[row * frame.experts + expert for expert in experts]] for row, experts in enumerate(rows)
                ]
        most = max((len(experts) for step in asked for experts in step), default=1)
        found = np.full((len(asked), frame.caches, max(1, most)), -1, dtype=np.int64)
        for step, rows in enumerate(asked):
            for cache, experts in enumerate(rows):
                found[step, cache, : len(experts)] = experts
        return found

    def _run(self, iteration: Iteration) -> IterationRecord:
        setup, machine = self.setup, self.machine
        demand = self.demands.of(iteration)
        own = self._own(iteration)
        if iteration.new:
            for residency in machine.residency:
                residency.state.reset()
            self.predictor.reset()
        watched = iteration.number < setup.span_steps
        machine.watched, machine.spans = watched, []
        begin = self.now
        plans = self._plan(demand)
        planning = self.offload.prefetch.seconds(len(demand.layers)) if self.predicts else 0.0
        self.now += planning
        before = own.before.max(axis=1).tolist()
        shared = own.shared.tolist()
        if self.predicts:
            machine.run_to(self.now)
            self._predict(iteration, demand, -1)
            for device in range(len(machine.residency)):
                machine.feed(device, self.now)
        turns: list[list[Turn]] = []
        exchange, dispatched = plans.exchange, np.zeros((2, len(demand.layers)))
        if exchange is not None:
            dispatched = np.stack([exchange.dispatch, exchange.combine])
        ways = dispatched.tolist()
        prefill = iteration.phase == "prefill"
        for layer, whole in enumerate(demand.layers):
            at = self.now + before[layer] + ways[0][layer]
            machine.run_to(at)
            row = [Turn(at, shared[layer][device]) for device in range(len(machine.residency))]
            for device, turn in enumerate(row):
                turn.foretold_s = turns[-1][device].begin if turns else at
                mine = whole if plans.parts is None else plans.parts[device][layer]
                self.layers.begin(device, layer, mine, turn, iteration.number, prefill)
            if self.predicts:
                self.predictor.see(layer, demand.ids[:, layer])
                self._predict(iteration, demand, layer)
                for device in range(len(row)):
                    machine.feed(device, at)
            self.layers.finish(layer, row, watched)
            for device, residency in enumerate(machine.residency):
                if residency.passing:
                    residency.leave(layer)
                    machine.feed(device, row[device].end)
            turns.append(row)
            self.now = max(turn.end for turn in row) + ways[1][layer]
        self.now += before[-1]
        machine.run_to(self.now)
        return IterationRecord(
            iteration=iteration,
            demand=demand,
            own=own,
            begin=begin,
            end=self.now,
            planning=planning,
            turns=turns,
            exchange=exchange,
            dispatched=dispatched,
            bound=self.prices.least(self._computed(demand, turns), own.shared),
            spans=machine.spans,
            counts=np.asarray(machine.counts, dtype=np.int64),
            loaded_bytes=(machine.loaded_bytes[0], machine.loaded_bytes[1]),
            wasted_bytes=machine.wasted_bytes,
        )

    def _own(self, iteration: Iteration) -> Own:
        served = self.setup.workload.requests
        if iteration.phase == "prefill" or served is None:
            return self.prices.own(iteration.phase, iteration.tokens, iteration.context)
        first, last = served.prompt + 1, served.prompt + max(1, served.output - 1)
        return self.prices.decoding(iteration.tokens, first, last, iteration.context)

    def _computed(self, demand: Demand, turns: list[list[Turn]]) -> Ints:
        """Return the copies that are computed in their layer [MoE layers, experts].

        Skipped experts have none, nor have those that a CPU could begin before the layer did.
        """
        copies = demand.copies.copy()
        for layer, (asked, row) in enumerate(zip(demand.layers, turns, strict=True)):
            for turn in row:
                for expert, tokens in zip(turn.foretold, turn.early, strict=True):
                    copies[layer, expert] -= tokens
            if asked.classes is not None and any(turn.skipped for turn in row):
                for expert, kind in zip(asked.experts, asked.classes, strict=True):
                    if kind == SKIP:
                        copies[layer, expert] = 0
        return copies

    def _plan(self, demand: Demand) -> Plans:
        """Say which device computes what, and what the network takes."""
        if self.batch is None:
            return Plans(None, None)
        setup, devices = self.setup, self.setup.cluster.size
        load = demand.load(devices, setup.model.experts)
        with blamed(setup.policy, "planning a step"):
            plan = setup.policy.dispatch.plan(load, setup.rank_placement, setup.view)
        batch = self.batch
        if not np.array_equal(load.tokens, batch.setup.tokens):
            batch = MicroBatch.of(setup.with_tokens(load.tokens))
        _, exchange = batch.price(plan)
        parts = [[Part() for _ in demand.layers] for _ in range(devices)]
        rows = plan.assignments
        for layer, expert, device, copies in zip(
            rows.layer.tolist(), rows.expert.tolist(), rows.device.tolist(), rows.copies.tolist(), strict=True
        ):
            if copies:
                parts[device][layer].tokens[expert] = int(copies)
        found = [[part.of(demand.layers[layer]) for layer, part in enumerate(device)] for device in parts]
        return Plans(found, exchange)

    def _predict(self, iteration: Iteration, demand: Demand, layer: int) -> None:
        """Ask the predictor what to load next, and hand it to the devices that own it."""
        machine, given = self.machine, self.offload.prefetch.given
        layers = len(demand.layers)

        def truth(target: int) -> Ints:
            known = target < layers
            return demand.ids[:, target] if known else np.zeros((0, demand.ids.shape[2]), dtype=np.int64)

        outlook = Outlook(
            iteration=iteration.number,
            layer=layer,
            tokens=len(demand.ids),
            prefill=iteration.phase == "prefill",
            resident=self.resident,
            slots=self.sizes.slots,
            truth=truth if given else None,
            times=self.times,
        )
        queues, foreseen = machine.wanted, machine.foreseen
        for queue, stays in zip(queues, foreseen, strict=True):
            queue.clear()
            stays.clear()
        for target, expert in self.predictor.wanted(outlook):
            if layer < target < 2 * layers:
                row = target % layers
                device = self.owner[row][expert]
                residency = machine.residency[device]
                slot, cache = residency.firsts[row] + expert, residency.caches[row]
                if slot in residency.stores[HIGH].resident[cache]:
                    foreseen[device].setdefault(cache, set()).add(slot)
                    continue
                kind = self._precision(demand, target, expert) if given else HIGH
                if kind != SKIP:
                    queues[device].append((row, expert, kind))

    def _precision(self, demand: Demand, target: int, expert: int) -> int:
        """Return the precision in which a predicted expert is loaded: that of its predicted weight."""
        if target >= len(demand.layers) or demand.layers[target].classes is None:
            return HIGH
        asked = demand.layers[target]
        kinds = asked.classes
        assert kinds is not None
        if expert not in asked.experts:
            return HIGH
        kind = kinds[asked.experts.index(expert)]
        return HIGH if kind == LOW and len(self.machine.residency[0].stores) == 1 else kind
