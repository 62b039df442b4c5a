"""Tokens whose choices know of each other: inside a layer, and from one MoE layer to the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

import numpy as np
from pydantic import Field

from moesim.errors import InputError
from moesim.routing.affinity import Affinity
from moesim.routing.generators.base import Generator, Shape
from moesim.routing.generators.parameters import GeneratorParameters
from moesim.routing.generators.sampling import on_grid
from moesim.routing.generators.streams import stream
from moesim.routing.load import IntArray
from moesim.routing.requests import Tokens, gate_weights

_BLOCK: Final = 16384
"""Tokens drawn at a time, which bounds memory."""

_ORDERS: Final = 256
"""Random orders that a block of tokens draws independent choices by."""


class AffinityParameters(GeneratorParameters):
    """Parameters of ``affinity``; the defaults are near DeepSeek-V2-Lite, see docs/routing.md."""

    exponent: float = Field(0.5, ge=0, le=20, description="s of the popularity rank**-s, as for zipf")
    onward: float = Field(
        0.6,
        ge=0,
        le=1,
        description="chance that a token's experts of a layer fix those of the next; 0: independent layers",
    )
    together: float = Field(
        0.6,
        ge=0,
        le=1,
        description="chance that a token draws its experts from one hidden group; 0: choices are independent",
    )


class AffinityGenerator(Generator):
    """Popular experts, groups of experts used together, and experts that follow each other.

    Tokens choose ranks of popularity; each layer deals the ranks to its experts anew, so an expert has one
    preferred successor: that of the same rank. From layer to layer a token keeps its ranks with chance
    ``onward``, else draws new ones. Draws follow systematic sampling (Madow 1949) over the ranks in a random
    order, or, with chance ``together``, in one hidden order in which the same ranks meet again. Every
    draw has exactly the inclusion probabilities of the popularity, and the chain keeps them.
    """

    kind: ClassVar[str] = "affinity"
    parameters_model: ClassVar[type[GeneratorParameters]] = AffinityParameters

    def __init__(self, shape: Shape, parameters: AffinityParameters) -> None:
        super().__init__(shape, parameters)
        self._onward, self._together = parameters.onward, parameters.together
        ranks = np.arange(1, self.experts + 1, dtype=np.float64)
        self._grid = on_grid(ranks**-parameters.exponent, self.top_k)
        self._cell = int(self._grid.sum()) // self.top_k
        self._hidden = stream(shape.seed, self.kind, "groups").permutation(self.experts)
        self._expert_of = np.stack(
            [
                stream(shape.seed, self.kind, "ranks", layer).permutation(self.experts)
                for layer in range(self.layers)
            ]
        )

    @property
    def chances(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Chance that a token uses each expert, [layers, experts]."""
        made = np.empty(self._expert_of.shape)
        np.put_along_axis(made, self._expert_of, (self._grid / self._cell)[np.newaxis], axis=1)
        return made

    def tokens(self, step: int | None, count: int) -> IntArray:
        """Return the experts of each token of a step, int64 [tokens, layers, top_k].

        Args:
            step: number of the step, or None for the profiling window.
            count: tokens of the step. ``load`` counts these very tokens, devices one after another.

        Raises:
            InputError: a negative number of tokens.
        """
        if count < 0:
            message = f"a step has no fewer than 0 tokens, got {count}"
            raise InputError(message)
        blocks = list(self._blocks(step, count))
        return np.concatenate(blocks) if blocks else np.empty((0, self.layers, self.top_k), dtype=np.int64)

    def request(self, number: int, tokens: int) -> Tokens:
        """Return the first tokens of a request, independent ones; see ``moesim.routing.requests``."""
        return self._request(("request", number), tokens)

    def past(self, tokens: int) -> list[Tokens]:
        """Return one request of the past."""
        return [self._request(("past", 0), tokens)]

    def _request(self, name: tuple[str, int], tokens: int) -> Tokens:
        own = (self.shape.seed, self.kind, *name)
        ids = self._drawn(tokens, stream(*own, "ids"))
        return Tokens(ids, gate_weights(stream(*own, "weights"), ids.shape, self.experts))

    def affinity(self) -> Affinity:
        """Count which experts share tokens in the profiling window."""
        parts = (Affinity.of_tokens(ids, self.experts) for ids in self._blocks(None, self._profile_size))
        total = next(parts)
        for part in parts:
            total = total.plus(part)
        return total

    @property
    def _profile_size(self) -> int:
        return int(self._profile_tokens[0])

    def _counts(self, step: int | None, tokens: IntArray) -> IntArray:
        counts = np.zeros((self.layers, len(tokens) * self.experts), dtype=np.int64)
        ends = np.cumsum(tokens)
        start = 0
        for ids in self._blocks(step, int(ends[-1])):
            source = np.searchsorted(ends, np.arange(start, start + len(ids)), side="right")
            key = source[:, np.newaxis] * self.experts
            for layer, row in enumerate(counts):
                row += np.bincount((key + ids[:, layer]).ravel(), minlength=len(row))
            start += len(ids)
        return counts.reshape(self.layers, len(tokens), self.experts)

    def _blocks(self, step: int | None, count: int) -> Iterator[IntArray]:
        window = ("profile", 0) if step is None else ("step", step)
        for block, start in enumerate(range(0, count, _BLOCK)):
            draw = stream(self.shape.seed, self.kind, *window, "block", block)
            yield self._drawn(min(_BLOCK, count - start), draw)

    def _drawn(self, count: int, draw: np.random.Generator) -> IntArray:
        """Draw a block of tokens, [tokens, layers, top_k]."""
        orders = draw.permuted(np.tile(np.arange(self.experts), (_ORDERS, 1)), axis=1)
        orders = np.concatenate([self._hidden[np.newaxis], orders])
        length = self._cell * self.top_k
        bounds = (
            np.cumsum(self._grid[orders], axis=1) + np.arange(len(orders))[:, np.newaxis] * length
        ).ravel()
        flat, places = orders.ravel(), np.arange(self.top_k) * self._cell
        ids = np.empty((count, self.layers, self.top_k), dtype=np.int64)
        ranks = np.empty((count, self.top_k), dtype=np.int64)
        for layer, expert_of in enumerate(self._expert_of):
            new = np.arange(count) if layer == 0 else np.flatnonzero(draw.random(count) >= self._onward)
            order = draw.integers(1, len(orders), len(new))
            order[draw.random(len(new)) < self._together] = 0
            first = order * length + draw.integers(0, self._cell, len(new))
            ranks[new] = flat[np.searchsorted(bounds, first[:, np.newaxis] + places, side="right")]
            ids[:, layer] = expert_of[ranks]
        return ids
