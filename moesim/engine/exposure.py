"""Where the time of a step goes in which a device computes nothing.

A device stands still before a stage until the collective ends that the stage awaits. Until the last device
has arrived at that collective it *waits*; from then on the network is busy with it, or with the one before it
in line, and that time is *exposed* communication of the one that the network is busy with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.engine.overlap import Schedule
from moesim.engine.timeline import Timeline

Array = npt.NDArray[np.float64]

SAME = 1e-12
"""Relative difference below which two moments are the same: adding up delays rounds."""


@dataclass(frozen=True, eq=False)
class Idle:
    """Seconds without computation.

    Attributes:
        exposed: communication that nothing hides, mean over devices [2 (dispatch, combine), MoE layers].
        moves: the part of exposed dispatches in which only weights are on the wire still, mean over devices
            [MoE layers].
        wait: until the slowest device has arrived, mean over devices [MoE layers].
        waited: the same by device [MoE layers, devices].
        busy: time in which collectives are under way [2, MoE layers].
    """

    exposed: Array
    moves: Array
    wait: Array
    waited: Array
    busy: Array


def idle(time: Timeline, overhang: Array) -> Idle:
    """Return what devices stand still for.

    Args:
        time: the step.
        overhang: seconds by which weight moves outlast the dispatch beside them [micro-batches, MoE layers].
    """
    order = time.schedule
    waiting = np.asarray([i for i, stage in enumerate(order.stages) if stage.awaits is not None])
    awaited = np.asarray([order.stages[i].awaits for i in waiting])
    free = time.ends[waiting - 1]
    arrived = np.maximum(free, time.ready[awaited][:, np.newaxis])
    begun = np.maximum(arrived, time.begun[awaited][:, np.newaxis])
    until = np.maximum(begun, time.done[awaited][:, np.newaxis])
    batches, layers = overhang.shape
    exposed, busy = np.zeros((2, layers)), np.zeros((2, layers))
    moves, wait, waited = np.zeros(layers), np.zeros(layers), np.zeros((layers, free.shape[1]))
    means = [free.mean(axis=1), *(_mean(moments) for moments in (arrived, begun, until))]
    # Several micro-batches may add to one layer, so each adds by itself.
    for rows, way, batch in _groups(order, awaited, batches):
        wait += means[1][rows]
        wait -= means[0][rows]
        waited += arrived[rows]
        waited -= free[rows]
        exposed[way] += means[3][rows] - means[2][rows]
        busy[way] += time.done[awaited[rows]] - time.begun[awaited[rows]]
        if way == 0 and overhang[batch].any():
            moves += _mean(np.minimum(until[rows] - begun[rows], overhang[batch][:, np.newaxis]))
    for row in np.flatnonzero((begun > arrived).any(axis=1)):
        ahead = order.collectives[awaited[row] - 1]
        queued = begun[row] - arrived[row]
        exposed[ahead.way, ahead.layer] += queued.mean()
        if ahead.way == 0:
            moves[ahead.layer] += np.minimum(queued, overhang[ahead.batch, ahead.layer]).mean()
    return Idle(exposed, moves, wait, waited, busy)


def overhang(time: Timeline, dispatch: Array, moving: Array) -> Array:
    """Return the seconds by which weight moves outlast the dispatch beside them [micro-batches, MoE layers].

    Args:
        time: the step.
        dispatch: seconds of dispatch alone [micro-batches, MoE layers].
        moving: seconds that weight moves add; 0 where nothing moves [micro-batches, MoE layers].
    """
    flight = np.zeros_like(dispatch)
    for number, exchange in enumerate(time.schedule.collectives):
        if exchange.way == 0:
            flight[exchange.batch, exchange.layer] = time.done[number] - time.begun[number]
    return np.asarray(np.where(moving == 0.0, 0.0, np.maximum(flight - dispatch, 0.0)))


def _groups(
    order: Schedule, awaited: npt.NDArray[np.int64], batches: int
) -> list[tuple[npt.NDArray[np.int64], int, int]]:
    """Return rows of awaited collectives by way and micro-batch, in the order of layers."""
    of = np.asarray([(order.collectives[c].way, order.collectives[c].batch) for c in awaited])
    layer = np.asarray([order.collectives[c].layer for c in awaited])
    groups = []
    for way in (0, 1):
        for batch in range(batches):
            rows = np.flatnonzero((of == (way, batch)).all(axis=1))
            groups.append((rows[np.argsort(layer[rows], kind="stable")], way, batch))
    return groups


def _mean(moments: Array) -> Array:
    """Return the mean over devices, exact where all are the same [rows]."""
    same = (moments == moments[:, :1]).all(axis=1)
    return np.where(same, moments[:, 0], moments.mean(axis=1))


@dataclass(frozen=True, eq=False)
class Pace:
    """The chain of work and collectives that set the latency.

    Attributes:
        device: whose work each stage is on the chain, -1 where it is not, int64 [stages].
        exchanged: whether a collective is on the chain, bool [collectives].
    """

    device: npt.NDArray[np.int64]
    exchanged: npt.NDArray[np.bool_]


def pace(time: Timeline) -> Pace:
    """Follow the chain back from the device that finishes last."""
    order = time.schedule
    feeder = {stage.feeds: i for i, stage in enumerate(order.stages) if stage.feeds is not None}
    device = np.full(len(order.stages), -1, dtype=np.int64)
    exchanged = np.zeros(len(order.collectives), dtype=np.bool_)
    index, who = len(order.stages) - 1, int(last(time.finished))
    while index >= 0:
        device[index] = who
        number = order.stages[index].awaits
        if number is None or time.done[number] < time.ends[index - 1, who] * (1 - SAME):
            index -= 1
            continue
        exchanged[number] = True
        while time.ready[number] < time.begun[number] * (1 - SAME):
            number -= 1
            exchanged[number] = True
        index = feeder[number]
        who = int(last(time.ends[index]))
    return Pace(device, exchanged)


def last(moments: Array) -> npt.NDArray[np.int64]:
    """Return the device that arrives last, of several the first, whatever rounding says [...]."""
    latest = moments.max(axis=-1, keepdims=True)
    return np.asarray((moments >= latest * (1 - SAME)).argmax(axis=-1))
