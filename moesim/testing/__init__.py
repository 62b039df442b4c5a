"""Contract checks that every policy must pass, built-in or third-party.

``check_placement_policy(policy)``, ``check_dispatch_policy(policy)`` and, of policies that offload,
``check_cache_policy(policy)``, ``check_prefetch_policy(policy)`` and ``check_miss_policy(policy)`` need
nothing but moesim. The strategies, for tests with Hypothesis, are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from moesim.testing.cases import (
    DispatchCase,
    PlacementCase,
    dispatch_cases,
    make_load,
    make_placement,
    make_view,
    placement_cases,
)
from moesim.testing.dispatch_checks import check_dispatch_policy, check_plan
from moesim.testing.offload_checks import (
    OffloadCase,
    check_cache_policy,
    check_miss_policy,
    check_prefetch_policy,
    offload_cases,
)
from moesim.testing.placement_checks import check_placement, check_placement_policy

if TYPE_CHECKING:
    from moesim.testing.strategies import cluster_views, dispatch_inputs, loads, placement_inputs, placements

__all__ = [
    "DispatchCase",
    "OffloadCase",
    "PlacementCase",
    "check_cache_policy",
    "check_dispatch_policy",
    "check_miss_policy",
    "check_placement",
    "check_placement_policy",
    "check_plan",
    "check_prefetch_policy",
    "cluster_views",
    "dispatch_cases",
    "dispatch_inputs",
    "loads",
    "make_load",
    "make_placement",
    "make_view",
    "offload_cases",
    "placement_cases",
    "placement_inputs",
    "placements",
]

_STRATEGIES = {"cluster_views", "dispatch_inputs", "loads", "placement_inputs", "placements"}


def __getattr__(name: str) -> Any:
    """Import strategies on first use, so that the checks work without Hypothesis."""
    if name in _STRATEGIES:
        return getattr(import_module("moesim.testing.strategies"), name)
    message = f"module 'moesim.testing' has no attribute '{name}'"
    raise AttributeError(message)
