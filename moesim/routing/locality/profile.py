"""Everything about the locality of one trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError, unknown_name
from moesim.routing.locality.accesses import Accesses
from moesim.routing.locality.consistency import Consistency, routing_consistency
from moesim.routing.locality.curves import distances_to_curves
from moesim.routing.locality.knee import RATIOS, Knee, at_ratios, find_knee
from moesim.routing.locality.reuse import Popularity, Reuse, popularity, reuse
from moesim.routing.locality.stack import stack_distances

FloatArray = npt.NDArray[np.float64]
Report = Callable[[str, int, int], None]
Scope = Literal["layer", "global"]

WINDOWS: Final = (4, 16, 64, 256)
"""Published window lengths."""


@dataclass(frozen=True, eq=False)
class LocalityProfile:
    """How locally a model routes.

    Attributes:
        layers: transformer layer index of each layer.
        experts: routed experts per layer.
        top_k: experts per token.
        tokens: tokens that were seen.
        sequences: sequences that they form.
        longest: tokens of the longest one.
        scope: ``layer``, a cache for each layer, or ``global``, one for all.
        consistency: SRP and distinct experts by window.
        curves: hit rates by policy (``lru``, ``lfu``, ``belady``, ``sch16`` ...), [caches, experts per
            cache], size c at c - 1; hits over accesses of all sequences.
        reuse: when experts are used again.
        popularity: how evenly they are used.
        skipped: windows that no sequence is long enough for.
    """

    layers: tuple[int, ...]
    experts: int
    top_k: int
    tokens: int
    sequences: int
    longest: int
    scope: Scope
    consistency: Mapping[int, Consistency]
    curves: Mapping[str, FloatArray]
    reuse: Reuse
    popularity: Popularity
    skipped: tuple[int, ...]

    @property
    def per_token(self) -> int:
        """Accesses of a token to one cache; a cache ratio is cached experts over this."""
        return self.top_k * (1 if self.scope == "layer" else len(self.layers))

    def curve(self, policy: str) -> FloatArray:
        """Return the mean hit rate of the caches at 1, 2, ... experts per cache, [experts per cache].

        Raises:
            InputError: there is no curve of that name.
        """
        if policy not in self.curves:
            raise unknown_name("hit-rate curve", policy, self.curves)
        return np.asarray(self.curves[policy].mean(axis=0))

    def rates(self, policy: str, ratios: npt.ArrayLike = RATIOS) -> FloatArray:
        """Return mean hit rates at cache ratios, [ratios]; see :func:`at_ratios`.

        Raises:
            InputError: there is no curve of that name.
        """
        return at_ratios(self.curve(policy), self.per_token, ratios)

    def knee(self, policy: str) -> Knee:
        """Return where the mean curve of a policy bends, to the nearest expert.

        Raises:
            InputError: there is no curve of that name.
        """
        curve = self.curve(policy)
        ratios = np.arange(1, len(curve) + 1) / self.per_token
        inner = ratios < RATIOS[-1]
        end = min(RATIOS[-1], float(ratios[-1]))
        ratios = np.append(ratios[inner & (ratios < end)], end)
        return find_knee(ratios, self.rates(policy, ratios))

    @property
    def segment(self) -> str:
        """Name of the segment cache that stands for all: 16 tokens where that was measured."""
        windows = list(self.consistency)
        return f"sch{16 if 16 in windows else windows[len(windows) // 2]}"


def measure_locality(
    accesses: Accesses,
    *,
    layers: Sequence[int] | None = None,
    windows: Sequence[int] = WINDOWS,
    scope: Scope = "layer",
    report: Report | None = None,
) -> LocalityProfile:
    """Measure how locally a model routes.

    Args:
        accesses: the tokens, a cache per layer; see :func:`select_accesses`.
        layers: transformer layer index of each; None: counted from 0.
        windows: window lengths in tokens, for SRP, distinct experts and the segment cache.
        scope: ``layer``: a cache for each layer; ``global``: one for all layers, as published, which takes
            far longer.
        report: called with (what is going on, how much is done, how much there is).

    Raises:
        InputError: a window below 1, no window that a sequence is long enough for, or an unknown scope.
    """
    if scope not in ("layer", "global"):
        raise unknown_name("scope", scope, ("layer", "global"))
    if not windows or min(windows) < 1:
        message = "windows must hold at least one token each"
        raise InputError(message, hint="for example 4, 16, 64, 256")
    wanted = sorted(set(windows))
    fitting = [window for window in wanted if window <= accesses.longest]
    if not fitting:
        message = f"the longest sequence has {accesses.longest} tokens, fewer than every window"
        raise InputError(message, hint=f"choose windows of at most {accesses.longest} tokens")
    tell = report or (lambda name, done, total: None)
    consistency = {}
    for number, window in enumerate(fitting, 1):
        consistency[window] = routing_consistency(accesses, window)
        tell("routing consistency", number, len(fitting))
    caches = accesses if scope == "layer" else accesses.together()
    plan: list[tuple[str, str, int | None]] = [(name, name, None) for name in ("lru", "lfu", "belady")]
    plan += [(f"sch{window}", "sch", window) for window in fitting]
    curves, again = {}, None
    tell("caches", 0, len(plan))
    for number, (name, policy, ahead) in enumerate(plan, 1):
        distances = stack_distances(caches, policy, ahead)
        if name == "lru":
            again = reuse(accesses, distances if scope == "layer" else None)
        curves[name] = distances_to_curves(caches, distances, pooled=True)[0]
        tell("caches", number, len(plan))
    count = accesses.ids.shape[1]
    return LocalityProfile(
        tuple(range(count)) if layers is None else tuple(layers),
        accesses.experts,
        accesses.ids.shape[2],
        len(accesses.ids),
        len(accesses.lengths),
        accesses.longest,
        scope,
        consistency,
        curves,
        again or reuse(accesses),
        popularity(accesses),
        tuple(window for window in wanted if window not in fitting),
    )
