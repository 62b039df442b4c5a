"""p % of the tokens to h experts: the imbalance scenarios of the LLEP paper."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from moesim.errors import InputError
from moesim.routing.generators.base import Generator, Shape
from moesim.routing.generators.parameters import GeneratorParameters
from moesim.routing.load import IntArray


class HotExpertsParameters(GeneratorParameters):
    """Parameters of ``hot_experts``; a fraction of 0 is the balanced scenario."""

    fraction: float = Field(ge=0, le=1, description="share of each device's tokens that goes to hot experts")
    hot: int = Field(1, ge=1, le=65536, description="number of hot experts, ids 0 to hot-1")


class HotExperts(Generator):
    """Deterministic pattern of arXiv 2601.17111 (its benchmark script), the same on every device and layer.

    Of B tokens of a device, the first int(B * fraction) send copy k to hot expert k mod h. So with fewer
    hot experts than copies one expert gets several copies of a token, as in the paper, and with more
    of them than copies only the first k are used. Token i of the others sends copy k to cold expert
    h + ((i + k) mod (N - h)). With fraction 0 there are no hot experts: expert (i + k) mod N.
    """

    kind: ClassVar[str] = "hot_experts"
    parameters_model: ClassVar[type[GeneratorParameters]] = HotExpertsParameters

    def __init__(self, shape: Shape, parameters: HotExpertsParameters) -> None:
        super().__init__(shape, parameters)
        self._fraction = parameters.fraction
        self._hot = parameters.hot if parameters.fraction > 0 else 0
        if self._hot > shape.experts or (self._hot == shape.experts and self._fraction < 1):
            message = (
                f"generator 'hot_experts': hot must be below the {shape.experts} experts, got {self._hot}"
            )
            raise InputError(message, hint=f"at most {shape.experts - 1}")

    def _counts(self, step: int | None, tokens: IntArray) -> IntArray:
        sizes, where = np.unique(tokens, return_inverse=True)
        rows = np.stack([self._pattern(size) for size in sizes.tolist()])
        return np.broadcast_to(rows[where], (self.layers, len(tokens), self.experts))

    def _pattern(self, tokens: int) -> IntArray:
        """Return the copies per expert of one device's batch."""
        hot_tokens = int(tokens * self._fraction)
        counts = np.zeros(self.experts, dtype=np.int64)
        copy = np.arange(self.top_k)
        if self._hot:
            np.add.at(counts, copy % self._hot, hot_tokens)
        cold = self.experts - self._hot
        if hot_tokens < tokens:
            # Of the whole numbers below x, (x - 1 - r) // cold + 1 leave the remainder r.
            remainder = np.arange(cold)
            last = (tokens + copy[:, np.newaxis] - 1 - remainder) // cold
            first = (hot_tokens + copy[:, np.newaxis] - 1 - remainder) // cold
            counts[self._hot :] += (last - first).sum(axis=0)
        return counts
