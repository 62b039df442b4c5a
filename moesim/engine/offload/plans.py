"""Who computes which of a pass's experts, and which are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moesim.engine.exchange import ExchangeCosts
from moesim.engine.offload.demand import LayerDemand
from moesim.engine.offload.residency import Residency

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet


@dataclass(frozen=True)
class Plans:
    """Who computes what: demands by device and MoE layer, None on one device, and what the network takes."""

    parts: list[list[LayerDemand]] | None
    exchange: ExchangeCosts | None


class Part:
    """The tokens that a device computes of each expert of a layer."""

    def __init__(self) -> None:
        self.tokens: dict[int, int] = {}

    def of(self, whole: LayerDemand) -> LayerDemand:
        """Return the demand of the device, in the order of the whole one."""
        places = [place for place, expert in enumerate(whole.experts) if expert in self.tokens]
        experts = [whole.experts[place] for place in places]
        return LayerDemand(
            experts,
            [self.tokens[expert] for expert in experts],
            None if whole.classes is None else [whole.classes[place] for place in places],
            whole.ids[:, places],
            None if whole.weights is None else whole.weights[:, places],
            None if whole.precision is None else whole.precision[:, places],
        )


class Held(Sequence["AbstractSet[int]"]):
    """Experts of each layer that some device holds or awaits, looked up when asked for."""

    def __init__(self, residency: Sequence[Residency]) -> None:
        self._residency = residency

    def __len__(self) -> int:
        return self._residency[0].frame.layers

    def __getitem__(self, layer: int) -> AbstractSet[int]:  # type: ignore[override]
        found = set(self._residency[0].present[layer])
        for other in self._residency[1:]:
            found |= other.present[layer]
        return found
