"""A greedy planner that gives hot experts to subsets of devices, by a performance model.

After Prophet (CLUSTER 2023) and Pro-Prophet (arXiv 2411.10003), of which abstracts were seen: of the
busiest device's experts, that with most copies from others is given to the devices with most of these, to as
many as the model says is best, while the modelled time falls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.policies.base import ClusterView
from moesim.policies.dispatch.rates import copy_seconds, wire_bandwidth

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(eq=False)
class Work:
    """What devices compute, get and send [..., devices] each: copies, copies from and to others, weights.

    Weights are in bytes; ``fetched`` and ``given`` are those that a device gets and sends.
    """

    copies: FloatArray
    inbound: FloatArray
    outbound: FloatArray
    fetched: FloatArray
    given: FloatArray


@dataclass(frozen=True, eq=False)
class LayerModel:
    """Predicts the time of a layer: the slowest device, dispatch with weights beside it, and combine."""

    copy_s: FloatArray
    token_bytes: float
    expert_bytes: float
    bandwidth: float

    @classmethod
    def of(cls, view: ClusterView) -> LayerModel:
        """Take the rates of a machine."""
        speed = np.ones(view.devices) if view.speed is None else view.speed
        per_copy = copy_seconds(view) / np.asarray(speed, dtype=np.float64)
        return cls(per_copy, float(view.token_bytes), float(view.expert_bytes), wire_bandwidth(view))

    def seconds(self, work: Work) -> FloatArray:
        """Return what a layer takes (s) [...]."""
        compute = (work.copies * self.copy_s).max(axis=-1)
        into = work.inbound * self.token_bytes
        out = work.outbound * self.token_bytes
        dispatch = np.maximum(into + work.fetched, out + work.given).max(axis=-1)
        combine = np.maximum(into, out).max(axis=-1)
        return np.asarray(compute + (dispatch + combine) / self.bandwidth)


def plan_subsets(
    counts: npt.NDArray[np.int64] | FloatArray,
    homes: IntArray,
    held: BoolArray,
    model: LayerModel,
    room: int,
    most: int,
) -> BoolArray:
    """Choose the devices that get each expert of one layer.

    Args:
        counts: copies from each device to each expert, [devices, experts].
        homes: home device of each expert, int64 [experts].
        held: which device holds which expert, bool [devices, experts].
        model: predicts the time of a layer.
        room: experts that a device can be given.
        most: experts that may be given to others.

    Returns:
        Devices that are given the expert, bool [devices, experts]; never one that holds it.
    """
    devices, experts = counts.shape
    given = np.zeros((devices, experts), dtype=bool)
    work = _standard(np.asarray(counts, dtype=np.float64), homes)
    foreign = counts.sum(axis=0) - counts[homes, np.arange(experts)]
    now = float(model.seconds(work))
    for _ in range(most):
        busiest = int((work.copies * model.copy_s).argmax())
        mine = np.flatnonzero((homes == busiest) & ~given.any(axis=0) & (foreign > 0))
        if not mine.size:
            break
        expert = int(mine[foreign[mine].argmax()])
        free = ~held[:, expert] & (given.sum(axis=1) < room) & (counts[:, expert] > 0)
        order = np.argsort(-counts[:, expert], kind="stable")
        order = order[free[order]]
        if not order.size:
            break
        tried = _given_to_first(work, counts[:, expert].astype(np.float64), busiest, order, model)
        seconds = model.seconds(tried)
        best = int(seconds.argmin())
        if not seconds[best] < now:
            break
        now = float(seconds[best])
        given[order[: best + 1], expert] = True
        work = Work(*(getattr(tried, name)[best] for name in Work.__dataclass_fields__))
    return given


def _standard(counts: FloatArray, homes: IntArray) -> Work:
    """Return the work of a layer whose copies all go home."""
    devices = counts.shape[0]
    pairs = np.zeros((devices, devices))
    np.add.at(pairs.T, homes, counts.T)
    own = pairs.diagonal()
    nothing = np.zeros(devices)
    return Work(pairs.sum(axis=0), pairs.sum(axis=0) - own, pairs.sum(axis=1) - own, nothing, nothing)


def _given_to_first(work: Work, copies: FloatArray, home: int, order: IntArray, model: LayerModel) -> Work:
    """Return the work if the first 1, 2, ... devices of an order are given an expert, [orders, devices]."""
    tries = order.size
    first = np.zeros((tries, copies.size), dtype=bool)
    first[:, order] = np.tri(tries, dtype=bool)
    moved = first * copies
    total = moved.sum(axis=1)
    computed, into = work.copies + moved, np.repeat(work.inbound[np.newaxis], tries, axis=0)
    computed[:, home] -= total
    into[:, home] -= total
    sent = np.repeat(work.given[np.newaxis], tries, axis=0)
    sent[:, home] += np.arange(1, tries + 1) * model.expert_bytes
    return Work(computed, into, work.outbound - moved, work.fetched + first * model.expert_bytes, sent)
