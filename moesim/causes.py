"""Causes of time: every second of every device in a step belongs to exactly one of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

CAUSE_MEANING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "attention": "attention and its projections",
        "all_reduce": "summing what tensor-parallel devices hold parts of",
        "dense": "dense feed-forward layers and shared experts",
        "gate": "router scores and top-k choice",
        "permute": "sorting token copies by expert before dispatch",
        "launch": "waiting for the host to launch kernels, where they are not recorded in graphs",
        "planning": "computing the plan of the policy, its exchange of loads included",
        "dispatch": "sending token copies to the devices that compute them, where nothing hides it",
        "weight_move": "expert weights on the wire that nothing else hides",
        "experts": "grouped matrix multiplications of the routed experts",
        "expert_load": "waiting for weights of experts from host memory or a drive",
        "cpu_experts": "waiting for experts that the host's CPU computes",
        "combine": "sending expert outputs back, where nothing hides it",
        "unpermute": "weighted sum of the copies of each token",
        "wait": "idle until the slowest device or transfer is done",
        "migration": "experts' weights changing places before the step, where the placement was refreshed",
    }
)
"""What a second of a step can be spent on, in the fixed order of all outputs."""

CAUSES: Final = tuple(CAUSE_MEANING)
"""Names of the causes, in the order of a layer."""
