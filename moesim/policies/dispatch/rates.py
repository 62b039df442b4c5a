"""What a policy's own performance model takes the machine for."""

from __future__ import annotations

from moesim.policies.base import ClusterView

NEVER = 1e30
"""Rate of what costs nothing."""


def copy_seconds(view: ClusterView) -> float:
    """Return what one token copy takes on the fastest device (s)."""
    return view.expert_flops / view.flops


def wire_bandwidth(view: ClusterView) -> float:
    """Return what a device sends to devices everywhere (bytes/s): between nodes where there are several."""
    rate = view.between_bandwidth if view.nodes > 1 and view.between_bandwidth > 0 else view.inside_bandwidth
    return rate if rate > 0 else NEVER
