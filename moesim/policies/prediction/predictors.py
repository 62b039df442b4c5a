"""Predictors of the load of a step."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.policies.base import ClusterView
from moesim.policies.prediction.base import Predictor, past_share, shares, spread
from moesim.policies.prediction.rounding import rounded
from moesim.routing.load import Load


class Oracle(Predictor):
    """Knows the load itself."""

    summary: ClassVar[str] = "the load itself: an upper bound, or a policy that plans after the gate"
    source: ClassVar[str] = "none"

    kind: Literal["oracle"] = "oracle"

    def predict(self, load: Load, view: ClusterView) -> Load:
        """Return the load."""
        return load


class Distribution(Predictor):
    """The whole past, scaled to the batch."""

    summary: ClassVar[str] = "each expert's share in the profiled past"
    source: ClassVar[str] = "MoE-GPS (arXiv 2506.07366), distribution-only"

    kind: Literal["distribution"] = "distribution"

    def predict(self, load: Load, view: ClusterView) -> Load:
        """Return the copies of each source, spread by each expert's share in the past."""
        return Load(spread(load.counts.sum(axis=2), past_share(view, load.layers)), load.tokens)


class LastWindow(Predictor):
    """The step before, scaled to the batch."""

    summary: ClassVar[str] = (
        "each expert's share in the last step; before the first, in the last part of the past"
    )
    source: ClassVar[str] = (
        "locality between iterations: Prophet (CLUSTER 2023), Pro-Prophet (arXiv 2411.10003)"
    )

    kind: Literal["last_window"] = "last_window"
    windows: int = Field(
        default=8, ge=1, le=64, description="parts of the past, of which the last stands for a step"
    )

    def predict(self, load: Load, view: ClusterView) -> Load:
        """Return the copies of each source, spread by each expert's share in the last window."""
        share = past_share(view, load.layers)
        if view.past is not None:
            share = shares(view.past.latest(self.windows)[-1])
        return Load(spread(load.counts.sum(axis=2), share), load.tokens)


class MovingAverage(Predictor):
    """Exponentially weighted shares of the last steps, scaled to the batch."""

    summary: ClassVar[str] = "each expert's share in the last steps, older ones counting less"
    source: ClassVar[str] = "exponential smoothing"

    kind: Literal["moving_average"] = "moving_average"
    windows: int = Field(default=8, ge=1, le=64, description="last steps, or parts of the past, that count")
    decay: float = Field(
        default=0.5, ge=0, le=1, description="weight of a step in that of the step after it; 1: all the same"
    )

    def predict(self, load: Load, view: ClusterView) -> Load:
        """Return the copies of each source, spread by each expert's weighted share."""
        share = past_share(view, load.layers)
        if view.past is not None:
            parts = np.stack([shares(part) for part in view.past.latest(self.windows)])
            weight = self.decay ** np.arange(len(parts) - 1, -1, -1.0)
            share = np.asarray(np.tensordot(weight / weight.sum(), parts, axes=1))
        return Load(spread(load.counts.sum(axis=2), share), load.tokens)


class TokenToExpert(Predictor):
    """Knows a given share of the copies; the rest is spread by the past."""

    summary: ClassVar[str] = "a given share of every expert's copies, the rest spread by the past"
    source: ClassVar[str] = "MoE-GPS (arXiv 2506.07366), token-to-expert"

    kind: Literal["token_to_expert"] = "token_to_expert"
    accuracy: float = Field(
        default=0.8, ge=0, le=1, description="share of copies whose expert is predicted right"
    )

    def predict(self, load: Load, view: ClusterView) -> Load:
        """Return the copies known of each source, and its others spread by the past."""
        sent = load.counts.sum(axis=2)
        known = np.floor(self.accuracy * sent + 0.5).astype(np.int64)
        right = rounded(load.counts * np.float64(self.accuracy), known)
        wrong = spread(sent - known, past_share(view, load.layers))
        return Load(right + wrong, load.tokens)
