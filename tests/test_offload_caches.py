"""Caches of the engine against the replay of the same tokens, and Belady's bound through the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offload_runs import described, prepared, ran

from moesim.engine.offload.machine import ACCESSES, HITS, LOADS, LOW_HITS, LOW_LOADS, SKIPPED
from moesim.policies.cache.base import Precisions
from moesim.policies.cache.replay import replay
from moesim.policies.offload.create import create_offload
from moesim.policies.offload.system import Offload
from moesim.policies.presets import create_policy
from moesim.policies.registry import cache_names, create_cache

Mapping = dict[str, Any]
COMPARED = (ACCESSES, HITS, LOW_HITS, LOADS, LOW_LOADS, SKIPPED)
# Draws anew whenever it is asked, and is asked as often as experts leave.
UNLIKE = {"random"}


def decode(seed: int, steps: int, k: int, offload: Mapping, layers: int = 3, experts: int = 8) -> Mapping:
    made = described({"warm": False, **offload}, seed=seed)
    made["model"] |= {"top_k": k, "num_layers": layers, "num_routed_experts": experts}
    made["workload"]["steps"] = steps
    return made


def replayed(description: Mapping, cache: Any, capacity: int, scope: str) -> Any:
    """Replay the tokens of a run; counts [layers, what]."""
    runner = prepared(description)
    tokens = runner.source.request(0, description["workload"]["steps"])
    done = replay(
        cache,
        tokens.ids,
        description["model"]["num_routed_experts"],
        capacity,
        scope,  # type: ignore[arg-type]
        tokens.weights,
        profile=runner.sizes.profile,
    )
    return np.stack(
        [done.accesses, done.hits, done.low_hits, done.loads, done.low_loads, done.skipped], axis=1
    )


def capacity_of(scope: str, slots: int, layers: int) -> int:
    return slots if scope == "layer" else slots * layers


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("name", sorted(set(cache_names()) - UNLIKE))
@settings(max_examples=3)
@given(seed=st.integers(0, 99), steps=st.integers(1, 40), k=st.integers(1, 3), slots=st.integers(3, 7))
def test_one_token_at_a_time_hits_what_a_replay_hits(
    name: str, scope: str, seed: int, steps: int, k: int, slots: int
) -> None:
    if name == "hobbit":
        slots = max(slots, 5)
    description = decode(seed, steps, k, {"cache": name, "slots": slots, "scope": scope})
    found = ran(description).by_layer[:, COMPARED]
    expected = replayed(description, create_cache(name), capacity_of(scope, slots, 3), scope)
    np.testing.assert_array_equal(found, expected)


class TwoPrecisions(type(create_cache("lru"))):  # type: ignore[misc]
    """LRU in two caches."""

    name = "two_precisions"
    needs_weights = True

    def precisions(self) -> Precisions:
        return Precisions(t1=0.45, t2=0.8, low_share=0.5, low_size=1.0)


@pytest.mark.parametrize("scope", ["layer", "global"])
@settings(max_examples=12)
@given(seed=st.integers(0, 999), steps=st.integers(1, 40), k=st.integers(1, 3), slots=st.integers(6, 8))
def test_two_precisions_hit_what_a_replay_hits(scope: str, seed: int, steps: int, k: int, slots: int) -> None:
    description = decode(seed, steps, k, {"slots": slots, "scope": scope})
    made = create_offload({"slots": slots, "scope": scope, "warm": False})
    policy = replace(
        create_policy({"name": "a", "offload": {}}),
        offload=Offload(TwoPrecisions(), made.prefetch, made.misses, made.settings),
    )
    found = ran(description, policy).by_layer[:, COMPARED]
    expected = replayed(description, TwoPrecisions(), capacity_of(scope, slots, 3), scope)
    np.testing.assert_array_equal(found, expected)
