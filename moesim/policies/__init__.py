"""What is decided: placement and dispatch, as pure functions from loads to plans."""

from __future__ import annotations

from moesim.policies.presets import create_policy, policy_presets
from moesim.policies.registry import create_dispatch, create_placement, dispatch_names, placement_names
from moesim.policies.rows import describe

__all__ = [
    "create_dispatch",
    "create_placement",
    "create_policy",
    "describe",
    "dispatch_names",
    "placement_names",
    "policy_presets",
]
