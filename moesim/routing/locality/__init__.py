"""How locally a model routes: caches of every size over recorded sequences (arXiv 2505.16056)."""

from __future__ import annotations

from moesim.routing.locality.accesses import Accesses
from moesim.routing.locality.curves import hit_rate_curves
from moesim.routing.locality.stack import POLICIES, stack_distances

__all__ = ["POLICIES", "Accesses", "hit_rate_curves", "stack_distances"]
