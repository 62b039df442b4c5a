"""GRACE-MoE: groups of experts used together, for nodes and then devices, with copies of hot experts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.errors import InputError
from moesim.policies.base import ClusterView, Parameters
from moesim.policies.placement.grouping import grouped, inside
from moesim.policies.placement.layout import contiguous, even_room, most_slots, near_worth, past_of
from moesim.policies.plan import Placement

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class GraceParameters(Parameters):
    """Parameters of GRACE-MoE."""

    spread: int = Field(
        default=1,
        json_schema_extra={"tune": [0, 8]},
        ge=0,
        description="experts by which a device may be above or below its even share, if memory holds them",
    )
    redundant: int | None = Field(
        default=None,
        json_schema_extra={"tune": [0, "experts"]},
        ge=0,
        description="most copies per layer beyond one of each expert; by default as many as devices, as"
        " far as memory holds them",
    )


@dataclass(frozen=True)
class Grace:
    """Experts that tokens use together in one node and on one device, hot ones copied to idle devices.

    Groups may differ in size. Copies are added as long as the busiest device gets relief. The published
    system also prefers a copy on the device of the token, then in its node: dispatch ``standard`` with
    ``replica_choice: nearest``.
    """

    parameters: GraceParameters = field(default_factory=GraceParameters)
    name: ClassVar[str] = "grace"
    summary: ClassVar[str] = "experts used together in a node and on a device, hot ones copied"
    needs: ClassVar[str] = "recorded tokens; room for copies"
    source: ClassVar[str] = "GRACE-MoE (arXiv 2509.25041), from its abstract"
    parameters_type: ClassVar[type[Parameters]] = GraceParameters

    def place(self, statistics: npt.NDArray[np.int64], view: ClusterView) -> Placement:
        """Place experts by which of them tokens use together, and copies by load.

        Args:
            statistics: past copies per expert, int64 [layers, experts].
            view: the machine.

        Raises:
            InputError: the redundant experts do not fit.
        """
        room = most_slots(view)
        asked = self.parameters.redundant
        fits = room * view.devices - view.experts
        if asked is not None and asked > fits:
            message = (
                f"grace: {asked} redundant experts do not fit, memory holds {room} slots per device and layer"
            )
            raise InputError(message, hint=f"at most {fits} fit")
        copies = view.devices if asked is None else asked
        speed = np.ones(view.devices) if view.speed is None else np.asarray(view.speed)
        together = past_of(statistics, view).together
        layers = []
        for weight, loads in zip(together, statistics, strict=True):
            device_of = self.groups(weight, view)
            held = [np.flatnonzero(device_of == device).tolist() for device in range(view.devices)]
            layers.append(_with_copies(held, loads.astype(np.float64), copies, room, speed))
        widest = max((len(held) for layer in layers for held in layer), default=1)
        slots = np.full((len(layers), view.devices, max(1, widest)), -1, dtype=np.int64)
        for at, layer in enumerate(layers):
            for device, experts in enumerate(layer):
                slots[at, device, : len(experts)] = experts
        return Placement(slots, view.experts)

    def groups(self, weight: FloatArray, view: ClusterView) -> IntArray:
        """Return the device of each expert before copies, int64 [experts].

        Never worse than contiguous blocks by ``score``.

        Args:
            weight: tokens of a layer that use both experts, [experts, experts].
            view: the machine.
        """
        share, spread = view.experts // view.devices, self.parameters.spread
        most = min(-(-view.experts // view.devices) + spread, most_slots(view))
        least = max(min(1, share), share - spread)
        blocks = contiguous(view.experts, view.devices)
        devices_of = [np.flatnonzero(view.node_of == node) for node in np.unique(view.node_of)]
        even = even_room(view.experts, view.devices)
        node_room = np.asarray([int(even[devices].sum()) for devices in devices_of], dtype=np.int64)
        node_start = np.searchsorted(np.unique(view.node_of), view.node_of[blocks])
        alike = len({devices.size for devices in devices_of}) == 1
        devices_each = devices_of[0].size
        # Nodes of unlike size keep their even share of experts.
        bounds = (least * devices_each, most * devices_each) if alike else (view.experts, view.experts)
        node = grouped(weight, node_room, node_start.astype(np.int64), *bounds)
        device_of = np.empty(view.experts, dtype=np.int64)
        for number, devices in enumerate(devices_of):
            members = np.flatnonzero(node == number)
            part = weight[np.ix_(members, members)]
            start = contiguous(members.size, devices.size)
            local = grouped(part, even_room(members.size, devices.size), start, least, most)
            device_of[members] = devices[local]
        both = (device_of, blocks)
        scores = [score(weight, one, view) for one in both]
        return both[scores.index(max(scores))]


def score(weight: FloatArray, device_of: IntArray, view: ClusterView) -> float:
    """Return the pairs on one device and, at what a node is worth, those in one node."""
    near = near_worth(view)
    return (1 - near) * inside(weight, device_of) + near * inside(weight, view.node_of[device_of])


def _with_copies(
    held: list[list[int]], loads: FloatArray, copies: int, room: int, speed: FloatArray
) -> list[list[int]]:
    """Copy experts of the busiest device to the idlest with room, as long as that relieves it."""
    count = np.ones(loads.size)
    for expert_lists in held:
        expert_lists.sort(key=lambda expert: -loads[expert])

    for _ in range(copies):
        busy = np.asarray([sum(loads[e] / count[e] for e in experts) for experts in held]) / speed
        hottest = int(busy.argmax())
        best: tuple[float, int, int] | None = None
        for expert in held[hottest]:
            part = loads[expert] / (count[expert] + 1)
            for device in np.argsort(busy, kind="stable").tolist():
                if len(held[device]) < room and expert not in held[device]:
                    # What the taker, or the giver, carries afterwards.
                    after = max(
                        float(busy[device] + part / speed[device]),
                        float(busy[hottest] - (loads[expert] / count[expert] - part) / speed[hottest]),
                    )
                    if best is None or after < best[0]:
                        best = (after, expert, device)
                    break
        if best is None or best[0] >= busy[hottest]:
            break
        _, expert, device = best
        held[device].append(expert)
        count[expert] += 1
    return held
