"""What followed the same experts of the two layers before."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
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
from moesim.policies.prefetch.common import best_of


class Followers:
    """How often each expert followed each key.

    Args:
        keys: number of keys.
        experts: number of experts.
    """

    def __init__(self, keys: int, experts: int) -> None:
        self.experts = experts
        self.row = np.full(keys, -1, dtype=np.int64)
        self.times = np.zeros(0)
        self.counts = np.zeros((0, experts), dtype=np.float32)

    def add(self, keys: Ints, followers: Ints) -> None:
        """Count: each key of a token, [tokens, p], is followed by each of its experts, [tokens, k]."""
        found, index = np.unique(keys, return_inverse=True)
        index = index.reshape(keys.shape)
        fresh = found[self.row[found] < 0]
        if len(fresh):
            self.row[fresh] = len(self.times) + np.arange(len(fresh))
            self.times = np.append(self.times, np.zeros(len(fresh)))
            new = np.zeros((len(fresh), self.experts), dtype=np.float32)
            self.counts = np.concatenate([self.counts, new])
        for place in range(followers.shape[1]):
            cells = index * self.experts + followers[:, place : place + 1]
            added = np.bincount(cells.ravel(), minlength=len(found) * self.experts)
            self.counts[self.row[found]] += added.reshape(len(found), self.experts)
        self.times[self.row[found]] += np.bincount(index.ravel(), minlength=len(found))

    def known(self, keys: Ints) -> npt.NDArray[np.bool_]:
        """Say which keys have been seen."""
        return self.row[keys] >= 0

    def shares(self, keys: Ints) -> Floats:
        """Return how often each expert followed, over how often the key was seen, [keys, experts]."""
        rows = self.row[keys]
        share: Floats = self.counts[rows] / self.times[rows, np.newaxis]
        return share


class PathParameters(Parameters):
    """Parameters of the path table."""

    top: int | None = Field(None, ge=1, description="experts of a layer wanted; none: as the cache holds")
    online: bool = Field(False, description="go on counting during the run")


class _Paths:
    """Tables by how many layers before they look at: two, one, none."""

    def __init__(self, frame: PrefetchFrame, parameters: PathParameters) -> None:
        self.frame, self.parameters = frame, parameters
        self.tables: dict[int, list[Followers]] = {}
        self.past: list[Ints] = []

    def reset(self) -> None:
        """Begin a new request; paths begin with each iteration anyway."""
        self.past = []

    def see(self, layer: int, ids: Ints) -> None:
        if layer == 0:
            self.past = []
        if self.parameters.online:
            keys = self._keys(self.past, len(ids))
            for table, key in zip(self._tables(layer), keys, strict=False):
                table.add(key, ids)
        self.past = [*self.past, ids][-2:]

    def _keys(self, before: list[Ints], tokens: int = 0) -> list[Ints]:
        """Return the keys of tokens by rising number of layers, each [tokens, paths]."""
        tokens = len(before[-1]) if before else tokens
        keys = [np.zeros((tokens, 1), dtype=np.int64)]
        for ids in reversed(before):
            step = self.frame.experts ** (len(keys) - 1)
            keys.append((ids[:, :, np.newaxis] * step + keys[-1][:, np.newaxis, :]).reshape(tokens, -1))
        return keys

    def _tables(self, layer: int) -> list[Followers]:
        """Return the tables of what a layer needs, from those of the profile on."""
        if layer not in self.tables:
            experts = self.frame.experts
            made = [Followers(experts**order, experts) for order in range(min(layer, 2) + 1)]
            if len(self.frame.profile):
                profile = self.frame.profile[:, max(layer - 2, 0) : layer + 1].astype(np.int64)
                parts = [profile[:, at] for at in range(profile.shape[1])]
                for table, key in zip(made, self._keys(parts[:-1], len(profile)), strict=True):
                    table.add(key, parts[-1])
            self.tables[layer] = made
        return self.tables[layer]

    def expected(self, target: int, tokens: int) -> Floats:
        """Return how many tokens are expected to need each expert of the next layer, [experts]."""
        keys = self._keys(self.past if target > 0 else [], tokens)
        expected = np.zeros(self.frame.experts)
        paths = keys[-1]
        weight = 1.0 / paths.shape[1]
        # Keys of fewer layers are the remainders of those of more: the last layers come last in a key.
        left = paths.ravel()
        for order in range(len(keys) - 1, -1, -1):
            table = self._tables(target)[order]
            left = left % self.frame.experts**order
            known = table.known(left)
            found, often = np.unique(left[known], return_counts=True)
            if len(found):
                expected += weight * (often @ table.shares(found))
            left = left[~known]
        return expected

    def wanted(self, outlook: Outlook) -> Wanted:
        target = outlook.layer + 1
        if target >= self.frame.layers:
            return []
        return best_of(outlook, target, self.expected(target, outlook.tokens), self.parameters.top)


class Path(PrefetchBase):
    """EdgeMoE's table of activation paths."""

    name = "path"
    summary = (
        "load the experts of the next layer by how often they followed those of the two layers before, "
        "else of one layer, else at all; a token of k experts has k x k paths, which count alike"
    )
    source = "EdgeMoE, arXiv 2308.14352, with one expert per token; paths of more are our reading"
    needs_profile = True
    parameters_type = PathParameters

    def start(self, frame: PrefetchFrame) -> PrefetchState:
        """Begin a run."""
        return _Paths(frame, self.parameters)
