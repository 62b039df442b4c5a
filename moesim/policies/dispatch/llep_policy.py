"""LLEP as a dispatch policy: when to plan, and plans as columns of arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from moesim.hardware.traffic import Traffic
from moesim.policies.base import ClusterView, Parameters
from moesim.policies.dispatch.llep import capacity_of, spill
from moesim.policies.dispatch.placement_index import PlacementIndex, columns_per_source, index_for
from moesim.policies.plan import Assignments, DispatchPlan, Placement, WeightMoves
from moesim.routing.load import Load
from moesim.units import parse

IntArray = npt.NDArray[np.int64]

_SYMBOLS = {"m": "min_tokens_per_gemm", "lambda": "threshold"}


def _seconds(value: Any) -> Any:
    return parse(value, "s") if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds)]


class LlepParameters(Parameters):
    """Parameters of LLEP; ``m`` and ``lambda``, the paper's symbols, are understood too."""

    alpha: float = Field(
        default=1.0,
        gt=0,
        json_schema_extra={"tune": [1.0, 4.0, "log"]},
        description="copies that a device may compute, in even shares (the paper's runs: 1.0)",
    )
    min_tokens_per_gemm: int = Field(
        default=1024,
        ge=0,
        json_schema_extra={"tune": [1, 16384, "log"]},
        description="smallest slice worth sending away, unless it ends the expert (m)",
    )
    threshold: float = Field(
        default=1.3,
        ge=0,
        json_schema_extra={"tune": [1.0, 4.0, "log"]},
        description="plan where the busiest device has this many times the mean load; 0 always (lambda)",
    )
    planning_per_expert_s: Seconds = Field(
        default=45e-6,
        ge=0,
        description="planning time per expert: two scalars read back from the GPU at 20 us, 5 us of Python",
    )
    planning_fixed_s: Seconds = Field(
        default=0.0, ge=0, description="planning time besides that of the experts"
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_symbols(cls, data: Any) -> Any:
        """Understand the paper's symbols."""
        if not isinstance(data, dict):
            return data
        for symbol, word in _SYMBOLS.items():
            if symbol in data and word in data:
                message = f"'{symbol}' and '{word}' are the same parameter"
                raise ValueError(message)
        return {_SYMBOLS.get(key, key): value for key, value in data.items()}


@dataclass(frozen=True, eq=False)
class _Slices:
    """Slices computed away from home: copies ``start .. end - 1`` of an expert, one row each."""

    layer: IntArray
    expert: IntArray
    device: IntArray
    start: IntArray
    end: IntArray


@dataclass(frozen=True)
class Llep:
    """Slices of hot experts go to the least loaded devices, with a temporary copy of the weights.

    Every expert has one home: its slot, or the first of its slots. Other replicas serve as helpers that
    need no weights sent.
    """

    parameters: LlepParameters = field(default_factory=LlepParameters)
    name: ClassVar[str] = "llep"
    summary: ClassVar[str] = "overloaded devices hand token slices and weights to the least loaded"
    source: ClassVar[str] = "LLEP (arXiv 2601.17111); SalesforceAIResearch/LeastLoadedEP 0349746"
    exact: ClassVar[bool] = True
    parameters_type: ClassVar[type[Parameters]] = LlepParameters

    def plan(self, load: Load, placement: Placement, view: ClusterView) -> DispatchPlan:
        """Plan all MoE layers of one step.

        Raises:
            InputError: load and placement differ in layers, devices or experts.
        """
        index = index_for(load, placement)
        totals = load.per_expert
        at_home = index.first == 0
        native = index.sum_per_device(np.where(at_home, totals.ravel()[index.key], 0))
        native = native.reshape(load.layers, load.devices)
        total = native.sum(axis=1)
        ratio = np.divide(
            native.max(axis=1, initial=0) * load.devices, total, out=np.zeros(load.layers), where=total > 0
        )
        planned = ratio >= self.parameters.threshold
        slices = self._slices(totals, native, index, planned)
        away = np.zeros(totals.size, dtype=np.int64)
        np.add.at(away, slices.layer * load.experts + slices.expert, slices.end - slices.start)
        kept = np.where(at_home, (totals.ravel() - away)[index.key], 0)
        assignments, moves = self._columns(index, kept, slices)
        if load.is_pooled:
            traffic = Traffic.pooled(assignments.per_device(load.layers, load.devices), load.share)
        else:
            traffic = _send_matrix(load, index, totals.ravel() - away, slices)
        return DispatchPlan(assignments, traffic, planned, moves)

    def _slices(
        self, totals: IntArray, native: IntArray, index: PlacementIndex, planned: npt.NDArray[np.bool_]
    ) -> _Slices:
        """Run the assignment on the layers that need it."""
        alpha, m = self.parameters.alpha, self.parameters.min_tokens_per_gemm
        rows: list[tuple[int, int, int, int, int]] = []
        layers = np.flatnonzero(planned)
        orders = np.argsort(-totals[layers], axis=1, kind="stable")
        for layer, order in zip(layers.tolist(), orders.tolist(), strict=True):
            counts, homes, loads = totals[layer].tolist(), index.home[layer].tolist(), native[layer].tolist()
            capacity = capacity_of(sum(loads), len(loads), alpha)
            for expert, parts in spill(counts, homes, order, loads, capacity, m).items():
                rows += [(layer, expert, *part) for part in parts if part[0] != homes[expert]]
        columns = np.asarray(rows, dtype=np.int64).reshape(-1, 5).T
        return _Slices(*columns)

    @staticmethod
    def _columns(index: PlacementIndex, kept: IntArray, slices: _Slices) -> tuple[Assignments, WeightMoves]:
        """Join what stays at home with slices, adding up slices of one expert on one device."""
        devices, experts = index.devices, index.experts
        keys = (slices.layer * devices + slices.device) * experts + slices.expert
        distinct, slot = np.unique(keys, return_inverse=True)
        copies = np.zeros(distinct.size, dtype=np.int64)
        np.add.at(copies, slot, slices.end - slices.start)
        where, expert = np.divmod(distinct, experts)
        layer, device = np.divmod(where, devices)
        stays = kept > 0
        assignments = Assignments(
            np.concatenate([index.layer[stays], layer]),
            np.concatenate([index.expert[stays], expert]),
            np.concatenate([index.device[stays], device]),
            np.concatenate([kept[stays], copies]),
        )
        sent = ~index.holds(layer, device, expert)
        layer, device, expert = layer[sent], device[sent], expert[sent]
        return assignments, WeightMoves(layer, expert, index.home[layer, expert], device)

    def planning_seconds(self, experts: int, devices: int) -> float:
        """Return the time to plan one layer (s), charged only where a plan is made."""
        return self.parameters.planning_fixed_s + self.parameters.planning_per_expert_s * experts


def _send_matrix(load: Load, index: PlacementIndex, kept: IntArray, slices: _Slices) -> Traffic:
    """Overlap slices with the numbers that each source's copies have.

    ``kept`` are the copies computed at home, [layers * experts]: the lowest numbers of an expert.
    """
    sent = columns_per_source(load)
    rows = np.flatnonzero(index.first == 0)
    key = slices.layer * load.experts + slices.expert
    split, slot = np.unique(key, return_inverse=True)
    mine = np.take(sent, split, axis=1)
    until = np.cumsum(mine, axis=0)
    since = until - mine
    stays = sent.copy()
    stays[:, split] = np.minimum(until, kept[split]) - np.minimum(since, kept[split])
    if not index.in_order:
        by_row = np.zeros((load.devices, index.key.size), dtype=np.int64)
        by_row[:, rows] = np.take(stays, index.key[rows], axis=1)
        stays = by_row
    matrix = index.sum_per_device(stays)
    # Slices sorted by (layer, device), so that those of one device add up in one go.
    where = slices.layer * load.devices + slices.device
    order = np.argsort(where, kind="stable")
    start, end = slices.start[order], slices.end[order]
    parts, before = np.take(until, slot[order], axis=1), np.take(since, slot[order], axis=1)
    for numbers in (parts, before):
        np.minimum(np.maximum(numbers, start, out=numbers), end, out=numbers)
    parts -= before
    at, first = np.unique(where[order], return_index=True)
    if at.size:
        matrix[:, at] += np.add.reduceat(parts, first, axis=1)
    return Traffic.of_pairs(matrix.reshape(load.devices, load.layers, load.devices).transpose(1, 0, 2))
