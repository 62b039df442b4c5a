"""Generators that fix the copies per expert of a step and deal them out to the devices."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field

from moesim.errors import InputError
from moesim.routing.generators.base import Generator, Shape
from moesim.routing.generators.parameters import GeneratorParameters
from moesim.routing.generators.sampling import FloatArray, apportion, dealt
from moesim.routing.generators.streams import stream
from moesim.routing.load import IntArray


class TotalsGenerator(Generator):
    """The same totals in every step of the same size; only which device holds which token is drawn."""

    @abstractmethod
    def _weights(self, layer: int, tokens: int) -> FloatArray:
        """Return the relative loads of one layer's experts in a step of that many tokens, [experts]."""

    def _counts(self, step: int | None, tokens: IntArray) -> IntArray:
        window = ("profile", 0) if step is None else ("step", step)
        total = int(tokens.sum())
        rows = [
            dealt(
                apportion(self._weights(layer, total), total, self.top_k),
                tokens,
                self.top_k,
                stream(self.shape.seed, self.kind, *window, "layer", layer),
            )
            for layer in range(self.layers)
        ]
        return np.stack(rows)


class PowerLawParameters(GeneratorParameters):
    """Parameters of ``power_law``."""

    alpha: float = Field(
        1.2, ge=0, le=20, description="exponent; aiconfigurator uses 1.01 for DeepSeek-V3 and 1.2 elsewhere"
    )


class PowerLaw(TotalsGenerator):
    """The power law of NVIDIA aiconfigurator: a pessimistic preset, more skewed than measured traces.

    Loads x with density proportional to x**-alpha between 1 and 0.8 T (T tokens of the step), scaled to
    T * top_k copies, none above T. The range grows with T and so does the skew. Each layer draws its
    quantiles once, so popular experts stay popular from step to step.
    """

    kind: ClassVar[str] = "power_law"
    parameters_model: ClassVar[type[GeneratorParameters]] = PowerLawParameters

    def __init__(self, shape: Shape, parameters: PowerLawParameters) -> None:
        super().__init__(shape, parameters)
        self._alpha = parameters.alpha
        self._quantiles = [
            stream(shape.seed, self.kind, "popularity", layer).random(shape.experts)
            for layer in range(shape.layers)
        ]

    def _weights(self, layer: int, tokens: int) -> FloatArray:
        return power_law_quantile(self._quantiles[layer], self._alpha, max(1.0, 0.8 * tokens))


def power_law_quantile(quantile: FloatArray, alpha: float, largest: float) -> FloatArray:
    """Return the quantiles of the density x**-alpha between 1 and ``largest``."""
    power = 1.0 - alpha
    if abs(power) < 1e-9:  # the limit: a log-uniform distribution
        return np.asarray(largest**quantile)
    return np.asarray(((largest**power - 1.0) * quantile + 1.0) ** (1.0 / power))


def _rows(value: object) -> object:
    """Accept one list for all layers, and lists, as YAML gives them, where the strict model wants tuples."""
    if not isinstance(value, list | tuple):
        return value
    nested = any(isinstance(row, list | tuple) for row in value)
    rows = value if nested else [value]
    return tuple(tuple(row) if isinstance(row, list | tuple) else row for row in rows)


Count = Annotated[int, Field(ge=0, le=1 << 53)]


class CountsParameters(GeneratorParameters):
    """Parameters of ``counts``."""

    counts: Annotated[tuple[tuple[Count, ...], ...], BeforeValidator(_rows)] = Field(
        description="copies per expert, one list for all layers or one list per layer"
    )


class Counts(TotalsGenerator):
    """Given copies per expert.

    A step whose size they fit has exactly these totals; other steps have them in proportion.
    """

    kind: ClassVar[str] = "counts"
    parameters_model: ClassVar[type[GeneratorParameters]] = CountsParameters

    def __init__(self, shape: Shape, parameters: CountsParameters) -> None:
        super().__init__(shape, parameters)
        given = parameters.counts
        if len(given) not in (1, shape.layers):
            message = (
                f"generator 'counts': counts must have 1 list or {shape.layers} (one per MoE layer), "
                f"got {len(given)}"
            )
            raise InputError(message)
        for row in given:
            if len(row) != shape.experts:
                message = f"generator 'counts': a list must have {shape.experts} experts, got {len(row)}"
                raise InputError(message)
            if not any(row):
                message = "generator 'counts': a list must have at least one count above zero"
                raise InputError(message)
        self._rows = np.broadcast_to(np.array(given, dtype=np.float64), (shape.layers, shape.experts))

    def _weights(self, layer: int, tokens: int) -> FloatArray:
        return np.asarray(self._rows[layer])
