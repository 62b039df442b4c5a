"""What past iterations that began alike went on to need."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from moesim.policies.base import Parameters
from moesim.policies.prefetch.base import (
    Floats,
    Ints,
    Outlook,
    PrefetchBase,
    PrefetchFrame,
    PrefetchState,
    Wanted,
)
from moesim.policies.prefetch.common import Stored, activations, best_of


class HistoryParameters(Parameters):
    """Parameters of matching past iterations."""

    store: int = Field(1000, ge=1, description="maps of past iterations kept")
    distance: int = Field(3, ge=1, description="layers ahead that are loaded")
    online: bool = Field(True, description="keep the maps of iterations of the run, too")


class _History:
    def __init__(self, frame: PrefetchFrame, parameters: HistoryParameters) -> None:
        self.frame, self.parameters = frame, parameters
        self.store = Stored(frame.layers, frame.experts, parameters.store)
        for token in frame.profile[-parameters.store :]:
            self.store.add(activations(token[np.newaxis], frame.experts))
        self.map = np.zeros((frame.layers, frame.experts))

    def reset(self) -> None:
        """Drop an iteration that was not finished."""
        self.map = np.zeros_like(self.map)

    def see(self, layer: int, ids: Ints) -> None:
        """Add to the map of the iteration; keep it when it is complete."""
        if layer == 0:
            self.map = np.zeros_like(self.map)
        self.map[layer] = np.bincount(ids.ravel(), minlength=self.frame.experts)
        self.store.follow(layer, self.map[layer])
        if self.parameters.online and layer == self.frame.layers - 1:
            self.store.add(self.map)

    def foretold(self, layer: int) -> tuple[Floats, float]:
        """Return the map that is taken to come true, and how like it this iteration is."""
        if layer < 0 or not len(self.store):
            return self.store.total, 0.0
        likeness = self.store.likeness
        best = int(np.argmax(likeness))
        return self.store.maps[best], float(likeness[best])

    def wanted(self, outlook: Outlook) -> Wanted:
        foretold, likeness = self.foretold(outlook.layer)
        found: Wanted = []
        for target in range(outlook.layer + 1, outlook.layer + 1 + self.parameters.distance):
            if target < self.frame.layers:
                top = set_size(foretold[target], 1 - likeness, self.frame.top_k)
                found += best_of(outlook, target, foretold[target], top)
        return found


def set_size(worth: Floats, share: float, least: int) -> int:
    """Return how many of the worthiest experts together have a share of the worth, at least ``least``."""
    falling = np.sort(worth)[::-1]
    reached = np.cumsum(falling) >= share * falling.sum() - 1e-9
    return max(least, int(np.argmax(reached)) + 1)


class History(PrefetchBase):
    """FineMoE's search of past trajectories."""

    name = "history"
    summary = (
        "take the past iteration most like this one so far; load what it needed of the next layers, more of "
        "it the less alike they are"
    )
    source = (
        "fMoE (FineMoE), arXiv 2502.05370; ids stand for its gate probabilities, and since traces hold no "
        "prompt embeddings, the sum of all maps for its match before the first layer"
    )
    needs_profile = True
    parameters_type = HistoryParameters

    def start(self, frame: PrefetchFrame) -> PrefetchState:
        """Begin a run."""
        return _History(frame, self.parameters)
