"""What a run leaves behind: columns while it runs, tables once at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.causes import CAUSES
from moesim.engine.own_costs import AFTER_COMBINE, BEFORE_DISPATCH, OwnCosts
from moesim.engine.setup import Setup
from moesim.engine.step import StepRecord
from moesim.hardware.memory import MemoryLedger

Array = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[Any]]

DEVICE_ROWS = 500_000
"""Rows of the per-device table that are kept; later steps go into the other tables only."""

_SAME = 1e-12
"""Relative difference below which two moments are the same: adding up delays rounds."""


@dataclass(eq=False)
class Recording:
    """Columns of a run.

    Attributes:
        setup: what ran.
        own: what devices do by themselves, the same in every step.
        breakdown: seconds per step, transformer layer and cause, mean over devices; they sum to the
            latency of the step.
        memory: what every device held at its fullest moment.
    """

    setup: Setup
    own: OwnCosts
    steps: list[dict[str, float]] = field(default_factory=list)
    breakdown: list[Array] = field(default_factory=list)
    layer_columns: list[Columns] = field(default_factory=list)
    device_columns: list[Columns] = field(default_factory=list)
    pacers: list[Columns] = field(default_factory=list)
    span_records: list[StepRecord] = field(default_factory=list)
    link_bytes: Array | None = None
    memory: MemoryLedger | None = None

    def add(self, record: StepRecord) -> None:
        """Take one step in."""
        shares = self._breakdown(record)
        time, experts = record.timeline, record.experts
        mean = experts.copies.mean(axis=1)
        largest = experts.copies.max(axis=1)
        imbalance = np.divide(largest, mean, out=np.ones_like(mean), where=mean > 0)
        moved = record.exchange.moved_bytes
        self.breakdown.append(shares)
        self.steps.append(
            {
                "step": record.step,
                "latency_s": time.latency,
                "bound_s": record.bound,
                "tokens": int(record.load.tokens.sum()),
                "copies": int(record.load.counts.sum()),
                "imbalance": float(imbalance.mean()),
                "moved_bytes": float(moved.sum()),
                "events": time.events,
            }
        )
        moves = np.bincount(record.plan.moves.layer, minlength=imbalance.size)
        self.layer_columns.append(
            {
                "bound": record.bound_layers,
                "imbalance": imbalance,
                "straggler": _last(time.at_combine),
                "moves": moves,
            }
        )
        self._pace(record)
        if (len(self.device_columns) + 1) * experts.copies.size <= DEVICE_ROWS:
            self.device_columns.append(self._devices(record))
        links = (record.exchange.dispatch_links + record.exchange.combine_links).sum(axis=0)
        self.link_bytes = links if self.link_bytes is None else self.link_bytes + links
        if len(self.span_records) < self.setup.span_steps:
            self.span_records.append(record)

    def _breakdown(self, record: StepRecord) -> Array:
        """Return seconds per transformer layer and cause, mean over devices [layers, causes]."""
        own, rows, time = self.own, self.setup.moe_rows, record.timeline
        shares = np.zeros((own.attention.shape[0], len(CAUSES)))
        column = {cause: index for index, cause in enumerate(CAUSES)}
        for cause in (*BEFORE_DISPATCH, AFTER_COMBINE):
            shares[:, column[cause]] = getattr(own, cause).mean(axis=1)
        begin_dispatch, begin_combine = time.at_dispatch.max(axis=1), time.at_combine.max(axis=1)
        moves = _exposed_moves(record)
        shares[rows, column["planning"]] = record.planning
        shares[rows, column["dispatch"]] = time.dispatched - begin_dispatch - moves
        shares[rows, column["weight_move"]] = moves
        shares[rows, column["experts"]] = record.segments.experts.mean(axis=1)
        shares[rows, column["combine"]] = time.combined - begin_combine
        waits = begin_dispatch - time.at_dispatch.mean(axis=1) + begin_combine - time.at_combine.mean(axis=1)
        shares[rows, column["wait"]] = waits
        shares[-1, column["wait"]] += time.latency - float(time.finished.mean())
        return shares

    def _devices(self, record: StepRecord) -> Columns:
        time, experts = record.timeline, record.experts
        waited = time.at_dispatch.max(axis=1, keepdims=True) - time.at_dispatch
        waited = waited + time.at_combine.max(axis=1, keepdims=True) - time.at_combine
        return {
            "copies": experts.copies,
            "experts": experts.active,
            "busy_s": record.segments.before + record.segments.experts,
            "wait_s": waited,
            "experts_s": record.segments.experts,
            "received_bytes": record.exchange.received,
        }

    def _pace(self, record: StepRecord) -> None:
        """Remember which device every collective waited for."""
        time, segments = record.timeline, record.segments
        slowest = _last(time.at_combine)
        moves = _exposed_moves(record)
        self.pacers.append(
            {
                "before": np.append(_last(time.at_dispatch), _last(time.finished)),
                "experts": slowest,
                "planning": record.planning,
                "dispatch": time.dispatched - time.at_dispatch.max(axis=1) - moves,
                "weight_move": moves,
                "experts_s": segments.experts[np.arange(slowest.size), slowest],
                "combine": time.combined - time.at_combine.max(axis=1),
            }
        )


def _last(moments: Array) -> npt.NDArray[np.int64]:
    """Return the device that arrives last, of several the first, whatever rounding says [...]."""
    latest = moments.max(axis=-1, keepdims=True)
    return np.asarray((moments >= latest * (1 - _SAME)).argmax(axis=-1))


def _exposed_moves(record: StepRecord) -> Array:
    """Return the seconds by which weight moves outlast the dispatch beside them [MoE layers]."""
    joint = record.timeline.dispatched - record.timeline.at_dispatch.max(axis=1)
    none = record.exchange.weight_move == 0.0
    return np.where(none, 0.0, np.maximum(joint - record.exchange.dispatch, 0.0))
