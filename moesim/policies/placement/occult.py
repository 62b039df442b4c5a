"""Occult: experts that tokens use together on one device, so that a token is sent fewer times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.policies.base import ClusterView, Parameters
from moesim.policies.placement.grouping import grouped, grow, inside
from moesim.policies.placement.layout import contiguous, even_room, past_of, slots_of
from moesim.policies.plan import Placement


class OccultParameters(Parameters):
    """Parameters of Occult."""

    refine: bool = Field(
        default=True,
        description="better the greedy groups, and contiguous ones, by swaps, and take the best; off: greedy"
        " groups alone, as published",
    )


@dataclass(frozen=True)
class Occult:
    """Groups of equally many experts that tokens use together, a group per device.

    A token is sent once to a device however many of its experts stand there. Load is not looked at: where
    hot experts are used together, they end up together.
    """

    parameters: OccultParameters = field(default_factory=OccultParameters)
    name: ClassVar[str] = "occult"
    summary: ClassVar[str] = "experts that tokens use together on one device, equally many each"
    needs: ClassVar[str] = "recorded tokens"
    source: ClassVar[str] = "Occult (arXiv 2505.13345)"
    parameters_type: ClassVar[type[Parameters]] = OccultParameters

    def place(self, statistics: npt.NDArray[np.int64], view: ClusterView) -> Placement:
        """Place experts by which of them tokens use together.

        Args:
            statistics: past copies per expert, int64 [layers, experts].
            view: the machine.
        """
        together = past_of(statistics, view).together
        room, blocks = even_room(view.experts, view.devices), contiguous(view.experts, view.devices)
        device_of = np.empty(statistics.shape, dtype=np.int64)
        for layer, weight in enumerate(together):
            if self.parameters.refine:
                # Sizes stay what they are: no group is above the least.
                device_of[layer] = grouped(weight, room, blocks, view.experts, view.experts)
            else:
                device_of[layer] = grow(weight, room)
        pairs = float(together.sum())
        kept = sum(inside(weight, row) for weight, row in zip(together, device_of, strict=True))
        notes = (
            (f"occult: {100 * kept / pairs:.1f} % of pairs of a token's experts on one device",)
            if pairs > 0
            else ()
        )
        return Placement(slots_of(device_of, view.devices), view.experts, notes)
