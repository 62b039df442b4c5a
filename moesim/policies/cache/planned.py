"""Caches that plan: from a profile of the past, or, as a bound, from the future."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from moesim.policies.base import Parameters
from moesim.policies.cache.base import Access, CacheBase, CacheFrame, CacheState, Floats, Ints, Recency
from moesim.policies.cache.sizing import lru_miss_curves, sizes_by_demand, sizes_by_misses


class _Popularity(Recency):
    def __init__(self, frame: CacheFrame) -> None:
        super().__init__(frame)
        flat = frame.profile.astype(np.int64) + np.arange(frame.layers)[:, np.newaxis] * frame.experts
        counts = np.bincount(flat.ravel(), minlength=frame.layers * frame.experts)
        self.counts = counts.reshape(frame.caches, frame.slots).astype(np.float64)

    def priorities(self, access: Access) -> Floats:
        return np.asarray(self.counts[access.rows[:, 0]])


class Static(CacheBase):
    """The most popular experts of the profile, for good."""

    name = "static"
    summary = "hold the most popular experts of the profile and never change"
    source = "Fiddler, arXiv 2402.07033"
    needs_profile = True
    keeps = "fixed"

    def start(self, frame: CacheFrame) -> CacheState:
        """Begin a replay."""
        return _Popularity(frame)


class _NextUse(Recency):
    def __init__(self, frame: CacheFrame) -> None:
        super().__init__(frame)
        assert frame.future is not None
        future = frame.future
        steps, caches, _ = future.shape
        rows = np.arange(caches)[:, np.newaxis]
        self.after = np.empty(future.shape, dtype=np.int64)
        # One column more than experts: there go the places that an access leaves empty.
        upcoming = np.full((caches, frame.slots + 1), steps, dtype=np.int64)
        for step in range(steps - 1, -1, -1):
            self.after[step] = upcoming[rows, future[step]]
            upcoming[rows, future[step]] = step
        self.next = -upcoming[:, :-1].astype(np.float64)

    def see(self, access: Access) -> None:
        after = self.after[access.step, access.rows[:, 0]]
        self.next[access.rows, access.ids] = -after[:, : access.ids.shape[1]]

    def priorities(self, access: Access) -> Floats:
        return np.asarray(self.next[access.rows[:, 0]])


class Belady(CacheBase):
    """The bound: knows the future."""

    name = "belady"
    summary = "oracle: evict the expert needed again last; no cache that keeps what it loads hits more"
    source = "Belady 1966"
    oracle = True

    def start(self, frame: CacheFrame) -> CacheState:
        """Begin a replay."""
        return _NextUse(frame)


class ExpertFlowParameters(Parameters):
    """Parameters of ExpertFlow's slots."""

    fill_order: Literal["depth", "proportional"] = Field(
        "proportional", description="slots to the first layers first, or in proportion to demand"
    )
    window: int = Field(16, ge=1, description="tokens over which demand, distinct experts, is counted")


class ExpertFlow(CacheBase):
    """ExpertFlow's predictive allocation of slots."""

    name = "expertflow"
    summary = (
        "caches sized by the distinct experts that each layer needed in windows of the profile; then LRU"
    )
    source = "ExpertFlow, arXiv 2410.17954; its learned predictor is replaced by the profile"
    needs_profile = True
    parameters_type = ExpertFlowParameters

    def sizes(self, frame: CacheFrame) -> Ints:
        """Return sizes by demand, [caches]; a shared cache needs none."""
        if frame.caches != frame.layers:
            return frame.capacity
        window = self.parameters.window
        parts = np.array_split(frame.profile, max(1, len(frame.profile) // window))
        distinct = [[np.unique(part[:, layer]).size for layer in range(frame.layers)] for part in parts]
        order = self.parameters.fill_order
        total = int(frame.capacity.sum())
        return sizes_by_demand(np.mean(distinct, axis=0), total, frame.top_k, frame.experts, order)

    def start(self, frame: CacheFrame) -> CacheState:
        """Begin a replay."""
        return Recency(frame)


class AdapMoe(CacheBase):
    """AdapMoE's sizes by dynamic programming."""

    name = "adapmoe"
    summary = "caches sized by dynamic programming over the LRU miss curves of the profile; then LRU"
    source = "AdapMoE, arXiv 2408.10284"
    needs_profile = True

    def sizes(self, frame: CacheFrame) -> Ints:
        """Return the sizes with the fewest misses in the profile, [caches]; a shared cache needs none."""
        if frame.caches != frame.layers:
            return frame.capacity
        curves = lru_miss_curves(frame.profile, frame.experts)
        return sizes_by_misses(curves, int(frame.capacity.sum()), frame.top_k)

    def start(self, frame: CacheFrame) -> CacheState:
        """Begin a replay."""
        return Recency(frame)
