"""How locally a model routes: consistency, reuse, caches of every size (arXiv 2505.16056)."""

from __future__ import annotations

from moesim.routing.locality.accesses import Accesses
from moesim.routing.locality.consistency import (
    Consistency,
    Scores,
    routing_consistency,
    segment_scores,
    window_histogram,
)
from moesim.routing.locality.curves import distances_to_curves, hit_rate_curves
from moesim.routing.locality.knee import RATIOS, Knee, at_ratios, find_knee
from moesim.routing.locality.likeness import distance, nearest_models
from moesim.routing.locality.profile import WINDOWS, LocalityProfile, measure_locality
from moesim.routing.locality.published import (
    Published,
    PublishedModel,
    published,
    published_model,
    published_table,
)
from moesim.routing.locality.reuse import Distribution, Popularity, Reuse, popularity, reuse
from moesim.routing.locality.selection import Selection, select_accesses
from moesim.routing.locality.stack import POLICIES, stack_distances
from moesim.routing.locality.summary import profile_summary, published_summary

__all__ = [
    "POLICIES",
    "RATIOS",
    "WINDOWS",
    "Accesses",
    "Consistency",
    "Distribution",
    "Knee",
    "LocalityProfile",
    "Popularity",
    "Published",
    "PublishedModel",
    "Reuse",
    "Scores",
    "Selection",
    "at_ratios",
    "distance",
    "distances_to_curves",
    "find_knee",
    "hit_rate_curves",
    "measure_locality",
    "nearest_models",
    "popularity",
    "profile_summary",
    "published",
    "published_model",
    "published_summary",
    "published_table",
    "reuse",
    "routing_consistency",
    "segment_scores",
    "select_accesses",
    "stack_distances",
    "window_histogram",
]
