"""Any experts of the next layer: what guessing is worth."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from moesim.policies.base import Parameters
from moesim.policies.prefetch.base import Ints, Outlook, PrefetchBase, PrefetchFrame, PrefetchState, Wanted
from moesim.policies.prefetch.common import best_of


class RandomParameters(Parameters):
    """Parameters of guessing."""

    top: int | None = Field(None, ge=1, description="experts guessed; none: as many as a token needs")


class _Drawn:
    def __init__(self, frame: PrefetchFrame, top: int | None) -> None:
        self.frame = frame
        self.top = top or frame.top_k

    def reset(self) -> None:
        pass

    def see(self, layer: int, ids: Ints) -> None:
        pass

    def wanted(self, outlook: Outlook) -> Wanted:
        target = outlook.layer + 1
        if target >= self.frame.layers:
            return []
        random = np.random.default_rng((self.frame.seed, outlook.iteration, target))
        worth = random.permutation(self.frame.experts).astype(np.float64) + 1
        return best_of(outlook, target, worth, self.top)


class Random(PrefetchBase):
    """Guess."""

    name = "random"
    summary = "load any experts of the next layer, all alike"
    source = "baseline"
    parameters_type = RandomParameters

    def start(self, frame: PrefetchFrame) -> PrefetchState:
        """Begin a run."""
        return _Drawn(frame, self.parameters.top)
