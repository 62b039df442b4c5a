"""What all generators share: the attributes of a routing source and the checks of its arguments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from moesim.errors import InputError
from moesim.routing.affinity import Affinity
from moesim.routing.generators.parameters import GeneratorParameters
from moesim.routing.load import IntArray, Load
from moesim.routing.source import check_tokens

MAX_TOKENS: Final = 10**9
"""Most tokens of one step: numpy draws hypergeometric samples from fewer than 1e9 items only."""

_LIMITS: Final = {"experts": 65536, "top_k": 4096, "layers": 65536}


@dataclass(frozen=True)
class Shape:
    """Size of the routing that a generator makes.

    Attributes:
        experts: routed experts per layer.
        top_k: copies that each token sends.
        layers: MoE layers.
        seed: of the whole run.
    """

    experts: int
    top_k: int
    layers: int
    seed: int

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InputError: a number out of range, or a top-k above the number of experts.
        """
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not 1 <= value <= limit:
                message = f"{name} must be from 1 to {limit}, got {value}"
                raise InputError(message)
        if self.top_k > self.experts:
            message = f"top_k must be at most the number of experts ({self.experts}), got {self.top_k}"
            raise InputError(message)
        if self.seed < 0:
            message = f"seed must not be negative, got {self.seed}"
            raise InputError(message)


class Generator(ABC):
    """A routing source made from a rule and a seed.

    Attributes:
        experts: routed experts per layer.
        top_k: copies that each token sends into each layer.
        layers: MoE layers.
        name: kind and parameters, for tables.
    """

    kind: ClassVar[str]
    parameters_model: ClassVar[type[GeneratorParameters]]

    def __init__(self, shape: Shape, parameters: GeneratorParameters) -> None:
        self.shape = shape
        self.experts = shape.experts
        self.top_k = shape.top_k
        self.layers = shape.layers
        own = parameters.model_dump(exclude={"profile_tokens", "counts"})
        if own.get("groups") == 1:
            del own["groups"]
        inside = ", ".join(f"{key}={value:g}" for key, value in own.items())
        self.name = f"{self.kind}({inside})" if inside else self.kind
        self._profile_tokens = np.array([parameters.profile_tokens], dtype=np.int64)

    def load(self, step: int, tokens: IntArray) -> Load:
        """Return the load of one step.

        Args:
            step: number of the step, from 0. The same step always gives the same load.
            tokens: tokens that each device contributes, int64 [devices].

        Raises:
            InputError: a negative step or number of tokens, no device, or 1e9 tokens and more.
        """
        given = check_tokens(tokens)
        if step < 0:
            message = f"a step is numbered from 0, got {step}"
            raise InputError(message)
        if int(given.max()) > MAX_TOKENS or int(given.sum()) >= MAX_TOKENS:
            message = f"a step has fewer than {MAX_TOKENS} tokens, got {int(given.sum())}"
            raise InputError(message)
        return Load(self._counts(step, given), given)

    def profile(self) -> IntArray:
        """Return the copies per expert of the profiling window, int64 [layers, experts].

        It is drawn apart from every step that ``load`` gives, so a placement that learns from it has
        seen the popularity of the experts but not the batches it is judged on.
        """
        return np.asarray(self._counts(None, self._profile_tokens)[:, 0, :], dtype=np.int64)

    def windows(self, count: int) -> IntArray:
        """Return ``count`` parts of a past like the profiling window, int64 [count, layers, experts].

        Each is drawn like a step, apart from all steps and from the profiling window itself.
        """
        tokens = np.maximum(self._profile_tokens // count, 1)
        parts = [np.asarray(self._counts(-1 - part, tokens)[:, 0, :]) for part in range(count)]
        return np.stack(parts).astype(np.int64)

    def affinity(self) -> Affinity:
        """Return expected pairs: what a token chooses in one layer says nothing about its other choices."""
        return Affinity.independent(self.profile(), self.top_k)

    def steps_available(self, tokens_per_step: int) -> int | None:
        """Return None: a generator never runs out of steps."""
        del tokens_per_step
        return None

    @abstractmethod
    def _counts(self, step: int | None, tokens: IntArray) -> IntArray:
        """Return copies [layers, devices, experts] of a step, or of the profiling window for None."""
