"""When everything of a step happens, in lock-step: one numpy operation over all layers and devices.

A step is a chain of segments between collectives. In each segment every device works by itself; the
collective begins when the slowest has arrived and ends for all at once. Both levels of detail fill
the same ``Timeline``: this one by running maxima, ``events`` by simulating a process per device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Segments:
    """What the devices do between collectives, in seconds.

    Attributes:
        before: work from the previous combine (or the start) to the dispatch of each MoE layer, [MoE layers,
            devices].
        dispatch: dispatch with the weight moves beside it [MoE layers].
        experts: expert compute [MoE layers, devices].
        combine: combine [MoE layers].
        after: work after the last combine [devices].
    """

    before: Array
    dispatch: Array
    experts: Array
    combine: Array
    after: Array


@dataclass(frozen=True, eq=False)
class Timeline:
    """Moments of one step, in seconds since its start.

    Attributes:
        at_dispatch: each device is ready for dispatch [MoE layers, devices].
        dispatched: dispatch has ended [MoE layers].
        at_combine: each device has computed its experts [MoE layers, devices].
        combined: combine has ended [MoE layers].
        finished: each device has finished the step [devices].
        events: events the engine processed.
    """

    at_dispatch: Array
    dispatched: Array
    at_combine: Array
    combined: Array
    finished: Array
    events: int

    @property
    def latency(self) -> float:
        """Seconds until the slowest device has finished."""
        return float(self.finished.max())


def lock_step(segments: Segments) -> Timeline:
    """Run a step in which all devices meet at every collective."""
    slowest_before = segments.before.max(axis=1)
    slowest_experts = segments.experts.max(axis=1)
    spent = np.stack([slowest_before, segments.dispatch, slowest_experts, segments.combine], axis=1)
    ends = np.cumsum(spent.ravel()).reshape(spent.shape)
    dispatched, combined = ends[:, 1], ends[:, 3]
    begins = np.concatenate([[0.0], combined[:-1]])
    return Timeline(
        at_dispatch=begins[:, np.newaxis] + segments.before,
        dispatched=dispatched,
        at_combine=dispatched[:, np.newaxis] + segments.experts,
        combined=combined,
        finished=combined[-1] + segments.after,
        events=2 * combined.size + 1,
    )
