"""What past requests that began alike went on to need."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from moesim.policies.base import Parameters
from moesim.policies.prefetch.base import (
    Floats,
    Ints,
    Outlook,
    PrefetchBase,
    PrefetchFrame,
    PrefetchState,
    Wanted,
)
from moesim.policies.prefetch.common import Stored, activations


class MatricesParameters(Parameters):
    """Parameters of matching by activation matrices."""

    collection: int = Field(120, ge=1, description="matrices of past requests kept")
    matched: int = Field(3, ge=1, description="matrices, the most similar ones, that are summed")
    most: int = Field(64, ge=1, description="experts asked for at once, the most urgent")
    online: bool = Field(True, description="keep the matrices of requests of the run, too")


class _Matrices:
    def __init__(self, frame: PrefetchFrame, parameters: MatricesParameters) -> None:
        self.frame, self.parameters = frame, parameters
        self.collection = Stored(frame.layers, frame.experts, parameters.collection)
        ends = np.flatnonzero(np.diff(frame.profile_sequence)) + 1
        for request in np.split(frame.profile, ends) if len(frame.profile) else []:
            self.collection.add(activations(request, frame.experts))
        self.request = np.zeros((frame.layers, frame.experts))

    def reset(self) -> None:
        """Put the matrix of the request that has ended into the collection."""
        if self.parameters.online and self.request.any():
            self.collection.add(self.request)
        self.request = np.zeros_like(self.request)

    def see(self, layer: int, ids: Ints) -> None:
        """Add to the matrices of the iteration and of the request."""
        counts = np.bincount(ids.ravel(), minlength=self.frame.experts).astype(np.float64)
        self.collection.follow(layer, counts)
        self.request[layer] += counts

    def worth(self, layer: int) -> Floats:
        """Return what experts are worth after a router's answer, [layers, experts]."""
        total = self.collection.total
        if layer >= 0:
            best = np.argsort(-self.collection.likeness, kind="stable")[: self.parameters.matched]
            total = self.collection.maps[best].sum(axis=0)
        share = total / np.maximum(total.sum(axis=1, keepdims=True), 1)
        layers = self.frame.layers
        near = 1 - (np.arange(layers) - layer) / layers
        worth: Floats = share * near[:, np.newaxis]
        worth[: layer + 1] = 0
        return worth

    def wanted(self, outlook: Outlook) -> Wanted:
        worth = self.worth(outlook.layer)
        kept: Wanted = []
        for layer, resident in enumerate(outlook.resident):
            slots = outlook.slots[layer]
            if slots < self.frame.experts:
                worth[layer, np.argsort(-worth[layer], kind="stable")[slots:]] = 0
            there = [expert for expert in sorted(resident) if worth[layer, expert] > 0]
            kept += [(layer, expert) for expert in there]
            worth[layer, there] = 0
        flat = worth.ravel()
        order = np.argsort(-flat, kind="stable")[: self.parameters.most]
        return [*kept, *(divmod(int(one), self.frame.experts) for one in order if flat[one] > 0)]


class Matrices(PrefetchBase):
    """MoE-Infinity's activation matrices."""

    name = "matrices"
    summary = (
        "sum the activation matrices of past requests most like this iteration so far; load experts of all "
        "later layers by their share of the layer x (1 - layers until then / layers)"
    )
    source = (
        "MoE-Infinity, arXiv 2401.14361; prompts and decoding are not told apart in the profile, before the "
        "first layer the whole collection counts, and how many are summed is chosen here"
    )
    needs_profile = True
    parameters_type = MatricesParameters

    def start(self, frame: PrefetchFrame) -> PrefetchState:
        """Begin a run."""
        return _Matrices(frame, self.parameters)
