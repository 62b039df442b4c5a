"""When everything of a step happens, in lock-step: one numpy operation over all devices per stage.

Both levels of detail fill the same ``Timeline``: this one by running maxima, ``events`` by simulating a
process per device.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from moesim.engine.overlap import Schedule, Stage

Array = npt.NDArray[np.float64]


def _none() -> Array:
    return np.zeros((0, 0, 0))


@dataclass(frozen=True, eq=False)
class Segments:
    """What the devices and the network do, in seconds.

    Attributes:
        first: the first part of the work before dispatch, where that is cut in two [micro-batches, MoE
            layers + 1, devices].
        before: work before the dispatch of each MoE layer, and after the last combine [micro-batches, MoE
            layers + 1, devices].
        shared: shared experts, where they are a stage of their own [micro-batches, MoE layers, devices].
        experts: routed experts [micro-batches, MoE layers, devices].
        exchange: dispatch with the weight moves beside it, and combine [micro-batches, 2, MoE layers].
        own_weights: gradients of weights of what stands before dispatch, where passes go backward
            [micro-batches, MoE layers + 1, devices].
        expert_weights: those of routed experts [micro-batches, MoE layers, devices].
    """

    first: Array
    before: Array
    shared: Array
    experts: Array
    exchange: Array
    own_weights: Array = field(default_factory=_none)
    expert_weights: Array = field(default_factory=_none)

    @property
    def busy(self) -> Array:
        """Computation by layer, without what follows the last one [micro-batches, MoE layers, devices]."""
        parts = [self.first[:, :-1] + self.before[:, :-1] + self.shared + self.experts]
        if self.own_weights.size:
            parts += [self.own_weights[:, :-1], self.expert_weights]
        return np.asarray(sum(parts))

    def of(self, stage: Stage) -> Array:
        """Return the seconds of a stage [devices]."""
        part: Array = getattr(self, stage.part)
        return np.asarray(part[stage.batch, stage.layer])


@dataclass(frozen=True, eq=False)
class Timeline:
    """Moments of one step, in seconds since its start.

    Attributes:
        schedule: the order of everything.
        starts: each device begins a stage [stages, devices].
        ends: it has finished the stage [stages, devices].
        ready: the last device has arrived at a collective [collectives].
        begun: the collective begins; the network may have been busy with another [collectives].
        done: it has ended [collectives].
        events: events the engine processed.
    """

    schedule: Schedule
    starts: Array
    ends: Array
    ready: Array
    begun: Array
    done: Array
    events: int

    @property
    def finished(self) -> Array:
        """Each device has finished the step [devices]."""
        return np.asarray(self.ends[-1])

    @property
    def latency(self) -> float:
        """Seconds until the slowest device has finished."""
        return float(self.finished.max())

    def after(self, seconds: float) -> Timeline:
        """Return the same step, begun later."""
        moved = {name: getattr(self, name) + seconds for name in ("starts", "ends", "ready", "begun", "done")}
        return replace(self, **moved)


def lock_step(schedule: Schedule, segments: Segments) -> Timeline:
    """Run a step in which all devices meet at every collective."""
    count, devices = len(schedule.stages), segments.before.shape[2]
    starts, ends = np.empty((count, devices)), np.empty((count, devices))
    ready, begun, done = (np.empty(len(schedule.collectives)) for _ in range(3))
    free, network = np.zeros(devices), 0.0
    for index, stage in enumerate(schedule.stages):
        starts[index] = free if stage.awaits is None else np.maximum(free, done[stage.awaits])
        free = np.add(starts[index], segments.of(stage), out=ends[index])
        if stage.feeds is not None:
            exchange = schedule.collectives[stage.feeds]
            ready[stage.feeds] = arrived = free.max()
            begun[stage.feeds] = begin = max(arrived, network)
            network = begin + segments.exchange[exchange.batch, exchange.way, exchange.layer]
            done[stage.feeds] = network
    events = len(schedule.collectives) + int(segments.before.shape[0])
    return Timeline(schedule, starts, ends, ready, begun, done, events)
