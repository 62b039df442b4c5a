"""One MoE layer of one iteration: look up, load, compute, on all devices at once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from moesim.engine.offload.demand import LayerDemand
from moesim.engine.offload.machine import (
    ACCESSES,
    CPU,
    HITS,
    LATE,
    LOADS,
    LOW_HITS,
    LOW_LOADS,
    SKIPPED,
    Machine,
)
from moesim.engine.offload.prices import OffloadPrices
from moesim.engine.offload.residency import HIGH, LOW
from moesim.errors import PolicyError
from moesim.policies.misses.base import Choice, MissPolicy, Needed
from moesim.policies.offload.precision import LOW as LOW_CLASS
from moesim.policies.offload.precision import SKIP

Ready = tuple[int, int]
"""Tokens of an expert and its slot, -1 for one that does not stay."""


@dataclass(eq=False)
class Turn:
    """What one device does in one layer.

    Attributes:
        begin: when its experts may begin (s).
        shared: seconds of its shared experts, which run first.
        ready: experts that are there.
        awaited: experts that must arrive, by copy; those without tokens are not computed.
        pending: experts that wait for a slot: expert, tokens, precision.
        cpu: tokens of each expert that runs on the CPU.
        early: tokens of each that the CPU may begin earlier.
        foretold_s: from when on it may (s).
        arrivals: when awaited copies came, with tokens (s).
        experts_s: seconds of experts on the device.
        load_s: seconds in which it waits for weights.
        cpu_s: seconds in which it waits for the CPU.
        end: when all of it is done (s).
        skipped: tokens of skipped experts.
        low: tokens of experts computed in low precision.
        copies: token copies computed, wherever.
        active: experts with at least one.
        busy: intervals of the device: cause, begin, end; only where they are watched.
        cpu_busy: intervals of the CPU.
        hops: tokens on their way to the CPU and results on their way back: stream, begin, end.
    """

    begin: float
    shared: float
    ready: list[Ready] = field(default_factory=list)
    awaited: dict[int, Ready] = field(default_factory=dict)
    pending: deque[tuple[int, int, int]] = field(default_factory=deque)
    cpu: list[int] = field(default_factory=list)
    early: list[int] = field(default_factory=list)
    foretold_s: float = 0.0
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    experts_s: float = 0.0
    load_s: float = 0.0
    cpu_s: float = 0.0
    end: float = 0.0
    skipped: int = 0
    low: int = 0
    copies: int = 0
    active: int = 0
    busy: list[tuple[str, float, float]] = field(default_factory=list)
    cpu_busy: list[tuple[float, float]] = field(default_factory=list)
    hops: list[tuple[str, float, float]] = field(default_factory=list)


@dataclass(eq=False)
class _Line:
    """A device that computes expert by expert: when it is free, what waits, and what runs."""

    free: float
    queue: deque[Ready]
    running: bool = False
    slot: int = -1


class LayerRunner:
    """Runs layers; holds what does not change between them.

    Args:
        machine: caches and links.
        prices: what things take.
        misses: what becomes of absent experts.
        arrival: whether experts run as they arrive, instead of all together.
        hosts: host of each device, for sharing CPUs.
        owned: experts of each MoE layer that each device may hold [devices][MoE layers].
    """

    def __init__(
        self,
        machine: Machine,
        prices: OffloadPrices,
        misses: MissPolicy,
        arrival: bool,
        hosts: Sequence[int],
        owned: Sequence[Sequence[frozenset[int]]],
    ) -> None:
        self.machine, self.prices, self.misses, self.arrival = machine, prices, misses, arrival
        self.hosts, self.owned = hosts, owned
        self.whole = misses.whole
        layers = range(len(prices.weights))
        self._cpu: list[Callable[[int], float]] = [partial(prices.cpu, layer) for layer in layers]
        self._alone: dict[tuple[int, float], float] = {}
        self._cpu_free: dict[int, float] = {}

    def begin(
        self, device: int, layer: int, demand: LayerDemand, turn: Turn, step: int, prefill: bool
    ) -> None:
        """Look the experts of a layer up and ask for those that are to be loaded."""
        machine = self.machine
        residency = machine.residency[device]
        counts = machine.counts[device][layer]
        needed = set(demand.experts)
        if not demand.experts:
            machine.pin(device, layer, ())
            machine.settle(device, layer, needed)
            return
        residency.see(step, layer, demand.ids, demand.weights, demand.precision)
        cache = residency.caches[layer]
        high, low = residency.stores[HIGH], residency.stores[-1] if len(residency.stores) > 1 else None
        first = residency.firsts[layer]
        counts[ACCESSES] += len(demand.experts)
        there: list[bool] = []
        experts: list[int] = []
        tokens: list[int] = []
        kinds: dict[int, int] = {}
        in_low: set[int] = set()
        coming: dict[int, float] = {}
        for place, (expert, count) in enumerate(zip(demand.experts, demand.tokens, strict=True)):
            slot = first + expert
            wanted = HIGH if demand.classes is None else demand.classes[place]
            if slot in high.resident[cache]:
                counts[HITS] += 1
                turn.ready.append((count, slot))
                here = True
            elif (number := high.coming[cache].get(slot)) is not None:
                self._await(device, number, (count, slot), counts, turn)
                here = True
                coming[expert] = self._left(device, layer, number, turn.begin)
            elif wanted == HIGH or (low is None and wanted == LOW_CLASS):
                kinds[expert] = HIGH
                here = False
            elif low is not None and slot in low.resident[cache]:
                counts[HITS] += 1
                counts[LOW_HITS] += 1
                in_low.add(expert)
                turn.low += count
                turn.ready.append((count, slot))
                here = True
            elif low is not None and (number := low.coming[cache].get(slot)) is not None:
                in_low.add(expert)
                turn.low += count
                self._await(device, number, (count, slot), counts, turn)
                here = True
                coming[expert] = self._left(device, layer, number, turn.begin)
            elif wanted == SKIP:
                counts[SKIPPED] += 1
                turn.skipped += count
                continue
            else:
                kinds[expert] = LOW
                in_low.add(expert)
                here = False
            experts.append(expert)
            tokens.append(count)
            there.append(here)
        turn.copies, turn.active = sum(tokens), len(experts)
        machine.pin(device, layer, needed - in_low if in_low else needed, in_low)
        if self.whole:
            self._await_layer(device, layer, turn)
        if kinds or self.misses.uses_cpu or self.whole:
            self._misses(device, layer, turn, (experts, tokens, there, kinds, coming), prefill, step)
        machine.settle(device, layer, needed)

    def _await(self, device: int, number: int, expert: Ready, counts: list[int], turn: Turn) -> None:
        counts[LATE] += 1
        turn.awaited[number] = expert
        self.machine.loader.hurry(device, number)

    def _await_layer(self, device: int, layer: int, turn: Turn) -> None:
        """Wait for the experts of a layer that are on their way, needed or not."""
        residency = self.machine.residency[device]
        first = 0 if residency.per_layer else layer * residency.frame.experts
        for store in residency.stores:
            for slot, number in store.coming[residency.caches[layer]].items():
                if first <= slot < first + residency.frame.experts and number not in turn.awaited:
                    turn.awaited[number] = (0, slot)
                    self.machine.loader.hurry(device, number)

    def _misses(
        self,
        device: int,
        layer: int,
        turn: Turn,
        looked_up: tuple[list[int], list[int], list[bool], dict[int, int], dict[int, float]],
        prefill: bool,
        step: int,
    ) -> None:
        """Let the policy choose between links and CPU, and do what it says."""
        machine = self.machine
        experts, tokens, there, kinds, coming = looked_up
        counts = machine.counts[device][layer]
        absent: tuple[int, ...] = ()
        if self.whole:
            held = machine.residency[device].present[layer]
            absent = tuple(sorted(self.owned[device][layer] - held))
        size = machine.sizes[HIGH][layer][experts[0]] if experts else 0.0
        needed = Needed(
            tuple(experts),
            tuple(tokens),
            tuple(there),
            absent,
            prefill,
            self._cpu[layer],
            lambda count: self.prices.experts(device, layer, (count,)),
            self._load_alone(device, size),
            self.prices.processor.first,
            turn.shared,
            step,
            layer,
            tuple(coming.get(expert, 0.0) for expert in experts),
        )
        choice = self.misses.choose(needed)
        copies = dict(zip(experts, tokens, strict=True))
        self._check(choice, kinds, copies, absent)
        for expert in choice.cpu:
            counts[CPU] += 1
            if expert in choice.early:
                turn.early.append(copies[expert])
            else:
                turn.cpu.append(copies[expert])
            counts[LATE] -= expert in coming
            if expert not in kinds:
                # It is there or on its way, but the CPU takes it: the device has one less to compute.
                slot = machine.residency[device].firsts[layer] + expert
                self._leave_to_cpu(device, (copies[expert], slot), turn)
        for expert in choice.loads:
            precision = kinds.get(expert, HIGH)
            count = copies.get(expert, 0)
            counts[LOADS if precision == HIGH else LOW_LOADS] += 1
            if precision == LOW:
                turn.low += count
            number = machine.ask(device, layer, expert, precision, turn.begin)
            if number is None:
                turn.pending.append((expert, count, precision))
            else:
                residency = machine.residency[device]
                turn.awaited[number] = (count, -1 if residency.fixed else residency.firsts[layer] + expert)

    def _check(
        self, choice: Choice, kinds: dict[int, int], copies: dict[int, int], absent: tuple[int, ...]
    ) -> None:
        """Refuse choices after which experts would be computed twice or not at all.

        Raises:
            PolicyError: the policy breaks its contract.
        """
        loads, cpu = set(choice.loads), set(choice.cpu)
        if not kinds.keys() <= loads | cpu:
            fault = f"nothing becomes of expert {min(kinds.keys() - loads - cpu)}"
        elif loads & cpu:
            fault = f"expert {min(loads & cpu)} is loaded and runs on the CPU"
        elif not cpu <= copies.keys():
            fault = f"expert {min(cpu - copies.keys())} runs on the CPU and is not needed"
        elif not loads <= kinds.keys() | set(absent):
            fault = f"expert {min(loads - kinds.keys() - set(absent))} is loaded and is there"
        else:
            return
        raise PolicyError(self.misses.name, "choosing what becomes of misses", fault)

    def _leave_to_cpu(self, device: int, expert: Ready, turn: Turn) -> None:
        """Take an expert that the device holds or awaits off its list, and let it leave."""
        if expert in turn.ready:
            turn.ready.remove(expert)
        else:
            number = next(number for number, awaited in turn.awaited.items() if awaited == expert)
            del turn.awaited[number]
        self.machine.unpin(device, expert[1])

    def _left(self, device: int, layer: int, number: int, now: float) -> float:
        """Return how long a copy under way takes until it arrives (s), as if it had been alone on its way."""
        flight = self.machine.flights[number]
        size = self.machine.sizes[flight.precision][layer][flight.expert]
        return max(0.0, self._load_alone(device, size) - (now - flight.asked))

    def _load_alone(self, device: int, size: float) -> float:
        key = (device, size)
        if key not in self._alone:
            self._alone[key] = self.machine.loader.alone(device, size)
        return self._alone[key]

    def finish(self, layer: int, turns: Sequence[Turn], watched: bool) -> None:
        """Let copies arrive and experts run until the layer is done on every device."""
        crowded = any(turn.pending for turn in turns)
        if crowded:
            self._crowded(layer, turns, watched)
        elif any(turn.awaited for turn in turns):
            self._arrive(turns)
        for device, turn in enumerate(turns):
            if not crowded:
                self._compute(device, layer, turn, watched)
            if turn.cpu or turn.early:
                self._on_cpu(device, layer, turn)

    def _on_cpu(self, device: int, layer: int, turn: Turn) -> None:
        """Run a device's share of a layer on its host's CPU, which the devices of a host use in turn."""
        host, first = self.hosts[device], self.prices.processor.first
        now = self._cpu_free.get(host, 0.0)
        for tokens, since in ((turn.early, turn.foretold_s), (turn.cpu, turn.begin)):
            if tokens:
                there = since + self.prices.to_cpu(sum(tokens))
                turn.hops.append(("copy out", since, there))
                begin = max(there, now)
                now = begin + first + sum(map(self._cpu[layer], tokens))
                turn.cpu_busy.append((begin, now))
                first = 0.0
        self._cpu_free[host] = now
        done = now + self.prices.from_cpu(sum(turn.cpu) + sum(turn.early))
        turn.hops.append(("copy in", now, done))
        turn.cpu_s = max(0.0, done - turn.end)
        turn.end = max(turn.end, done)

    def _arrive(self, turns: Sequence[Turn]) -> None:
        """Wait for all copies that are awaited."""
        machine = self.machine
        loader = machine.loader
        left = sum(len(turn.awaited) for turn in turns)
        while left:
            event = loader.next_event()
            for copied in loader.advance(event):
                flight = machine.arrived(copied)
                turn = turns[flight.device]
                if copied.copy in turn.awaited:
                    turn.arrivals.append((copied.finish, turn.awaited[copied.copy][0]))
                    left -= 1
                    if not flight.stays:
                        machine.left(flight.device)
                machine.feed(flight.device, event)

    def _compute(self, device: int, layer: int, turn: Turn, watched: bool) -> None:
        """Lay the device's work of a layer out in time, all arrivals being known."""
        now = turn.begin + turn.shared
        work: list[tuple[float, tuple[int, ...]]] = []
        if self.arrival or not turn.arrivals:
            work = [(now, tuple(count for count, _ in turn.ready))]
            work += [(when, (count,)) for when, count in turn.arrivals]
        else:
            last = max(when for when, _ in turn.arrivals)
            there = (count for count, _ in turn.ready)
            work = [(last, (*there, *(count for _, count in turn.arrivals)))]
        if watched and turn.shared:
            turn.busy.append(("dense", turn.begin, now))
        for when, group in work:
            turn.load_s += max(0.0, when - now)
            now = max(now, when)
            counts = tuple(count for count in group if count)
            if counts:
                seconds = self.prices.experts(device, layer, counts)
                turn.experts_s += seconds
                if watched:
                    turn.busy.append(("experts", now, now + seconds))
                now += seconds
        turn.end = now

    def _crowded(self, layer: int, turns: Sequence[Turn], watched: bool) -> None:
        """Run a layer whose experts do not all fit: a slot is free again when its expert has been computed.

        Experts run one by one as they are there, whatever ``arrival`` says.
        """
        loader = self.machine.loader
        lines = [_Line(turn.begin + turn.shared, deque(turn.ready)) for turn in turns]
        for device, turn in enumerate(turns):
            if watched and turn.shared:
                turn.busy.append(("dense", turn.begin, lines[device].free))
            self._start(device, layer, turn, lines[device], turn.begin, watched)
        while any(turn.pending or turn.awaited for turn in turns) or any(line.running for line in lines):
            ends = [line.free if line.running else math.inf for line in lines]
            soonest = min(ends)
            now = min(soonest, loader.next_event())
            for copied in loader.advance(now):
                flight = self.machine.arrived(copied)
                if copied.copy in turns[flight.device].awaited:
                    lines[flight.device].queue.append(turns[flight.device].awaited.pop(copied.copy))
            for device, (turn, line) in enumerate(zip(turns, lines, strict=True)):
                if line.running and line.free <= now:
                    self._done(device, line)
                self._ask_pending(device, layer, turn, now)
                self.machine.feed(device, now)
                self._start(device, layer, turn, line, now, watched)
        for turn, line in zip(turns, lines, strict=True):
            turn.end = line.free

    def _start(self, device: int, layer: int, turn: Turn, line: _Line, now: float, watched: bool) -> None:
        """Begin the next expert of a device that has nothing to do."""
        if line.running or not line.queue:
            return
        line.running = True
        count, line.slot = line.queue.popleft()
        begin = max(line.free, now)
        seconds = self.prices.experts(device, layer, (count,)) if count else 0.0
        turn.load_s += begin - line.free
        turn.experts_s += seconds
        line.free = begin + seconds
        if watched and seconds:
            turn.busy.append(("experts", begin, line.free))

    def _done(self, device: int, line: _Line) -> None:
        """Let what has been computed leave."""
        line.running = False
        if line.slot < 0:
            self.machine.left(device)
        self.machine.unpin(device, line.slot)

    def _ask_pending(self, device: int, layer: int, turn: Turn, now: float) -> None:
        """Ask for experts that waited for a slot, as many as fit now."""
        residency = self.machine.residency[device]
        while turn.pending:
            expert, count, precision = turn.pending[0]
            number = self.machine.ask(device, layer, expert, precision, now)
            if number is None:
                return
            turn.pending.popleft()
            turn.awaited[number] = (count, -1 if residency.fixed else residency.firsts[layer] + expert)
