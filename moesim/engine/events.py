"""When everything of a step happens, event by event: a SimPy process per device.

Each device runs the stages of the schedule on its compute stream and meets the others at collectives, which
take turns on the network. The network is one process that shares links max-min fairly among all transfers in
flight. The moments it observes fill the same ``Timeline`` as the lock-step level.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from moesim.engine.overlap import Collective, Schedule
from moesim.engine.timeline import Segments, Timeline
from moesim.hardware.fluid import Flow
from moesim.hardware.fluid_live import LiveFluid

Array = npt.NDArray[np.float64]
Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True, eq=False)
class Transfers:
    """What the collectives of a step put on the links.

    Attributes:
        latency: seconds before anything flows [micro-batches, 2 (dispatch, combine), MoE layers].
        links: bytes per link [micro-batches, 2, MoE layers, links].
        bandwidth: bytes/s per link [links].
    """

    latency: Array
    links: Array
    bandwidth: Array

    def of(self, one: Collective) -> tuple[Array, float]:
        """Return bytes per link and latency of a collective."""
        place = one.batch, one.way, one.layer
        return np.asarray(self.links[place]), float(self.latency[place])


class _Fabric:
    """The network as a process: transfers come and go, links are shared max-min fairly."""

    def __init__(self, env: simpy.Environment, bandwidth: Array) -> None:
        self.env = env
        self.fluid = LiveFluid(bandwidth)
        self.done: dict[int, simpy.Event] = {}
        self.changed = env.event()
        env.process(self._run())

    def send(self, links: Array) -> simpy.Event:
        """Put bytes on links; the event fires when the last of them has arrived."""
        event = self.env.event()
        if not links.any():
            return event.succeed()
        self.done[self.fluid.add(Flow(self.env.now, links), self.env.now)] = event
        changed, self.changed = self.changed, self.env.event()
        changed.succeed()
        return event

    def _run(self) -> Process:
        while True:
            upcoming = self.fluid.next_completion()
            if upcoming is None:
                yield self.changed
                continue
            due = self.env.timeout(max(0.0, upcoming[0] - self.env.now))
            yield due | self.changed
            for _, flow in self.fluid.advance(self.env.now):
                self.done.pop(flow).succeed()


class _Meeting:
    """A collective: waits for every device and for the collective ahead in line, runs once, releases all."""

    def __init__(
        self, env: simpy.Environment, fabric: _Fabric, size: int, transfer: tuple[Array, float]
    ) -> None:
        self.env, self.fabric, self.missing = env, fabric, size
        self.links, self.latency = transfer
        self.ahead: _Meeting | None = None
        self.done = env.event()
        self.ready = self.begun = self.ended = 0.0

    def arrive(self) -> None:
        """Join the collective."""
        self.missing -= 1
        if self.missing == 0:
            self.ready = self.env.now
            self.env.process(self._run())

    def _run(self) -> Process:
        if self.ahead is not None and not self.ahead.done.processed:
            yield self.ahead.done
        self.begun = self.env.now
        if self.latency > 0:
            yield self.env.timeout(self.latency)
        yield self.fabric.send(self.links)
        self.ended = self.env.now
        self.done.succeed()


def simulate_events(schedule: Schedule, segments: Segments, transfers: Transfers) -> Timeline:
    """Run one step with a process per device."""
    devices = segments.before.shape[2]
    env = _CountingEnvironment()
    fabric = _Fabric(env, transfers.bandwidth)
    meetings = [_Meeting(env, fabric, devices, transfers.of(one)) for one in schedule.collectives]
    for ahead, meeting in pairwise(meetings):
        meeting.ahead = ahead
    starts, ends = (np.zeros((len(schedule.stages), devices)) for _ in range(2))

    def device(index: int) -> Process:
        for number, stage in enumerate(schedule.stages):
            if stage.awaits is not None:
                yield meetings[stage.awaits].done
            starts[number, index] = env.now
            yield env.timeout(float(segments.of(stage)[index]))
            ends[number, index] = env.now
            if stage.feeds is not None:
                meetings[stage.feeds].arrive()

    processes = [env.process(device(index)) for index in range(devices)]
    env.run(until=simpy.AllOf(env, processes))
    return Timeline(
        schedule=schedule,
        starts=starts,
        ends=ends,
        ready=np.asarray([meeting.ready for meeting in meetings]),
        begun=np.asarray([meeting.begun for meeting in meetings]),
        done=np.asarray([meeting.ended for meeting in meetings]),
        events=env.steps,
    )


class _CountingEnvironment(simpy.Environment):
    """Counts processed events: an exact, noise-free measure of cost."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def step(self) -> None:
        """Process the next event."""
        self.steps += 1
        super().step()
