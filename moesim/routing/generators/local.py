"""Requests whose neighbouring tokens, and neighbouring layers, choose alike: what caches live on."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np
from pydantic import Field

from moesim.routing.generators.base import Generator, Shape
from moesim.routing.generators.parameters import GeneratorParameters
from moesim.routing.generators.streams import stream
from moesim.routing.load import IntArray
from moesim.routing.requests import SHARPNESS, FloatArray, Tokens, gate_weights

_REQUEST: Final = 512
"""Tokens of each request of the past, and of those that a step is made of."""

_ROUNDS: Final = 64
"""Redraws of experts that a token drew twice, before the first free one is taken."""


class LocalParameters(GeneratorParameters):
    """Parameters of ``local``; the defaults are near DeepSeek-V2-Lite, see docs/routing.md."""

    profile_tokens: int = Field(
        8192, ge=1, le=10**9, description="tokens of the profiling window that placement policies may see"
    )
    exponent: float = Field(0.45, ge=0, le=20, description="s of the popularity rank**-s of all requests")
    topic: float = Field(
        0.8, ge=0, le=10, description="spread of a request's own taste: standard deviation of log popularity"
    )
    stay: float = Field(
        0.16, ge=0, le=1, description="chance that an expert of a token serves the next token too"
    )
    onward: float = Field(
        0.5, ge=0, le=1, description="chance that an expert of a layer fixes one of the next layer"
    )
    sharpness: float = Field(
        SHARPNESS, gt=0, le=20, description="standard deviation of router logits, for gate weights"
    )


class LocalGenerator(Generator):
    """Requests with a taste of their own, experts that stay, and experts that follow each other.

    Every expert of a token is a chain of choices: with chance ``onward`` it has the rank of the expert
    in the same place of the layer before, else with chance ``stay`` it is that of the token before, else it
    is drawn from the request's popularity. Ranks are dealt to the experts anew in each layer. Experts that
    a token drew twice are drawn again. The most important place of a token comes first.
    """

    kind: ClassVar[str] = "local"
    parameters_model: ClassVar[type[GeneratorParameters]] = LocalParameters

    def __init__(self, shape: Shape, parameters: LocalParameters) -> None:
        super().__init__(shape, parameters)
        self._given = parameters
        self._base = -parameters.exponent * np.log(np.arange(1, self.experts + 1, dtype=np.float64))
        self._expert_of = np.stack(
            [
                stream(shape.seed, self.kind, "ranks", layer).permutation(self.experts)
                for layer in range(self.layers)
            ]
        )

    def request(self, number: int, tokens: int) -> Tokens:
        """Return the first tokens of a request, see ``moesim.routing.requests.TokenSource``."""
        return self._request(("request", number), tokens)

    def past(self, tokens: int) -> list[Tokens]:
        """Return requests of the past, of 512 tokens each."""
        sizes = [_REQUEST] * (tokens // _REQUEST) or [tokens]
        return [self._request(("past", number), size) for number, size in enumerate(sizes)]

    def _request(self, name: tuple[str | int, ...], tokens: int) -> Tokens:
        ids = self._drawn(name, tokens)
        draw = stream(self.shape.seed, self.kind, *name, "weights")
        return Tokens(ids, gate_weights(draw, ids.shape, self.experts, self._given.sharpness))

    def _counts(self, step: int | None, tokens: IntArray) -> IntArray:
        name = ("profile", 0) if step is None else ("step", step)
        total = int(tokens.sum())
        parts = [
            self._drawn((*name, "request", number), min(_REQUEST, total - first))
            for number, first in enumerate(range(0, total, _REQUEST))
        ]
        ids = np.concatenate(parts) if parts else np.empty((0, self.layers, self.top_k), dtype=np.int64)
        source = np.repeat(np.arange(len(tokens)), tokens)[:, np.newaxis] * self.experts
        size = len(tokens) * self.experts
        rows = [np.bincount((source + ids[:, layer]).ravel(), minlength=size) for layer in range(self.layers)]
        return np.stack(rows).reshape(self.layers, len(tokens), self.experts).astype(np.int64)

    def _drawn(self, name: tuple[str | int, ...], tokens: int) -> IntArray:
        """Draw the tokens of a request, int64 [tokens, layers, top_k]."""
        given, layers, k = self._given, self.layers, self.top_k
        draw = stream(self.shape.seed, self.kind, *name)
        taste = np.exp(self._base + given.topic * draw.normal(size=self.experts))
        bounds = np.cumsum(taste / taste.sum())
        bounds[-1] = 1.0
        shape = (tokens, layers, k)
        place = np.arange(tokens * layers * k, dtype=np.int64).reshape(shape)
        follows, stays = draw.random(shape) < given.onward, draw.random(shape) < given.stay
        follows[:, 0], stays[:1] = False, False
        parent = np.where(follows, place - k, np.where(stays, place - layers * k, place)).ravel()
        while (older := parent[parent]) is not None and not np.array_equal(older, parent):
            parent = older
        ranks = np.searchsorted(bounds, draw.random(parent.size), side="right")[parent].reshape(shape)
        self._part(ranks, bounds, draw)
        layer = np.arange(layers)[np.newaxis, :, np.newaxis]
        return np.asarray(self._expert_of[layer, ranks], dtype=np.int64)

    def _part(self, ranks: IntArray, bounds: FloatArray, draw: np.random.Generator) -> None:
        """Draw again what a token has twice, in place."""
        cells = ranks.reshape(-1, self.top_k)
        for _ in range(_ROUNDS):
            twice = _repeated(cells)
            if not twice.any():
                return
            cells[twice] = np.searchsorted(bounds, draw.random(int(twice.sum())), side="right")
        for cell, _ in zip(*np.nonzero(_repeated(cells)), strict=True):
            row = list(dict.fromkeys(cells[cell].tolist()))
            free = (rank for rank in range(self.experts) if rank not in row)
            cells[cell] = [*row, *(next(free) for _ in range(self.top_k - len(row)))]


def _repeated(cells: IntArray) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return which entries of each row stand in it before, bool like ``cells``."""
    twice = np.zeros(cells.shape, dtype=bool)
    for place in range(1, cells.shape[1]):
        twice[:, place] = (cells[:, :place] == cells[:, place : place + 1]).any(axis=1)
    return twice
