"""Gates that choose the experts of the next block instead of their own."""

from __future__ import annotations

from moesim.policies.prefetch.base import Outlook, PrefetchBase, PrefetchFrame, PrefetchState, Wanted
from moesim.policies.prefetch.common import needed_of
from moesim.policies.prefetch.given import GivenState


class _Known(GivenState):
    def wanted(self, outlook: Outlook) -> Wanted:
        target = outlook.layer + 1
        if not 0 < target < self.frame.layers:
            return []
        return needed_of(outlook, target, list(self.predict(outlook, target, 1.0)))


class PreGated(PrefetchBase):
    """Pre-gated MoE."""

    name = "pregated"
    summary = (
        "the gate of a block chooses the experts of the next, so they are known and loaded a block early; "
        "the first block has no prefetch; changes the model, which must be trained anew"
    )
    source = "Pre-gated MoE, ISCA 2024, arXiv 2308.12066"
    given = True
    exact = False

    def start(self, frame: PrefetchFrame) -> PrefetchState:
        """Begin a run."""
        return _Known(frame)
