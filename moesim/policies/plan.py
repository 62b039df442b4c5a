"""What policies decide, as plain data: placements and dispatch plans."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.hardware.traffic import Traffic

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Placement:
    """Which expert every slot of every device holds, per MoE layer.

    Attributes:
        slots: logical expert per slot, int64 [layers, devices, slots]; -1 marks an empty slot.
        experts: number of logical experts; each stands in at least one slot of every layer.
        notes: what is to be said of how it was found, for example that a solver ran out of time.
    """

    slots: IntArray
    experts: int
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that every expert of every layer has a home."""
        if self.slots.ndim != 3:
            message = f"a placement has shape [layers, devices, slots], got {self.slots.shape}"
            raise InputError(message)
        if self.slots.size and (int(self.slots.max()) >= self.experts or int(self.slots.min()) < -1):
            message = f"a slot holds an expert outside 0..{self.experts - 1}"
            raise InputError(message)
        if int(self.replicas.min(initial=1)) < 1:
            layer, expert = (int(i) for i in np.argwhere(self.replicas < 1)[0])
            message = f"layer {layer}: expert {expert} has no slot"
            raise InputError(message)

    @property
    def layers(self) -> int:
        """Number of MoE layers."""
        return int(self.slots.shape[0])

    @property
    def devices(self) -> int:
        """Number of devices."""
        return int(self.slots.shape[1])

    @property
    def replicas(self) -> IntArray:
        """Copies of each expert, int64 [layers, experts]."""
        flat = self.slots.reshape(self.slots.shape[0], -1)
        rows = np.arange(flat.shape[0])[:, np.newaxis] * (self.experts + 1)
        counts = np.bincount((flat + 1 + rows).ravel(), minlength=flat.shape[0] * (self.experts + 1))
        return counts.reshape(flat.shape[0], self.experts + 1)[:, 1:].astype(np.int64)

    @property
    def experts_per_device(self) -> IntArray:
        """Filled slots of each device, int64 [layers, devices]."""
        return np.asarray((self.slots >= 0).sum(axis=2), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Assignments:
    """Who computes what: parallel columns, one row per (layer, expert, device).

    Attributes:
        layer: MoE layer, int64 [rows].
        expert: logical expert, int64 [rows].
        device: device that computes, int64 [rows].
        copies: token copies it computes, int64 [rows]; rows with 0 copies may be left out.
    """

    layer: IntArray
    expert: IntArray
    device: IntArray
    copies: IntArray

    def per_device(self, layers: int, devices: int) -> IntArray:
        """Sum copies per device, int64 [layers, devices]."""
        keys = self.layer * devices + self.device
        summed = np.bincount(keys, weights=self.copies, minlength=layers * devices)
        return np.rint(summed).astype(np.int64).reshape(layers, devices)

    def per_expert(self, layers: int, experts: int) -> IntArray:
        """Sum copies per expert, int64 [layers, experts]."""
        keys = self.layer * experts + self.expert
        summed = np.bincount(keys, weights=self.copies, minlength=layers * experts)
        return np.rint(summed).astype(np.int64).reshape(layers, experts)


def _no_rows() -> IntArray:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class WeightMoves:
    """Expert weights copied for one layer only: one row per distinct (layer, expert, target).

    Attributes:
        layer: MoE layer, int64 [rows].
        expert: logical expert, int64 [rows].
        source: device that sends the weights, or -1 for the memory of the target's host, int64 [rows]. A
            device may hand on what another move of the same layer brings it.
        target: device that receives them, int64 [rows].
    """

    layer: IntArray = field(default_factory=_no_rows)
    expert: IntArray = field(default_factory=_no_rows)
    source: IntArray = field(default_factory=_no_rows)
    target: IntArray = field(default_factory=_no_rows)

    def __len__(self) -> int:
        """Return the number of moves."""
        return int(self.layer.size)


@dataclass(frozen=True, eq=False)
class DispatchPlan:
    """What a dispatch policy decides for all MoE layers of one step.

    Attributes:
        assignments: who computes which copies of which expert.
        traffic: token copies from each device to each device (own ones included).
        moves: weights to send beside the tokens.
        planned: whether a plan had to be computed for the layer, bool [layers]; the policy's planning
            time is charged where true.
        dropped: copies that no device computes, int64 [layers]; zero for exact policies.
        changed: tokens that get another output than the model's own (dropped or rerouted copies),
            int64 [layers]; zero for exact policies.
    """

    assignments: Assignments
    traffic: Traffic
    planned: npt.NDArray[np.bool_]
    moves: WeightMoves = field(default_factory=WeightMoves)
    dropped: IntArray | None = None
    changed: IntArray | None = None
