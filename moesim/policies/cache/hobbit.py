"""HOBBIT's cache of two precisions."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from moesim.policies.base import Parameters
from moesim.policies.cache.base import Access, CacheBase, CacheFrame, CacheState, Floats, Precisions
from moesim.policies.cache.usage import Counting
from moesim.policies.offload.precision import HIGH


class HobbitParameters(Parameters):
    """Parameters of HOBBIT's cache."""

    w_lru: float = Field(0.25, ge=0, description="weight of the last use")
    w_lfu: float = Field(0.25, ge=0, description="weight of the uses in the sequence")
    w_lhu: float = Field(0.25, ge=0, description="weight of the high-precision uses in the sequence")
    w_fld: float = Field(0.25, ge=0, description="weight of the distance in layers")
    t1: float = Field(
        0.6,
        ge=0,
        le=1,
        description="unimportance up to which a miss loads high precision",
        json_schema_extra={"tune": False},
    )
    t2: float = Field(
        0.9,
        ge=0,
        le=1,
        description="unimportance up to which it loads low; beyond: skipped",
        json_schema_extra={"tune": False},
    )
    low_share: float = Field(
        0.25, ge=0, lt=1, description="share of memory for low precision; 0: no low cache"
    )
    low_size: float = Field(
        0.25,
        gt=0,
        le=1,
        description="bytes of a low-precision expert over those of a high",
        json_schema_extra={"tune": False},
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if abs(self.w_lru + self.w_lfu + self.w_lhu + self.w_fld - 1) > 1e-6:
            message = "w_lru + w_lfu + w_lhu + w_fld must be 1"
            raise ValueError(message)
        if self.t1 > self.t2:
            message = "t1 must not be above t2"
            raise ValueError(message)
        return self


def hobbit_priority(
    last: Floats, uses: Floats, high: Floats, now: int, ahead: Floats, weights: tuple[float, ...]
) -> Floats:
    """Return HOBBIT's priority of experts; the minimum is evicted.

    Args:
        last: token of the last use, counted from 1 in the sequence; R.
        uses: uses in the sequence; F.
        high: high-precision uses in the sequence; H.
        now: tokens of the sequence so far; T.
        ahead: (layer of expert - layer now) mod layers, over layers.
        weights: of LRU, LFU, LHU and FLD.
    """
    lru, lfu, lhu, fld = weights
    mixed: Floats = (lru * last + lfu * uses + lhu * high) / now + fld * (1 - ahead)
    return mixed


class _Mixed(Counting):
    def __init__(self, frame: CacheFrame, weights: tuple[float, ...]) -> None:
        super().__init__(frame)
        self.weights = weights
        self.high = np.zeros_like(self.last)
        self.layer_of = frame.layer_of
        self.tokens = 0
        self.last[:] = 0
        self._ahead: dict[tuple[int, int], Floats] = {}

    def reset(self) -> None:
        super().reset()
        self.last[:] = 0
        self.high[:] = 0
        self.tokens = 0

    def see(self, access: Access) -> None:
        assert access.precision is not None
        if access.layer[0, 0] == 0:
            self.tokens += 1
        if len(access.rows) == 1:
            # One by one: several times faster for a token's experts than indices of a matrix.
            row = int(access.rows[0, 0])
            uses, last, high = self.uses[row], self.last[row], self.high[row]
            for expert, kind in zip(access.ids[0].tolist(), access.precision[0].tolist(), strict=True):
                uses[expert] += 1
                last[expert] = self.tokens
                high[expert] += kind == HIGH
            return
        self.uses[access.rows, access.ids] += 1
        self.last[access.rows, access.ids] = self.tokens
        self.high[access.rows, access.ids] += access.precision == HIGH

    def priorities(self, access: Access) -> Floats:
        now = max(self.tokens, 1)
        if len(access.rows) == 1:
            row, layer = int(access.rows[0, 0]), int(access.layer[0, 0])
            ahead = self._ahead.get((row, layer))
            if ahead is None:
                ahead = self._ahead[row, layer] = self._distance(access)
            mine = slice(row, row + 1)
            return hobbit_priority(
                self.last[mine], self.uses[mine], self.high[mine], now, ahead, self.weights
            )
        rows = access.rows[:, 0]
        last, uses, high = self.last[rows], self.uses[rows], self.high[rows]
        return hobbit_priority(last, uses, high, now, self._distance(access), self.weights)

    def _distance(self, access: Access) -> Floats:
        """Return how far ahead the layer of each expert is, over the layers, [caches asked, slots]."""
        layers = self.frame.layers
        apart: Floats = ((self.layer_of[access.rows[:, 0]] - access.layer) % layers) / layers
        return apart


class Hobbit(CacheBase):
    """HOBBIT's caches of two precisions."""

    name = "hobbit"
    summary = (
        "two caches by precision, evict the lowest w_lru R/T + w_lfu F/T + w_lhu H/T + w_fld (1 - distance)"
    )
    source = (
        "HOBBIT, arXiv 2411.01433; weights are fitted there and not published, equal ones are chosen here"
    )
    needs_weights = True
    parameters_type = HobbitParameters

    def precisions(self) -> Precisions:
        """Return the thresholds and the share of low precision."""
        p = self.parameters
        return Precisions(p.t1, p.t2, p.low_share, p.low_size)

    def start(self, frame: CacheFrame) -> CacheState:
        """Begin a replay."""
        p = self.parameters
        return _Mixed(frame, (p.w_lru, p.w_lfu, p.w_lhu, p.w_fld))
