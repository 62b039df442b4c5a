"""What the next layer needed most often before the run."""

from __future__ import annotations

from pydantic import Field

from moesim.policies.base import Parameters
from moesim.policies.prefetch.base import Ints, Outlook, PrefetchBase, PrefetchFrame, PrefetchState, Wanted
from moesim.policies.prefetch.common import activations, best_of


class PopularParameters(Parameters):
    """Parameters of prefetch by popularity."""

    top: int | None = Field(None, ge=1, description="experts of a layer held; none: as the cache holds")


class _Popularity:
    def __init__(self, frame: PrefetchFrame, top: int | None) -> None:
        self.top = top
        self.counts = activations(frame.profile, frame.experts)

    def reset(self) -> None:
        pass

    def see(self, layer: int, ids: Ints) -> None:
        pass

    def wanted(self, outlook: Outlook) -> Wanted:
        target = outlook.layer + 1
        return best_of(outlook, target, self.counts[target % len(self.counts)], self.top)


class Popular(PrefetchBase):
    """Popular experts of the next layer."""

    name = "popular"
    summary = "load the experts of the next layer that the profile used most, on into the next iteration"
    source = "baseline; the popularity that Fiddler, arXiv 2402.07033, places by"
    needs_profile = True
    parameters_type = PopularParameters

    def start(self, frame: PrefetchFrame) -> PrefetchState:
        """Begin a run."""
        return _Popularity(frame, self.parameters.top)
