"""Generators that draw every token on its own from a fixed popularity of the experts."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from pydantic import Field

from moesim.errors import InputError
from moesim.routing.generators.base import Generator, Shape
from moesim.routing.generators.parameters import GeneratorParameters
from moesim.routing.generators.sampling import FloatArray, drawn, on_grid, sampled
from moesim.routing.generators.streams import stream
from moesim.routing.load import IntArray
from moesim.routing.requests import Tokens, gate_weights


class PopularityParameters(GeneratorParameters):
    """What every generator of this module accepts."""

    groups: int = Field(
        1,
        ge=1,
        le=4096,
        description="equal groups of neighbouring experts; every token takes as many experts from each "
        "(Pangu Pro MoE's grouped routing, arXiv 2505.21411)",
    )


class PopularityGenerator(Generator):
    """Popularity drawn once per layer; steps and the profiling window are samples of it.

    The share of copies that an expert gets is proportional to its popularity, up to the cap of one
    copy per token; with groups, its share of the copies that the group gets.
    """

    popularity: FloatArray
    one_by_one: ClassVar[bool] = True
    """Whether few tokens are drawn one by one, which is faster."""

    def __init__(self, shape: Shape, parameters: PopularityParameters) -> None:
        super().__init__(shape, parameters)
        self._groups = parameters.groups
        if self.experts % self._groups or self.top_k % self._groups:
            message = (
                f"generator '{self.kind}': {self._groups} groups do not divide {self.experts} experts and "
                f"{self.top_k} experts per token"
            )
            raise InputError(message)
        rows = [
            self._popularity(stream(shape.seed, self.kind, "popularity", layer))
            for layer in range(self.layers)
        ]
        self.popularity = np.stack(rows)
        each = self.top_k // self._groups
        self._grids = [[on_grid(part, each) for part in np.split(row, self._groups)] for row in rows]

    @abstractmethod
    def _popularity(self, draw: np.random.Generator) -> FloatArray:
        """Draw the popularity of one layer's experts, [experts]."""

    def _counts(self, step: int | None, tokens: IntArray) -> IntArray:
        window = ("profile", 0) if step is None else ("step", step)
        counts = np.empty((self.layers, tokens.size, self.experts), dtype=np.int64)
        for layer, grids in enumerate(self._grids):
            parts = np.split(counts[layer], self._groups, axis=-1)
            for part, grid, group in zip(parts, grids, self._labels, strict=True):
                draw = stream(self.shape.seed, self.kind, *window, "layer", layer, *group)
                part[...] = sampled(grid, tokens, draw, self.one_by_one)
        return counts

    def request(self, number: int, tokens: int) -> Tokens:
        """Return the first tokens of a request: independent ones, see ``moesim.routing.requests``."""
        return self._request(("request", number), tokens)

    def past(self, tokens: int) -> list[Tokens]:
        """Return one request of the past."""
        return [self._request(("past", 0), tokens)]

    def _request(self, name: tuple[str, int], tokens: int) -> Tokens:
        own = (self.shape.seed, self.kind, *name)
        size, each = self.experts // self._groups, self.top_k // self._groups
        ids = np.empty((tokens, self.layers, self.top_k), dtype=np.int64)
        for layer, grids in enumerate(self._grids):
            for group, grid in enumerate(grids):
                draw = stream(*own, "layer", layer, "group", group)
                place = slice(group * each, (group + 1) * each)
                ids[:, layer, place] = drawn(grid, tokens, each, draw) + group * size
        return Tokens(ids, gate_weights(stream(*own, "weights"), ids.shape, self.experts))

    @property
    def _labels(self) -> list[tuple[str, ...]]:
        """Names of the groups' random streams."""
        return [()] if self._groups == 1 else [(f"group {group}",) for group in range(self._groups)]


class Uniform(PopularityGenerator):
    """Every expert equally likely: what is left is the sampling noise of an ideal router."""

    kind: ClassVar[str] = "uniform"
    parameters_model: ClassVar[type[GeneratorParameters]] = PopularityParameters
    # Published times of exchanges are predicted for one draw of this kind each, which stays what it was.
    one_by_one: ClassVar[bool] = False

    def _popularity(self, draw: np.random.Generator) -> FloatArray:
        return np.full(self.experts, 1.0 / self.experts)


class ZipfParameters(PopularityParameters):
    """Parameters of ``zipf``."""

    exponent: float = Field(
        ge=0, le=20, description="s in rank**-s; 0.3 to 0.55 on mixed text, 0.6 to 1.5 on one domain"
    )


class Zipf(PopularityGenerator):
    """Popularity rank**-exponent, with the ranks dealt to the experts anew in each layer."""

    kind: ClassVar[str] = "zipf"
    parameters_model: ClassVar[type[GeneratorParameters]] = ZipfParameters

    def __init__(self, shape: Shape, parameters: ZipfParameters) -> None:
        self._exponent = parameters.exponent
        super().__init__(shape, parameters)

    def _popularity(self, draw: np.random.Generator) -> FloatArray:
        ranks = draw.permutation(self.experts) + 1
        return np.asarray(ranks.astype(np.float64) ** -self._exponent)


class DirichletParameters(PopularityParameters):
    """Parameters of ``dirichlet``."""

    alpha: float = Field(
        ge=0.001, le=1e6, description="concentration; 0.6 to 2 on one domain, 4 to 9 on mixed text"
    )


class Dirichlet(PopularityGenerator):
    """Popularity from a symmetric Dirichlet distribution; a small alpha is a large skew."""

    kind: ClassVar[str] = "dirichlet"
    parameters_model: ClassVar[type[GeneratorParameters]] = DirichletParameters

    def __init__(self, shape: Shape, parameters: DirichletParameters) -> None:
        self._alpha = parameters.alpha
        super().__init__(shape, parameters)

    def _popularity(self, draw: np.random.Generator) -> FloatArray:
        return np.asarray(draw.dirichlet(np.full(self.experts, self._alpha)))
