"""Caches of published systems that score experts: HybriMoE, EdgeMoE, MoE-Infinity."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from moesim.errors import InputError
from moesim.policies.base import Parameters
from moesim.policies.cache.base import Access, CacheBase, CacheFrame, CacheState, Floats, Recency
from moesim.policies.cache.usage import Counting


class MrsParameters(Parameters):
    """Parameters of HybriMoE's score."""

    alpha: float = Field(0.5, gt=0, le=1, description="weight of the newest token's scores")
    p: int | None = Field(None, ge=1, description="largest scores of a token that count; none: all recorded")


class _Scores(Recency):
    def __init__(self, frame: CacheFrame, alpha: float, p: int) -> None:
        super().__init__(frame)
        self.alpha, self.p = alpha, p
        self.score = np.zeros_like(self.last)

    def see(self, access: Access) -> None:
        assert access.weights is not None
        super().see(access)
        top = access.weights
        if self.p < self.frame.top_k:
            rank = np.argsort(np.argsort(-top, axis=1, kind="stable"), axis=1)
            top = np.where(rank < self.p, top, 0.0)
        self.score[access.rows[:, 0], access.span] *= 1 - self.alpha
        self.score[access.rows, access.ids] += self.alpha * top

    def priorities(self, access: Access) -> Floats:
        return np.asarray(self.score[access.rows[:, 0]])


class Mrs(CacheBase):
    """HybriMoE's Minus Recent Score."""

    name = "mrs"
    summary = (
        "evict the lowest S, S <- alpha TopP(s) + (1 - alpha) S with s the recorded gate scores of a token"
    )
    source = "HybriMoE, arXiv 2504.05897; p = 2k there, at most k here because traces hold top-k scores"
    needs_weights = True
    parameters_type = MrsParameters

    def start(self, frame: CacheFrame) -> CacheState:
        """Begin a replay.

        Raises:
            InputError: ``p`` asks for scores that the trace does not have.
        """
        p = self.parameters.p or frame.top_k
        if p > frame.top_k:
            message = f"p is {p}, but the trace holds {frame.top_k} scores per token"
            raise InputError(message, hint=f"leave p out, or at most {frame.top_k}")
        return _Scores(frame, self.parameters.alpha, p)


class EdgeMoeParameters(Parameters):
    """Parameters of EdgeMoE's eviction."""

    as_printed: bool = Field(False, description="the printed distance, which evicts the next layer first")


def edgemoe_distance(layer_of: Floats, layer: Floats, layers: int, as_printed: bool = False) -> Floats:
    """Return layers from ``layer`` ahead to that of an expert, ``layers`` if it is the same one."""
    apart = (layer - layer_of if as_printed else layer_of - layer) % layers
    return np.where(apart == 0, layers, apart).astype(np.float64)


class _FrequencyDistance(Counting):
    def __init__(self, frame: CacheFrame, as_printed: bool) -> None:
        super().__init__(frame, "run")
        self.as_printed = as_printed
        self.layer_of = frame.layer_of.astype(np.float64)

    def priorities(self, access: Access) -> Floats:
        layer, rows = access.layer.astype(np.float64), access.rows[:, 0]
        apart = edgemoe_distance(self.layer_of[rows], layer, self.frame.layers, self.as_printed)
        return np.asarray(self.uses[rows] / apart)


class EdgeMoe(CacheBase):
    """EdgeMoE's frequency over distance."""

    name = "edgemoe"
    summary = "evict the lowest uses / layers until it is needed (one cache per layer: LFU over the run)"
    source = "EdgeMoE, arXiv 2308.14352; the printed formula contradicts its text, which is followed"
    parameters_type = EdgeMoeParameters

    def start(self, frame: CacheFrame) -> CacheState:
        """Begin a replay."""
        return _FrequencyDistance(frame, self.parameters.as_printed)


class MoeInfinityParameters(Parameters):
    """Parameters of MoE-Infinity's eviction."""

    collection: int = Field(32, ge=0, description="past sequences kept; the most similar one predicts")
    eps: float = Field(0.01, gt=0, description="added to shares, so that depth counts for unused experts")


class _Activation(Counting):
    def __init__(self, frame: CacheFrame, collection: int, eps: float) -> None:
        super().__init__(frame)
        self.collection, self.eps = collection, eps
        self.past: list[Floats] = []
        self.unit = np.zeros((0, self.uses.size))
        self.depth = 1 - frame.layer_of / frame.layers

    def reset(self) -> None:
        if self.collection and self.uses.any():
            self.past = [*self.past, self.uses.copy()][-self.collection :]
            flat = np.stack([p.ravel() for p in self.past])
            self.unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        super().reset()

    def priorities(self, access: Access) -> Floats:
        rows = access.rows[:, 0]
        predicted = self.uses[rows]
        if self.past:
            predicted = predicted + self.past[int(np.argmax(self.unit @ self.uses.ravel()))][rows]
        by_layer = predicted.reshape(-1, self.frame.experts)
        share = by_layer / np.maximum(by_layer.sum(axis=1, keepdims=True), 1)
        worth: Floats = (share.reshape(predicted.shape) + self.eps) * self.depth[rows]
        return worth


class MoeInfinity(CacheBase):
    """MoE-Infinity's activation-aware eviction."""

    name = "moe_infinity"
    summary = "evict the lowest (share of predicted uses + eps) (1 - layer / layers)"
    source = "MoE-Infinity, arXiv 2401.14361; predicted: this sequence plus the most similar past one"
    parameters_type = MoeInfinityParameters

    def start(self, frame: CacheFrame) -> CacheState:
        """Begin a replay."""
        return _Activation(frame, self.parameters.collection, self.parameters.eps)
