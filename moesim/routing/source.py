"""The contract of a routing source: what the engine asks for, step by step."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.routing.affinity import Affinity
from moesim.routing.load import Load

IntArray = npt.NDArray[np.int64]


@runtime_checkable
class RoutingSource(Protocol):
    """Recorded or generated routing for the MoE layers of a model.

    A source is a pure function of the step: asking twice, or in another order, gives the same answer,
    so that every policy sees the same routing.
    """

    @property
    def name(self) -> str:
        """What reports call the source."""
        ...

    @property
    def experts(self) -> int:
        """Logical experts per layer."""
        ...

    @property
    def top_k(self) -> int:
        """Experts per token."""
        ...

    @property
    def layers(self) -> int:
        """MoE layers of the model that is simulated."""
        ...

    def load(self, step: int, tokens: IntArray) -> Load:
        """Return the load of a step; ``tokens`` says how many each device contributes, int64 [devices]."""
        ...

    def profile(self) -> IntArray:
        """Return copies per expert in the past that placement may look at, int64 [layers, experts]."""
        ...

    def windows(self, count: int) -> IntArray:
        """Return the past in ``count`` equal parts, in order, int64 [count, layers, experts]."""
        ...

    def affinity(self) -> Affinity:
        """Return which experts shared tokens in the past."""
        ...

    def steps_available(self, tokens_per_step: int) -> int | None:
        """Return how many steps pass before routing repeats itself; None when it never does."""
        ...


def check_fits(source: RoutingSource, experts: int, top_k: int, layers: int) -> None:
    """Check that a source was made for a model with these numbers.

    Raises:
        InputError: another number of experts, experts per token or MoE layers.
    """
    wanted = {"experts per layer": experts, "experts per token": top_k, "MoE layers": layers}
    have = {
        "experts per layer": source.experts,
        "experts per token": source.top_k,
        "MoE layers": source.layers,
    }
    for what, number in wanted.items():
        if have[what] != number:
            message = f"the routing '{source.name}' has {have[what]} {what}, the model has {number}"
            raise InputError(message, hint="choose a model and a routing that belong together")


def check_tokens(tokens: npt.ArrayLike) -> IntArray:
    """Return tokens per device as int64 [devices].

    Raises:
        InputError: not one whole number, zero or more, per device.
    """
    array = np.asarray(tokens)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.size == 0 or int(array.min()) < 0:
        message = "tokens must be one whole number, zero or more, per device"
        raise InputError(message, hint=f"got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)
