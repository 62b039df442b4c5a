"""What a run leaves behind: columns while it runs, tables once at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.causes import CAUSES
from moesim.engine.exposure import Idle, idle, last, pace
from moesim.engine.host import HOST_CAUSES
from moesim.engine.overlap import Schedule, schedule
from moesim.engine.own_costs import AFTER_COMBINE, BEFORE_DISPATCH
from moesim.engine.own_work import OwnWork
from moesim.engine.setup import Setup
from moesim.engine.step import StepRecord
from moesim.engine.timeline import Timeline
from moesim.hardware.memory import MemoryLedger

Array = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[Any]]

DEVICE_ROWS = 500_000
"""Rows of the per-device table that are kept; later steps go into the other tables only."""


@dataclass(eq=False)
class Recording:
    """Columns of a run.

    Attributes:
        setup: what ran.
        own: what devices do by themselves in each micro-batch, the same in every step.
        schedule: the order of a step.
        breakdown: seconds per step, transformer layer and cause, mean over devices; they sum to the
            latency of the step.
        memory: what every device held at its fullest moment.
    """

    setup: Setup
    own: list[OwnWork]
    schedule: Schedule = field(init=False)
    steps: list[dict[str, float]] = field(default_factory=list)
    breakdown: list[Array] = field(default_factory=list)
    layer_columns: list[Columns] = field(default_factory=list)
    device_columns: list[Columns] = field(default_factory=list)
    paces: list[dict[str, Any]] = field(default_factory=list)
    span_records: list[StepRecord] = field(default_factory=list)
    link_bytes: Array | None = None
    memory: MemoryLedger | None = None

    def __post_init__(self) -> None:
        """Look up the order."""
        self.schedule = schedule(self.setup.overlap, len(self.setup.moe_rows))

    def add(self, record: StepRecord) -> None:
        """Take one step in."""
        gaps = idle(record.timeline, record.overhang)
        shares = self._breakdown(record, gaps)
        time, experts = record.timeline, record.experts
        mean = experts.copies.mean(axis=1)
        largest = experts.copies.max(axis=1)
        imbalance = np.divide(largest, mean, out=np.ones_like(mean), where=mean > 0)
        moved = record.exchange.moved_bytes
        dropped, changed = (_sum(told) for told in (record.plan.dropped, record.plan.changed))
        self.breakdown.append(shares)
        self.steps.append(
            {
                "step": record.step,
                "latency_s": time.latency,
                "bound_s": record.bound,
                "tokens": int(record.load.tokens.sum()),
                "copies": int(record.load.counts.sum()) - dropped,
                "dropped_copies": dropped,
                "changed_tokens": changed,
                "imbalance": float(imbalance.mean()),
                "moved_bytes": float(moved.sum()),
                "migrated_bytes": record.migrated_bytes,
                "events": time.events,
            }
        )
        moves = np.bincount(record.plan.moves.layer, minlength=imbalance.size)
        self.layer_columns.append(
            {
                "bound": record.bound_layers,
                "imbalance": imbalance,
                "straggler": self._stragglers(time),
                "moves": moves,
                "dispatch_busy_s": gaps.busy[0],
                "combine_busy_s": gaps.busy[1],
            }
        )
        self._pace(record)
        if (len(self.device_columns) + 1) * experts.copies.size <= DEVICE_ROWS:
            self.device_columns.append(self._devices(record, gaps))
        links = (record.exchange.dispatch_links + record.exchange.combine_links).sum(axis=0)
        links += record.migration_links
        self.link_bytes = links if self.link_bytes is None else self.link_bytes + links
        if len(self.span_records) < self.setup.span_steps:
            self.span_records.append(record)

    def _stragglers(self, time: Timeline) -> npt.NDArray[np.int64]:
        """Return the device that finishes the experts of each MoE layer last, int64 [MoE layers]."""
        final = len(self.own) - 1
        order = enumerate(time.schedule.stages)
        rows = [row for row, stage in order if stage.part == "experts" and stage.batch == final]
        return last(time.ends[rows])

    def _breakdown(self, record: StepRecord, gaps: Idle) -> Array:
        """Return seconds per transformer layer and cause, mean over devices [layers, causes]."""
        rows, time = self.setup.moe_rows, record.timeline
        shares = np.zeros((len(self.setup.layers), len(CAUSES)))
        column = {cause: index for index, cause in enumerate(CAUSES)}
        for cause in (*BEFORE_DISPATCH, AFTER_COMBINE):
            shares[:, column[cause]] = sum(getattr(own.costs, cause).mean(axis=1) for own in self.own)
        shares[rows, column["migration"]] = record.migration
        for cause in HOST_CAUSES:
            shares[rows, column[cause]] = record.host[cause].sum(axis=0)
        shares[rows, column["dispatch"]] = gaps.exposed[0] - gaps.moves
        shares[rows, column["weight_move"]] = gaps.moves
        shares[rows, column["experts"]] = (record.experts.seconds + record.experts.weights).mean(axis=1)
        shares[rows, column["combine"]] = gaps.exposed[1]
        shares[rows, column["wait"]] = gaps.wait
        shares[-1, column["wait"]] += time.latency - float(time.finished.mean())
        return shares

    def _devices(self, record: StepRecord, gaps: Idle) -> Columns:
        experts = record.experts
        return {
            "copies": experts.copies,
            "experts": experts.active,
            "busy_s": record.segments.busy.sum(axis=0),
            "wait_s": gaps.waited,
            "experts_s": experts.seconds + experts.weights,
            "received_bytes": record.exchange.received,
        }

    def _pace(self, record: StepRecord) -> None:
        """Remember what set the pace."""
        chain = pace(record.timeline)
        stages = np.flatnonzero(chain.device >= 0)
        experts = np.zeros(chain.device.size)
        for index in stages:
            stage = record.timeline.schedule.stages[index]
            if stage.part in ("experts", "expert_weights"):
                experts[index] = record.segments.of(stage)[chain.device[index]]
        flight = (record.timeline.done - record.timeline.begun) * chain.exchanged
        self.paces.append(
            {
                "device": chain.device,
                "experts": experts,
                "exchange": flight,
                "host": record.host,
                "migration": record.migration,
                "overhang": record.overhang,
            }
        )


def _sum(per_layer: npt.NDArray[np.int64] | None) -> int:
    return 0 if per_layer is None else int(per_layer.sum())
