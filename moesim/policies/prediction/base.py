"""The contract of a predictor: the load of a step, before the step's gates have run."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.errors import InputError
from moesim.policies.base import ClusterView, Parameters
from moesim.policies.prediction.rounding import rounded
from moesim.policies.quantities import Seconds
from moesim.routing.load import Load

FloatArray = npt.NDArray[np.float64]


class Predictor(Parameters):
    """Foretells a load; also its own parameters.

    How many copies each source has of a layer is known in advance (tokens times experts per token), so a
    prediction has the same; what is foretold is to which experts they go. Predictors are pure: they see the
    past, and the load itself only where they stand for a predictor of a given accuracy.
    """

    summary: ClassVar[str]
    source: ClassVar[str]

    kind: str
    overhead_s: Seconds = Field(default=0.0, ge=0, description="time to predict one layer")

    @abstractmethod
    def predict(self, load: Load, view: ClusterView) -> Load:
        """Return the predicted load, with as many copies per layer and source as the real one."""

    def __str__(self) -> str:
        """Name the predictor and what differs from its defaults."""
        changed = [f"{key}={getattr(self, key)}" for key in type(self).model_fields if self._differs(key)]
        return f"{self.kind}({', '.join(changed)})" if changed else self.kind

    def _differs(self, key: str) -> bool:
        return key != "kind" and getattr(self, key) != type(self).model_fields[key].default


def past_share(view: ClusterView, layers: int) -> FloatArray:
    """Return the share of each expert in the whole past [layers, experts]; even where there is none."""
    if view.past is None:
        return shares(np.zeros((layers, view.experts)))
    return shares(view.past.windows(1)[0])


def shares(copies: npt.NDArray[np.int64] | FloatArray) -> FloatArray:
    """Return copies per expert [layers, experts] as shares that add up to 1 in each layer."""
    total = copies.sum(axis=1, keepdims=True)
    even = np.full(copies.shape, 1.0 / copies.shape[1])
    return np.asarray(np.divide(copies, total, out=even, where=total > 0))


def spread(copies: npt.NDArray[np.int64], share: FloatArray) -> npt.NDArray[np.int64]:
    """Deal copies of each layer and source, int64 [layers, sources], to experts by share [layers, experts].

    Returns:
        int64 [layers, sources, experts], rounded by largest remainder.

    Raises:
        InputError: the past has other layers than the load.
    """
    if len(share) != len(copies):
        message = f"the past has {len(share)} MoE layers, the load {len(copies)}"
        raise InputError(message)
    return rounded(copies[:, :, np.newaxis] * share[:, np.newaxis, :], copies)
