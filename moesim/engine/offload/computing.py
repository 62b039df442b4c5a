"""One MoE layer of one iteration, its experts looked up: copies arrive, devices and CPUs compute."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from moesim.engine.offload.machine import Machine
from moesim.engine.offload.prices import OffloadPrices
from moesim.engine.offload.turn import Ready, Turn


@dataclass(eq=False)
class _Line:
    """A device that computes expert by expert: when it is free, what waits, and what runs."""

    free: float
    queue: deque[Ready]
    running: bool = False
    slot: int = -1


class Computing:
    """Lays out what devices and CPUs do in a layer.

    Args:
        machine: caches and links.
        prices: what things take.
        arrival: whether experts run as they arrive, instead of all together.
        hosts: host of each device, for sharing CPUs.
    """

    def __init__(self, machine: Machine, prices: OffloadPrices, arrival: bool, hosts: Sequence[int]) -> None:
        self.machine, self.prices, self.arrival, self.hosts = machine, prices, arrival, hosts
        self._cpu_free: dict[int, float] = {}

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
                now = begin + first + sum(map(partial(self.prices.cpu, layer), tokens))
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
