"""Janus: where it moves fewer bytes, experts come to the tokens instead of tokens to the experts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.hardware.traffic import Traffic
from moesim.policies.base import ClusterView, Parameters
from moesim.policies.dispatch.fetching import Fetches, fetch_once_per_node
from moesim.policies.dispatch.local import copies_by_source, keep_local
from moesim.policies.dispatch.placement_index import PlacementIndex, index_for
from moesim.policies.dispatch.standard import Standard
from moesim.policies.plan import Assignments, DispatchPlan, Placement, WeightMoves
from moesim.policies.prediction import AnyPredictor, Oracle
from moesim.policies.quantities import Seconds
from moesim.routing.load import Load

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


class JanusParameters(Parameters):
    """Parameters of Janus."""

    bytes: Literal["crossing", "all"] = Field(
        default="crossing",
        json_schema_extra={"tune": False},
        description="bytes compared: those between nodes (all, on one node), or all between devices",
    )
    factor: float = Field(
        default=1.0,
        json_schema_extra={"tune": [0.1, 10.0, "log"]},
        ge=0,
        description="fetch where weights are fewer than so many times the bytes of tokens",
    )
    predictor: AnyPredictor = Field(
        default_factory=Oracle, description="load by which layers are chosen; oracle: the gate's own"
    )
    planning_fixed_s: Seconds = Field(
        default=20e-6, ge=0, description="planning time per layer: counts read back from the GPU"
    )


@dataclass(frozen=True)
class Janus:
    """Each layer is data-centric (every device fetches the experts of its tokens) or expert-centric.

    An expert crosses to a node once and is handed on inside it. Prefetching in earlier layers, which Janus
    does where memory allows, is not modelled: weights move beside dispatch.
    """

    parameters: JanusParameters = field(default_factory=JanusParameters)
    name: ClassVar[str] = "janus"
    summary: ClassVar[str] = "a layer fetches experts to its tokens where that moves fewer bytes"
    needs: ClassVar[str] = "predicted or exact counts; room for fetched experts"
    source: ClassVar[str] = "Janus (SIGCOMM 2023), by its summary; bytes of weights against tokens both ways"
    exact: ClassVar[bool] = True
    parameters_type: ClassVar[type[Parameters]] = JanusParameters

    def plan(self, load: Load, placement: Placement, view: ClusterView) -> DispatchPlan:
        """Plan all MoE layers of one step.

        Raises:
            InputError: load and placement differ in layers, devices or experts.
        """
        index = index_for(load, placement)
        planned = np.asarray(load.counts.any(axis=(1, 2)), dtype=np.bool_)
        fetches = self._chosen(self.parameters.predictor.predict(load, view), placement, index, view)
        # A wrong prediction may leave a layer that needs more experts than fit.
        fetches &= _most_needed(_needed(load, index)) <= view.free_expert_slots
        keeps = np.broadcast_to(fetches[:, np.newaxis, np.newaxis], index.held().shape)
        assignments, traffic = keep_local(load, placement, view, keeps)
        moves = self._moves(assignments, index, view)
        return DispatchPlan(assignments, traffic, planned, moves)

    def _chosen(
        self, load: Load, placement: Placement, index: PlacementIndex, view: ClusterView
    ) -> BoolArray:
        """Say which layers fetch, bool [layers]."""
        need = _needed(load, index, 0.5)
        found = fetch_once_per_node(need, index.held(), index.home, view.node_of)
        tokens = Standard().plan(load, placement, view).traffic
        weights, sent = self._compared(found, tokens, view)
        return np.asarray(weights < self.parameters.factor * sent, dtype=np.bool_)

    def _compared(
        self, fetches: Fetches, tokens: Traffic, view: ClusterView
    ) -> tuple[FloatArray, FloatArray]:
        """Return bytes of weights and of tokens both ways [layers]."""
        experts = fetches.crossing
        between = view.node_of[:, np.newaxis] != view.node_of
        if self.parameters.bytes == "all" or view.nodes == 1:
            experts = experts + fetches.inside
            between = ~np.eye(view.devices, dtype=bool)
        copies = (tokens.dense() * between).sum(axis=(1, 2))
        return experts.astype(np.float64) * view.expert_bytes, copies * (2.0 * view.token_bytes)

    @staticmethod
    def _moves(assignments: Assignments, index: PlacementIndex, view: ClusterView) -> WeightMoves:
        """Fetch what devices compute and do not hold."""
        held = index.held()
        need = np.zeros_like(held)
        some = assignments.copies > 0
        need[assignments.layer[some], assignments.device[some], assignments.expert[some]] = True
        return fetch_once_per_node(need & ~held, held, index.home, view.node_of).moves

    def planning_seconds(self, experts: int, devices: int) -> float:
        """Return the time to predict and to choose for one layer (s)."""
        return self.parameters.predictor.overhead_s + self.parameters.planning_fixed_s


def _needed(load: Load, index: PlacementIndex, least: float = 0.0) -> BoolArray:
    """Say which experts devices need for their own copies and lack, bool [layers, devices, experts]."""
    return np.asarray((copies_by_source(load) > least) & ~index.held(), dtype=np.bool_)


def _most_needed(need: BoolArray) -> npt.NDArray[np.int64]:
    """Return the most experts that a device of each layer would fetch, int64 [layers]."""
    return np.asarray(need.sum(axis=2).max(axis=1), dtype=np.int64)
