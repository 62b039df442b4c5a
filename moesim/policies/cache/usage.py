"""Caches that look at past uses only: LRU, LFU, LHU, distance in layers, and a random one."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from pydantic import Field

from moesim.policies.base import Parameters
from moesim.policies.cache.base import Access, CacheBase, CacheFrame, CacheState, Floats, Recency
from moesim.policies.offload.precision import HIGH, precision_of

# Above every step number, so that recency only breaks ties.
TIE: Final = float(1 << 40)


class Lru(CacheBase):
    """Evict what was used longest ago."""

    name = "lru"
    summary = "evict the expert used longest ago"
    source = "classical"

    def start(self, frame: CacheFrame) -> CacheState:
        """Begin a replay."""
        return Recency(frame)


class LfuParameters(Parameters):
    """Parameters of LFU."""

    scope: Literal["sequence", "run"] = Field(
        "sequence", description="count uses in this sequence or since the start"
    )


class Counting(Recency):
    """Uses of each expert, ties by recency."""

    def __init__(self, frame: CacheFrame, scope: str = "sequence") -> None:
        super().__init__(frame)
        self.scope = scope
        self.uses = np.zeros_like(self.last)

    def reset(self) -> None:
        """Forget the uses of the last sequence, if that is the scope."""
        if self.scope == "sequence":
            self.uses[:] = 0

    def see(self, access: Access) -> None:
        """Count."""
        super().see(access)
        self.uses[access.rows, access.ids] += 1

    def priorities(self, access: Access) -> Floats:
        """Return uses, then recency."""
        rows = access.rows[:, 0]
        worth: Floats = self.uses[rows] * TIE + self.last[rows]
        return worth


class Lfu(CacheBase):
    """Evict what was used least often."""

    name = "lfu"
    summary = "evict the expert used least often in the sequence, or the whole run; ties by last use"
    source = "classical; scopes compared by HOBBIT (arXiv 2411.01433)"
    parameters_type = LfuParameters

    def start(self, frame: CacheFrame) -> CacheState:
        """Begin a replay."""
        return Counting(frame, self.parameters.scope)


class LhuParameters(Parameters):
    """Parameters of LHU."""

    t1: float = Field(0.6, ge=0, le=1, description="uses up to this unimportance need high precision")


class _HighCounting(Counting):
    def __init__(self, frame: CacheFrame, t1: float) -> None:
        super().__init__(frame)
        self.t1 = t1

    def see(self, access: Access) -> None:
        assert access.weights is not None
        Recency.see(self, access)
        self.uses[access.rows, access.ids] += precision_of(access.weights, self.t1, 1.0) == HIGH


class Lhu(CacheBase):
    """Evict what was needed least often in high precision."""

    name = "lhu"
    summary = "evict the expert needed least often in high precision in the sequence; ties by last use"
    source = "HOBBIT, arXiv 2411.01433, section 3.4"
    needs_weights = True
    parameters_type = LhuParameters

    def start(self, frame: CacheFrame) -> CacheState:
        """Begin a replay."""
        return _HighCounting(frame, self.parameters.t1)


class _Forward(Recency):
    def __init__(self, frame: CacheFrame) -> None:
        super().__init__(frame)
        self.layer_of = frame.layer_of

    def priorities(self, access: Access) -> Floats:
        rows = access.rows[:, 0]
        ahead = (self.layer_of[rows] - access.layer) % self.frame.layers
        worth: Floats = self.last[rows] - ahead * TIE
        return worth


class Fld(CacheBase):
    """Evict what is needed again farthest ahead in layers."""

    name = "fld"
    summary = "evict the expert whose layer comes last from here; ties by last use (one cache per layer: LRU)"
    source = "HOBBIT, arXiv 2411.01433, section 3.4"

    def start(self, frame: CacheFrame) -> CacheState:
        """Begin a replay."""
        return _Forward(frame)


class RandomParameters(Parameters):
    """Parameters of random eviction."""

    seed: int = Field(0, ge=0, description="seed of the draws")


class _Drawn(Recency):
    def __init__(self, frame: CacheFrame, seed: int) -> None:
        super().__init__(frame)
        self.random = np.random.default_rng(seed)

    def priorities(self, access: Access) -> Floats:
        return self.random.random((len(access.rows), self.frame.slots))


class Random(CacheBase):
    """Evict any expert."""

    name = "random"
    summary = "evict any expert, all alike"
    source = "baseline"
    parameters_type = RandomParameters

    def start(self, frame: CacheFrame) -> CacheState:
        """Begin a replay."""
        return _Drawn(frame, self.parameters.seed)
