"""The caches of one device: whose priorities count, and what stands in them."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.engine.offload.residency import Residency
from moesim.policies.cache.base import CacheFrame
from moesim.policies.registry import cache_names, create_cache


def residency(name: str, caches: int = 2, slots: int = 2) -> Residency:
    future = np.zeros((9, caches, 2), dtype=np.int64) if name == "belady" else None
    profile = np.tile(np.arange(2), (4, 2, 1))
    frame = CacheFrame(2, 4, 2, caches, np.full(caches, slots), profile, future)
    return Residency(create_cache(name), frame, None)


def see(held: Residency, step: int, layer: int, experts: list[int]) -> None:
    weights = np.array([[0.6, 0.4]])[:, : len(experts)]
    held.see(step, layer, np.array([experts]), weights, np.zeros((1, len(experts)), dtype=np.int8))


@pytest.mark.parametrize("caches", [1, 2])
def test_a_prefetch_throws_out_what_its_own_layer_used_longest_ago(caches: int) -> None:
    held = residency("lru", caches, 2 if caches == 2 else 4)
    for layer in (0, 1):
        for expert in (0, 1):
            held.reserve(layer, expert, 0, 9)
            held.land(layer, expert, 0, fresh=False)
    see(held, 0, 0, [1, 0])
    see(held, 0, 1, [0])
    see(held, 1, 0, [1])
    see(held, 1, 1, [1])
    see(held, 2, 0, [0])
    # Layer 0 asks, but room is made in the cache of layer 1: its expert 0 was used before its expert 1.
    keep = {0, 1} if caches == 1 else set()
    assert held.make_room(1, 0, keep)
    assert held.present == [{0, 1}, {1}]


@pytest.mark.parametrize("name", sorted(set(cache_names()) - {"hobbit"}))
def test_every_policy_ranks_the_cache_that_is_asked(name: str) -> None:
    held = residency(name)
    held.hold(0, [0, 1])
    held.hold(1, [2, 3])
    see(held, 0, 0, [0, 1])
    assert held.make_room(1, 0, {3})
    assert held.present == [{0, 1}, {3}]
    assert held.stores[0].resident == [{0, 1}, {3}]


def test_what_is_on_its_way_takes_room_and_what_is_kept_never_leaves() -> None:
    held = residency("lru")
    held.reserve(0, 0, 0, 7)
    held.hold(0, [1])
    see(held, 0, 0, [1])
    assert not held.make_room(0, 0, {1})
    held.land(0, 0, 0, fresh=True)
    assert held.make_room(0, 0, {1})
    assert held.gone == [(0, 0)], "it was prefetched and left unused"
    assert held.present[0] == {1}
