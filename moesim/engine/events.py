"""When everything of a step happens, event by event: a SimPy process per device.

Each device runs its own work on its compute stream and then meets the others at a collective. The
network is one process that shares links max-min fairly among all transfers in flight. The moments
it observes fill the same ``Timeline`` as the lock-step level.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from moesim.engine.timeline import Segments, Timeline
from moesim.hardware.fluid import Flow
from moesim.hardware.fluid_live import LiveFluid

Array = npt.NDArray[np.float64]
Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True, eq=False)
class Transfers:
    """What the collectives of a step put on the links.

    Attributes:
        latency: seconds before anything flows, for dispatch and combine [2, MoE layers].
        dispatch_links: bytes per link [MoE layers, links].
        combine_links: bytes per link [MoE layers, links].
        bandwidth: bytes/s per link [links].
    """

    latency: Array
    dispatch_links: Array
    combine_links: Array
    bandwidth: Array


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
    """A collective: waits for every device, runs once, releases all."""

    def __init__(
        self, env: simpy.Environment, fabric: _Fabric, size: int, links: Array, latency: float
    ) -> None:
        self.env, self.fabric, self.missing = env, fabric, size
        self.links, self.latency = links, latency
        self.done = env.event()
        self.ended = 0.0

    def arrive(self) -> simpy.Event:
        """Join the collective; the event fires when it has ended."""
        self.missing -= 1
        if self.missing == 0:
            self.env.process(self._run())
        return self.done

    def _run(self) -> Process:
        if self.latency > 0:
            yield self.env.timeout(self.latency)
        yield self.fabric.send(self.links)
        self.ended = self.env.now
        self.done.succeed()


def simulate_events(segments: Segments, transfers: Transfers) -> Timeline:
    """Run one step with a process per device."""
    layers, devices = segments.before.shape
    env = _CountingEnvironment()
    fabric = _Fabric(env, transfers.bandwidth)
    meetings = [
        (
            _Meeting(env, fabric, devices, transfers.dispatch_links[i], float(transfers.latency[0, i])),
            _Meeting(env, fabric, devices, transfers.combine_links[i], float(transfers.latency[1, i])),
        )
        for i in range(layers)
    ]
    at_dispatch, at_combine = np.zeros((layers, devices)), np.zeros((layers, devices))
    finished = np.zeros(devices)

    def device(index: int) -> Process:
        for layer, (dispatch, combine) in enumerate(meetings):
            yield env.timeout(segments.before[layer, index])
            at_dispatch[layer, index] = env.now
            yield dispatch.arrive()
            yield env.timeout(segments.experts[layer, index])
            at_combine[layer, index] = env.now
            yield combine.arrive()
        yield env.timeout(segments.after[index])
        finished[index] = env.now

    processes = [env.process(device(index)) for index in range(devices)]
    env.run(until=simpy.AllOf(env, processes))
    return Timeline(
        at_dispatch=at_dispatch,
        dispatched=np.asarray([dispatch.ended for dispatch, _ in meetings]),
        at_combine=at_combine,
        combined=np.asarray([combine.ended for _, combine in meetings]),
        finished=finished,
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
