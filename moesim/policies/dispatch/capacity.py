"""Capacity factors: experts take so many copies of a batch and no more.

Which copies of an expert have the lowest scores is not in a load, so every source gives up its share of
those above the capacity. Whether a token already has the expert to which a copy is moved is not in it
either; the copy is moved all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.policies.base import ClusterView, Parameters
from moesim.policies.dispatch.placement_index import PlacementIndex, columns_per_source, index_for
from moesim.policies.dispatch.replica_choice import even, even_totals
from moesim.policies.dispatch.row_plans import plan_of_split, plan_of_totals
from moesim.policies.plan import DispatchPlan, Placement
from moesim.routing.load import Load

IntArray = npt.NDArray[np.int64]


class CapacityParameters(Parameters):
    """Parameters of the capacity limit."""

    factor: float = Field(
        default=1.25,
        gt=0,
        description="copies that an expert takes, in even shares, rounded up (Switch: 1 to 1.25; GShard: 2)",
    )
    overflow: Literal["drop", "reroute"] = Field(
        default="drop",
        description="drop: copies above the capacity are not computed; reroute: they go to experts below"
        " it, first those of their own device, and are dropped where there is no room",
    )


def capacity_of(copies: IntArray, experts: int, factor: float) -> IntArray:
    """Return copies that each expert takes, int64 [layers], given copies of all experts together."""
    # A share like 1.1 * 10 must not be rounded up because it is not a binary number.
    return np.ceil(np.round(factor * copies / experts, 6)).astype(np.int64)


def changed_tokens(affected: IntArray, copies: IntArray, tokens: int, top_k: int) -> IntArray:
    """Expected tokens that have at least one of the affected copies, int64 [layers].

    Args:
        affected: copies dropped or moved to another expert.
        copies: all copies.
        tokens: tokens of the step.
        top_k: copies per token.
    """
    draws = np.maximum(float(tokens * top_k), copies)
    chance = np.divide(affected, draws, out=np.zeros(affected.shape), where=draws > 0)
    expected = np.rint(draws / top_k * (1.0 - (1.0 - chance) ** top_k)).astype(np.int64)
    return np.clip(expected, -(-affected // top_k), affected)


def shares(until: IntArray, whole: IntArray, wanted: IntArray) -> IntArray:
    """Return how many of the first ``until`` of ``whole`` things are among ``wanted`` evenly spread ones."""
    return np.asarray((until * wanted + whole // 2) // np.maximum(whole, 1))


@dataclass(frozen=True)
class Capacity:
    """Copies above the capacity of their expert are dropped or moved to experts below it.

    Replicas share what their expert takes.
    """

    parameters: CapacityParameters = field(default_factory=CapacityParameters)
    name: ClassVar[str] = "capacity"
    summary: ClassVar[str] = "experts take a limited number of copies; others are dropped or go elsewhere"
    needs: ClassVar[str] = "counts of the step"
    source: ClassVar[str] = (
        "GShard (arXiv 2006.16668); Switch (arXiv 2101.03961); capacity-aware inference (arXiv 2503.05066)"
    )
    exact: ClassVar[bool] = False
    parameters_type: ClassVar[type[Parameters]] = CapacityParameters

    def plan(self, load: Load, placement: Placement, view: ClusterView) -> DispatchPlan:
        """Plan all MoE layers of one step; limits need no plan at run time.

        Raises:
            InputError: load and placement differ in layers, devices or experts.
        """
        index = index_for(load, placement)
        totals = load.per_expert
        copies = totals.sum(axis=1)
        most = capacity_of(copies, load.experts, self.parameters.factor)[:, np.newaxis]
        kept = np.minimum(totals, most)
        over = copies - kept.sum(axis=1)
        free = most - kept if self.parameters.overflow == "reroute" else np.zeros_like(kept)
        room = even_totals(index, free.ravel())
        if load.is_pooled:
            moved = np.minimum(over, free.sum(axis=1))
            added = _spread(room, index.layer, moved)
            plan = plan_of_totals(load, index, even_totals(index, kept.ravel()) + added)
        else:
            columns = columns_per_source(load)
            until = shares(np.cumsum(columns, axis=0), totals.ravel(), kept.ravel())
            stays = np.diff(until, axis=0, prepend=0)
            surplus = (columns - stays).reshape(load.devices, load.layers, -1).sum(axis=2)
            added = _reroute(index, surplus, room)
            moved = np.bincount(index.layer, added.sum(axis=0), load.layers).astype(np.int64)
            plan = plan_of_split(load, index, even(index, stays) + added)
        changed = changed_tokens(over, copies, int(load.tokens.sum()), view.top_k)
        return replace(plan, dropped=over - moved, changed=changed)

    def planning_seconds(self, experts: int, devices: int) -> float:
        """Return zero: a copy is kept or not by its number, as the permute kernel counts it."""
        return 0.0


def _spread(room: IntArray, group: IntArray, amounts: IntArray) -> IntArray:
    """Spread amounts, one per group, over the rows of each group in proportion to their room, [rows].

    Rows are sorted by group.
    """
    before = np.concatenate([[0], np.cumsum(room)])
    ends = np.searchsorted(group, np.arange(amounts.size), side="right")
    begins = np.searchsorted(group, np.arange(amounts.size))
    whole = before[ends] - before[begins]
    start = before[begins][group]
    until = shares(before[1:] - start, whole[group], amounts[group])
    return np.asarray(until - shares(before[:-1] - start, whole[group], amounts[group]))


def _reroute(index: PlacementIndex, surplus: IntArray, room: IntArray) -> IntArray:
    """Give surplus copies, int64 [sources, layers], to rows with room, int64 [sources, rows].

    Experts of the source's own device come first. What is left is dealt to the room that is left, both in
    order of devices, so that copies do not travel farther than they must.
    """
    where = index.layer * index.devices + index.device
    at_home = np.minimum(surplus.T, index.sum_per_device(room).reshape(index.layers, index.devices))
    own = _spread(room, where, at_home.ravel())
    added = np.zeros((index.devices, room.size), dtype=np.int64)
    added[index.device, np.arange(room.size)] = own
    left, free = surplus - at_home.T, room - own
    offered = np.bincount(index.layer, free, index.layers).astype(np.int64)
    asked = left.sum(axis=0)
    moved = np.minimum(asked, offered)
    taken = np.diff(shares(np.cumsum(left, axis=0), asked, moved), axis=0, prepend=0)
    filled = _spread(free, index.layer, moved)
    rows = np.flatnonzero(filled)
    layer = index.layer[rows]
    ends = np.cumsum(filled[rows]) - (np.cumsum(moved) - moved)[layer]
    begins = ends - filled[rows]
    last = np.cumsum(taken, axis=0)[:, layer]
    first = last - taken[:, layer]
    added[:, rows] += np.maximum(np.minimum(last, ends) - np.maximum(first, begins), 0)
    return added
