"""Standard expert parallelism: tokens go to where their expert stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.hardware.traffic import Traffic
from moesim.policies.base import ClusterView, Parameters
from moesim.policies.dispatch import replica_choice
from moesim.policies.dispatch.placement_index import PlacementIndex, columns_per_source, index_for
from moesim.policies.plan import Assignments, DispatchPlan, Placement
from moesim.routing.load import Load

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class StandardParameters(Parameters):
    """Parameters of standard dispatch."""

    replica_choice: Literal["even", "nearest"] = Field(
        default="even",
        description="even: all replicas of an expert share its copies; nearest: replicas of the same device,"
        " else of the same node, else all",
    )


def _fit(matrix: FloatArray, inbound: FloatArray) -> FloatArray:
    """Change amounts per pair a little so that columns add up to ``inbound`` and rows stay.

    Columns above their target are scaled down and what each source so frees goes to the columns below,
    in proportion to what they lack (Altschuler et al., arXiv 1705.09634, algorithm 2). Shapes are
    [layers, sources, devices] and [layers, devices]; both add up to the same per layer.
    """
    has = matrix.sum(axis=1)
    scale = np.where(has > inbound, inbound / np.where(has > 0, has, 1.0), 1.0)
    kept = matrix * scale[:, np.newaxis, :]
    freed = (matrix - kept).sum(axis=2)
    lacks = np.maximum(inbound - kept.sum(axis=1), 0.0)
    total = lacks.sum(axis=1, keepdims=True)
    part = np.divide(lacks, total, out=np.zeros_like(lacks), where=total > 0)
    return np.asarray(kept + freed[:, :, np.newaxis] * part[:, np.newaxis, :])


@dataclass(frozen=True)
class Standard:
    """Every copy is computed where its expert stands; replicas share the copies of an expert."""

    parameters: StandardParameters = field(default_factory=StandardParameters)
    name: ClassVar[str] = "standard"
    summary: ClassVar[str] = "tokens go to the devices that hold their experts"
    source: ClassVar[str] = "GShard (arXiv 2006.16668); replica choice as in SGLang 'dynamic' and 'static'"
    exact: ClassVar[bool] = True
    parameters_type: ClassVar[type[Parameters]] = StandardParameters

    def plan(self, load: Load, placement: Placement, view: ClusterView) -> DispatchPlan:
        """Plan all MoE layers of one step; nothing needs to be computed for it at run time.

        Raises:
            InputError: load and placement differ in layers, devices or experts.
        """
        index = index_for(load, placement)
        is_nearest = self.parameters.replica_choice == "nearest" and bool(index.shared.size)
        if load.is_pooled and is_nearest:
            copies, traffic = self._pooled_nearest(load, index, view)
        elif load.is_pooled:
            copies = replica_choice.even_totals(index, load.per_expert.ravel())
            inbound = index.sum_per_device(copies).reshape(load.layers, load.devices)
            traffic = Traffic.pooled(inbound, load.share)
        else:
            columns = columns_per_source(load)
            if is_nearest:
                split = replica_choice.nearest(index, columns, view.node_of)
            else:
                split = replica_choice.even(index, columns)
            copies = split.sum(axis=0)
            pairs = index.sum_per_device(split).reshape(load.devices, load.layers, load.devices)
            traffic = Traffic.of_pairs(pairs.transpose(1, 0, 2))
        assignments = Assignments(index.layer, index.expert, index.device, copies)
        return DispatchPlan(assignments, traffic, np.zeros(load.layers, dtype=bool))

    @staticmethod
    def _pooled_nearest(load: Load, index: PlacementIndex, view: ClusterView) -> tuple[IntArray, Traffic]:
        """Split totals over near replicas as if every source had its share of every expert."""
        totals = load.per_expert.ravel()
        parts = replica_choice.nearest_share(index, load.share, view.node_of) * totals[index.key]
        copies = replica_choice.largest_remainder(parts.sum(axis=0), index.key, totals)
        inbound = index.sum_per_device(copies).reshape(load.layers, load.devices)
        pairs = index.sum_per_device(parts).reshape(load.devices, load.layers, load.devices)
        return copies, Traffic.of_pairs(_fit(pairs.transpose(1, 0, 2), inbound.astype(np.float64)))

    def planning_seconds(self, experts: int, devices: int) -> float:
        """Return zero: the destination of a copy is a table look-up inside the permute kernel."""
        return 0.0
