"""Which published models route like a trace."""

from __future__ import annotations

import numpy as np

from moesim.routing.locality.profile import LocalityProfile
from moesim.routing.locality.published import PublishedModel, published

_FROM = 1.0
"""Cache ratio from which rates are compared: below, one cache for all layers, as was published, finds far
more than a cache per layer, which then holds next to nothing."""


def distance(profile: LocalityProfile, model: PublishedModel) -> float:
    """Return how unlike a published model is: the root mean square difference, in shares from 0 to 1.

    SRP at all windows counts once, and so does each hit-rate curve at the published ratios from 1; what only
    one side has is left out. Infinite if there is nothing to compare.
    """
    parts = []
    srp = [
        float(found.model.srp) - said
        for window, found in profile.consistency.items()
        if (said := model.srp_at(window)) is not None
    ]
    if srp:
        parts.append(float(np.mean(np.square(srp))))
    for policy in profile.curves:
        curve = {ratio: rate for ratio, rate in model.curve(policy).items() if ratio >= _FROM}
        if curve:
            difference = profile.rates(policy, list(curve)) - np.array(list(curve.values()))
            parts.append(float(np.mean(np.square(difference))))
    return float(np.sqrt(np.mean(parts))) if parts else float("inf")


def nearest_models(profile: LocalityProfile, count: int = 3) -> list[tuple[PublishedModel, float]]:
    """Return the published models most like a trace and their :func:`distance`, nearest first."""
    ranked = sorted(((model, distance(profile, model)) for model in published().models), key=lambda p: p[1])
    return ranked[:count]
