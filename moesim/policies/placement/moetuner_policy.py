"""MoETuner as a placement policy: which bandwidths, which limits, what is said of the solution."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.policies.base import ClusterView, Parameters
from moesim.policies.placement.layout import bandwidths, past_of
from moesim.policies.placement.mapping import Objective
from moesim.policies.placement.moetuner import Solution, Solver, solve
from moesim.policies.plan import Placement


class MoetunerParameters(Parameters):
    """Parameters of MoETuner."""

    objective: Objective = Field(
        default="sum",
        description="stage 2 minimises the worst transfers between neighbouring layers: their sum, or the"
        " largest (max)",
    )
    solver: Solver = Field(
        default="auto",
        json_schema_extra={"tune": False},
        description="what closes stage 1 where search and bound leave it open: auto enumerates if possible,"
        " else asks HiGHS up to 512 experts x devices; highs always asks HiGHS; search does neither",
    )
    time_limit_s: float = Field(
        default=20.0,
        gt=0,
        description="time for HiGHS and the search of stage 2; then the best found is used",
    )
    tolerance: float = Field(
        default=0.005,
        json_schema_extra={"tune": False},
        ge=0,
        lt=1,
        description="what HiGHS is not asked to save in stage 1: copies above or below the mean as a share of"
        " all copies of a layer",
    )


@dataclass(frozen=True)
class Moetuner:
    """Experts in clusters of even load, mapped to devices so that the worst transfers are small.

    Devices are taken to be alike, as in the paper, and experts to be placed once. A device's bandwidth is
    that of its node to devices of the node, and its share of the node's to others.
    """

    parameters: MoetunerParameters = field(default_factory=MoetunerParameters)
    name: ClassVar[str] = "moetuner"
    summary: ClassVar[str] = "even clusters of experts, mapped for small worst transfers between layers"
    needs: ClassVar[str] = "past loads and recorded tokens"
    source: ClassVar[str] = "MoETuner (arXiv 2502.06643)"
    parameters_type: ClassVar[type[Parameters]] = MoetunerParameters

    def place(self, statistics: npt.NDArray[np.int64], view: ClusterView) -> Placement:
        """Place experts by past load and by which experts follow each other.

        Args:
            statistics: past copies per expert, int64 [layers, experts].
            view: the machine.
        """
        inside, between = bandwidths(view)
        near = view.node_of[:, np.newaxis] == view.node_of
        asked = self.parameters
        solution = solve(
            statistics,
            past_of(statistics, view).onward * view.token_bytes,
            np.where(near, inside or 1.0, between or 1.0),
            objective=asked.objective,
            solver=asked.solver,
            time_limit_s=asked.time_limit_s,
            tolerance=asked.tolerance,
        )
        return replace(solution.placement, notes=(_note(solution, int(statistics.sum())),))


def _note(solution: Solution, copies: int) -> str:
    """Say how good the solution is.

    Args:
        solution: the solution.
        copies: past copies of all layers.
    """
    even, moved = solution.balanced, solution.transfers
    could_save = 100 * (even.objective - even.bound) / max(1, copies)
    told = (
        "clusters optimal"
        if even.optimal
        else f"clusters within {could_save:.1g} % of all copies of the least possible",
        "mapping optimal" if moved.optimal else f"mapping with a gap of {100 * moved.gap:.2g} %",
    )
    ended = "; ended by its limits, best found is used" if even.cut_short or moved.cut_short else ""
    return f"moetuner: {', '.join(told)}{ended}"
