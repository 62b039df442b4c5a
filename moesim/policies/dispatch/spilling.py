"""Plans in which devices hand token slices over, as columns of arrays.

Copies of an expert are numbered source after source; a slice is a range of these numbers. Who hands over what
is for a policy to say, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from moesim.hardware.traffic import Traffic
from moesim.policies.dispatch.llep import Slice
from moesim.policies.dispatch.placement_index import PlacementIndex, columns_per_source, index_for
from moesim.policies.plan import Assignments, DispatchPlan, Placement, WeightMoves
from moesim.routing.load import Load

IntArray = npt.NDArray[np.int64]
Spilt = Mapping[int, list[Slice]]
HandOver = Callable[[list[int], list[int], list[int], list[int]], Spilt]
"""Gets copies per expert, homes, experts by falling copies and copies per device of one layer; returns the
slices of each expert that does not stay at home, the one kept at home first."""


@dataclass(frozen=True, eq=False)
class _Slices:
    """Slices computed away from home: copies ``start .. end - 1`` of an expert, one row each."""

    layer: IntArray
    expert: IntArray
    device: IntArray
    start: IntArray
    end: IntArray


def spilling_plan(
    load: Load,
    placement: Placement,
    threshold: float,
    hand_over: HandOver,
    weights: Literal["home", "host"] = "home",
) -> DispatchPlan:
    """Plan all MoE layers of one step.

    Every expert has one home: its slot, or the first of its slots. Other replicas serve as helpers that
    need no weights sent.

    Args:
        load: the load.
        placement: where experts stand.
        threshold: hand over where the busiest device has this many times the mean load.
        hand_over: decides for one layer.
        weights: where helpers get weights from, the home device or the memory of their host.

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
    planned = ratio >= threshold
    slices = _slices(totals, native, index, planned, hand_over)
    away = np.zeros(totals.size, dtype=np.int64)
    np.add.at(away, slices.layer * load.experts + slices.expert, slices.end - slices.start)
    kept = np.where(at_home, (totals.ravel() - away)[index.key], 0)
    assignments, moves = _columns(index, kept, slices, weights)
    if load.is_pooled:
        traffic = Traffic.pooled(assignments.per_device(load.layers, load.devices), load.share)
    else:
        traffic = _send_matrix(load, index, totals.ravel() - away, slices)
    return DispatchPlan(assignments, traffic, planned, moves)


def _slices(
    totals: IntArray,
    native: IntArray,
    index: PlacementIndex,
    planned: npt.NDArray[np.bool_],
    hand_over: HandOver,
) -> _Slices:
    """Decide for the layers that need it."""
    rows: list[tuple[int, int, int, int, int]] = []
    layers = np.flatnonzero(planned)
    orders = np.argsort(-totals[layers], axis=1, kind="stable")
    for layer, order in zip(layers.tolist(), orders.tolist(), strict=True):
        counts, homes, loads = totals[layer].tolist(), index.home[layer].tolist(), native[layer].tolist()
        for expert, parts in hand_over(counts, homes, order, loads).items():
            rows += [(layer, expert, *part) for part in parts if part[0] != homes[expert]]
    columns = np.asarray(rows, dtype=np.int64).reshape(-1, 5).T
    return _Slices(*columns)


def _columns(
    index: PlacementIndex, kept: IntArray, slices: _Slices, weights: Literal["home", "host"]
) -> tuple[Assignments, WeightMoves]:
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
    source = index.home[layer, expert] if weights == "home" else np.full(layer.shape, -1, dtype=np.int64)
    return assignments, WeightMoves(layer, expert, source, device)


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
