"""Generators that draw every token on its own from a fixed popularity of the experts."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from pydantic import Field

from moesim.routing.generators.base import Generator, Shape
from moesim.routing.generators.parameters import GeneratorParameters
from moesim.routing.generators.sampling import FloatArray, on_grid, sampled
from moesim.routing.generators.streams import stream
from moesim.routing.load import IntArray


class PopularityGenerator(Generator):
    """Popularity drawn once per layer; steps and the profiling window are samples of it.

    The share of copies that an expert gets is proportional to its popularity, up to the cap of one
    copy per token.
    """

    popularity: FloatArray

    def __init__(self, shape: Shape, parameters: GeneratorParameters) -> None:
        super().__init__(shape, parameters)
        rows = [
            self._popularity(stream(shape.seed, self.kind, "popularity", layer))
            for layer in range(self.layers)
        ]
        self.popularity = np.stack(rows)
        self._grids = [on_grid(row, self.top_k) for row in rows]

    @abstractmethod
    def _popularity(self, draw: np.random.Generator) -> FloatArray:
        """Draw the popularity of one layer's experts, [experts]."""

    def _counts(self, step: int | None, tokens: IntArray) -> IntArray:
        window = ("profile", 0) if step is None else ("step", step)
        rows = [
            sampled(grid, tokens, stream(self.shape.seed, self.kind, *window, "layer", layer))
            for layer, grid in enumerate(self._grids)
        ]
        return np.stack(rows)


class Uniform(PopularityGenerator):
    """Every expert equally likely: what is left is the sampling noise of an ideal router."""

    kind: ClassVar[str] = "uniform"
    parameters_model: ClassVar[type[GeneratorParameters]] = GeneratorParameters

    def _popularity(self, draw: np.random.Generator) -> FloatArray:
        return np.full(self.experts, 1.0 / self.experts)


class ZipfParameters(GeneratorParameters):
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


class DirichletParameters(GeneratorParameters):
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
