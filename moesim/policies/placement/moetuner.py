"""MoETuner: experts into balanced clusters, clusters onto devices with small worst transfers.

The two-stage integer program of MoETuner (Go & Mahajan, arXiv 2502.06643), whose authors publish no code.
Stage 1 splits the experts of each layer into clusters of equal size with even loads; layers are
independent. Stage 2 gives each cluster of each layer a device so that the worst transfer between devices,
from one layer to the next, is small. Both say how far they may be from the best.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from moesim.policies.placement.clustering import Problem, cluster
from moesim.policies.placement.clustering_exact import enumerate_clusters, with_highs
from moesim.policies.placement.layout import slots_of
from moesim.policies.placement.mapping import Objective, map_clusters
from moesim.policies.plan import Placement

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Solver = Literal["auto", "highs", "search"]
_Layer = tuple[Problem, list[list[int]], int, bool]

MOST_CHOICES: Final = 512
"""Experts x clusters of a layer up to which HiGHS is asked unless it is wanted by name: beyond, it does not
end within any time worth waiting for, and never finds more than the search."""


@dataclass(frozen=True)
class Stage:
    """How good the answer of a stage is.

    Attributes:
        objective: what was minimised.
        bound: no answer has a smaller objective.
        cut_short: whether a limit of time or effort ended it; the best answer found is used.
    """

    objective: float
    bound: float
    cut_short: bool = False

    @property
    def gap(self) -> float:
        """Share of the objective that a better answer could save at most."""
        return max(0.0, 1.0 - self.bound / self.objective) if self.objective > 0 else 0.0

    @property
    def optimal(self) -> bool:
        """Whether no answer is better, but for rounding."""
        return self.gap <= 1e-9


@dataclass(frozen=True, eq=False)
class Solution:
    """Where experts go, and how good that is.

    Attributes:
        placement: the placement.
        clusters: experts of each cluster of each layer; cluster c of layer l stands on ``device_of[l, c]``.
        device_of: device of each cluster, int64 [layers, clusters].
        balance: stage 1 of each layer, in copies above or below the mean.
        transfers: stage 2, in traffic over bandwidth.
    """

    placement: Placement
    clusters: tuple[tuple[tuple[int, ...], ...], ...]
    device_of: IntArray
    balance: tuple[Stage, ...]
    transfers: Stage

    @property
    def balanced(self) -> Stage:
        """Stage 1 of all layers together."""
        return Stage(
            sum(stage.objective for stage in self.balance),
            sum(stage.bound for stage in self.balance),
            any(stage.cut_short for stage in self.balance),
        )

    @property
    def objective(self) -> float:
        """What stage 2 minimises: the costs of the boundaries between layers, summed or the largest."""
        return self.transfers.objective

    @property
    def gap(self) -> float:
        """The larger gap of the two stages."""
        return max(self.balanced.gap, self.transfers.gap)

    @property
    def optimal(self) -> bool:
        """Whether both stages are solved to the end."""
        return all(stage.optimal for stage in (*self.balance, self.transfers))


def solve(
    loads: IntArray,
    onward: FloatArray,
    bandwidth: FloatArray,
    *,
    objective: Objective = "sum",
    solver: Solver = "auto",
    time_limit_s: float = 20.0,
    tolerance: float = 0.0,
) -> Solution:
    """Place experts.

    Args:
        loads: copies per expert, int64 [layers, experts].
        onward: tokens that used an expert and then one of the next layer, [layers - 1, experts, experts].
        bandwidth: rate between devices, [devices, devices]; the diagonal is not looked at.
        objective: ``sum`` over the boundaries between layers of the worst pair's traffic / bandwidth, or
            the ``max`` of them.
        solver: how stage 1 closes what its search leaves open: ``auto`` enumerates where that is
            possible and else asks HiGHS if that can help, ``highs`` always asks HiGHS, ``search`` leaves it.
        time_limit_s: for HiGHS and for the search of stage 2, together.
        tolerance: what a better clustering of a layer could save, as a share of its copies, that is not
            worth asking HiGHS.
    """
    end = time.monotonic() + time_limit_s
    devices = len(bandwidth)
    # Layers with the same loads, as where recorded layers are repeated, are solved once.
    rows, row_of = np.unique(loads, axis=0, return_inverse=True)
    solved: list[_Layer] = []
    for row in rows:
        problem, found, bound = cluster(row, devices)
        if bound < problem.value(found) and solver == "auto":
            best = enumerate_clusters(problem, found)
            if best is not None:
                found, bound = best, problem.value(best)
        solved.append((problem, found, bound, False))
    far = [at for at, layer in enumerate(solved) if _far(layer, tolerance)]
    asks = solver == "highs" or (solver == "auto" and loads.shape[1] * devices <= MOST_CHOICES)
    for turn, at in enumerate(far if asks else ()):
        problem, found, bound, _ = solved[at]
        # Half of what is left, so that stage 2 has its share.
        seconds = (end - time.monotonic()) / 2 / (len(far) - turn)
        solved[at] = (problem, *with_highs(problem, found, bound, seconds))
    layers = [solved[at] for at in row_of.ravel()]
    clusters = tuple(_in_order(found) for _, found, _, _ in layers)
    member = np.zeros((*loads.shape, devices))
    for at, groups in enumerate(clusters):
        for number, group in enumerate(groups):
            member[at, list(group), number] = 1.0
    traffic = np.einsum("lec,lef,lfd->lcd", member[:-1], onward, member[1:], optimize=True)
    mapping = map_clusters(traffic, bandwidth, objective, max(0.0, end - time.monotonic()))
    device_of = np.take_along_axis(mapping.device_of, member.argmax(axis=2), axis=1)
    return Solution(
        Placement(slots_of(device_of, devices), loads.shape[1]),
        clusters,
        mapping.device_of,
        tuple(
            Stage(problem.copies(problem.value(found)), problem.copies(bound), timed_out)
            for problem, found, bound, timed_out in layers
        ),
        Stage(mapping.objective, mapping.bound, mapping.timed_out),
    )


def _far(layer: _Layer, tolerance: float) -> bool:
    """Tell whether a layer is further from its bound than is tolerated."""
    problem, found, bound, _ = layer
    return problem.value(found) - bound > tolerance * problem.count * problem.total


def _in_order(found: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    """Sort experts and clusters, empty ones last."""
    return tuple(sorted((tuple(sorted(group)) for group in found), key=lambda g: (not g, g)))
