"""FlexMoE: adapt the copies of experts to the load, move by move, where a move gains more than it costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.policies.base import ClusterView, Parameters
from moesim.policies.placement.eplb_policy import slots_per_device
from moesim.policies.placement.flexmoe_moves import Layer, Prices, adjusted
from moesim.policies.plan import Placement

IntArray = npt.NDArray[np.int64]


class FlexMoeParameters(Parameters):
    """Parameters of FlexMoE."""

    redundant: int | None = Field(
        default=None,
        json_schema_extra={"tune": [0, "experts"]},
        ge=0,
        description="copies per layer beyond one of each expert; by default one slot more per device than an"
        " even share has, if memory holds it",
    )
    threshold: float = Field(
        default=1.05,
        json_schema_extra={"tune": [1.0, 2.0]},
        ge=1,
        description="busiest device over the mean below which nothing moves (moesim's own)",
    )
    horizon: float = Field(
        default=1.0,
        json_schema_extra={"tune": [0.1, 100.0, "log"]},
        ge=0,
        description="how long a gain is expected to last, in lengths of the window that was looked at"
        " (moesim's own)",
    )
    moves: int = Field(
        default=64,
        json_schema_extra={"tune": [1, 256, "log"]},
        ge=1,
        le=100_000,
        description="most moves per layer and refresh (moesim's own)",
    )


@dataclass(frozen=True)
class FlexMoe:
    """Experts expand, shrink and migrate from where they stand."""

    parameters: FlexMoeParameters = field(default_factory=FlexMoeParameters)
    name: ClassVar[str] = "flexmoe"
    summary: ClassVar[str] = "expand, shrink and migrate experts while a move gains more than it costs"
    needs: ClassVar[str] = "past loads; room for copies; `refresh` to move anything"
    source: ClassVar[str] = "FlexMoE (arXiv 2304.03946); details of the search are moesim's own"
    parameters_type: ClassVar[type[Parameters]] = FlexMoeParameters

    def place(self, statistics: npt.NDArray[np.int64], view: ClusterView) -> Placement:
        """Move experts from the placement in force; without one, from blocks of neighbours and at no cost.

        Args:
            statistics: past copies per expert, int64 [layers, experts].
            view: the machine and the placement in force.

        Raises:
            InputError: more redundant experts than memory holds.
        """
        asked = self.parameters
        room = slots_per_device(view.experts, asked.redundant, view.devices, view.free_expert_slots)
        before = self._before(statistics.shape[0], room, view)
        prices = self._prices(view, moving=before is not None)
        slots = _blocks(statistics.shape[0], room, view.experts) if before is None else before
        loads = np.asarray(statistics, dtype=np.float64)
        found = [
            adjusted(Layer(layer, room, load), prices, asked.threshold, asked.moves).slots
            for layer, load in zip(slots, loads, strict=True)
        ]
        return Placement(np.stack(found), view.experts)

    def _before(self, layers: int, room: IntArray, view: ClusterView) -> IntArray | None:
        """Return the slots in force, if they are within the room, int64 [layers, devices, slots]."""
        past = None if view.past is None else view.past.previous
        if past is None or past.slots.shape[:2] != (layers, view.devices) or past.experts != view.experts:
            return None
        if (past.experts_per_device > room).any():
            return None
        # Filled slots first; what the others hold is empty.
        order = np.argsort(past.slots < 0, axis=2, kind="stable")
        slots = np.take_along_axis(past.slots, order, axis=2)
        wide = int(room.max())
        if slots.shape[2] >= wide:
            return slots[:, :, :wide]
        return np.pad(slots, ((0, 0), (0, 0), (0, wide - slots.shape[2])), constant_values=-1)

    def _prices(self, view: ClusterView, moving: bool) -> Prices:
        speed = np.ones(view.devices) if view.speed is None else view.speed
        per_copy = view.expert_flops / view.flops / speed
        if not moving:
            return Prices(per_copy, 0.0, 0.0, view.node_of)
        inside = view.inside_bandwidth or view.between_bandwidth
        between = view.between_bandwidth or inside
        near, far = (view.expert_bytes / rate if rate else 0.0 for rate in (inside, between))
        return Prices(per_copy * self.parameters.horizon, near, far, view.node_of)


def _blocks(layers: int, room: IntArray, experts: int) -> IntArray:
    """Return experts in blocks of neighbours, other slots empty, int64 [layers, devices, slots]."""
    slots = np.full((room.size, int(room.max())), -1, dtype=np.int64)
    even = np.full(room.size, experts // room.size, dtype=np.int64)
    # Devices with most room take the experts that do not divide.
    even[np.argsort(even - room, kind="stable")[: experts % room.size]] += 1
    slots[np.arange(slots.shape[1]) < even[:, np.newaxis]] = np.arange(experts)
    return np.repeat(slots[np.newaxis], layers, axis=0)
