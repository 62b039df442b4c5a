"""A trace's tokens, in order, through a cache: what is found, loaded and thrown out.

The experts that a token needs in a layer are looked up together, in the cache as the token before left
it. Those that are missing are then loaded, and for each one too many the resident of lowest priority
leaves; an expert that the same lookup needs never does, which is why a cache holds at least top-k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.policies.cache.base import Access, CacheFrame, CachePolicy, Floats, Ints, Precisions
from moesim.policies.offload.precision import HIGH, LOW, precision_of

Scope = Literal["layer", "global"]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CacheReplay:
    """What a cache did, all int64 [layers].

    Attributes:
        accesses: lookups.
        hits: lookups that found the expert in a precision that serves them.
        low_hits: of these, in low precision.
        loads: experts loaded in high precision.
        low_loads: experts loaded in low precision.
        skipped: misses that were neither loaded nor computed.
        evictions: experts thrown out, counted at the layer that needed the room.
    """

    accesses: Ints
    hits: Ints
    low_hits: Ints
    loads: Ints
    low_loads: Ints
    skipped: Ints
    evictions: Ints

    @property
    def hit_rate(self) -> float:
        """Hits per lookup."""
        return float(self.hits.sum() / max(1, self.accesses.sum()))


class _Store:
    """The residents of caches of one precision."""

    def __init__(self, capacity: Ints, slots: int) -> None:
        self.capacity = capacity
        self.resident = np.zeros((len(capacity), slots), dtype=bool)

    def hold(self, access: Access, wanted: Bools, rank: Callable[[Access], Floats]) -> Ints:
        """Make the wanted of a lookup resident; returns evictions, [caches]."""
        rows, ids = access.rows, access.ids
        found = self.resident[rows, ids]
        missing = wanted & ~found
        over: Ints = np.maximum(self.resident.sum(axis=1) + missing.sum(axis=1) - self.capacity, 0)
        most = int(over.max())
        if most:
            worth = np.where(self.resident, rank(access), np.inf)
            kept = worth[rows, ids]
            worth[rows, ids] = np.where(wanted, np.inf, kept)
            leaving = np.argsort(worth, axis=1, kind="stable")[:, :most]
            at, nth = np.nonzero(np.arange(most) < over[:, np.newaxis])
            self.resident[at, leaving[at, nth]] = False
        at, nth = np.nonzero(missing)
        self.resident[at, ids[at, nth]] = True
        return over


def replay(
    policy: CachePolicy,
    ids: npt.NDArray[np.integer[Any]],
    experts: int,
    capacity: int,
    scope: Scope = "layer",
    weights: npt.NDArray[np.floating[Any]] | None = None,
    sequence: npt.NDArray[np.integer[Any]] | None = None,
    profile: npt.NDArray[np.integer[Any]] | None = None,
    watch: Callable[[Access, Bools], None] | None = None,
) -> CacheReplay:
    """Replay tokens through a cache that starts empty (or fixed, where the policy fixes it).

    Args:
        policy: what leaves the cache.
        ids: expert ids, [tokens, layers, k].
        experts: routed experts per layer.
        capacity: experts that the cache of each layer holds, or the one of all layers.
        scope: a cache per layer, or one for all.
        weights: gate weights, [tokens, layers, k].
        sequence: sequence of each token, [tokens]; records by sequence begin again where it changes.
        profile: expert ids of tokens before these, [tokens, layers, k].
        watch: called after each lookup with the residents in high precision, [caches, slots].

    Raises:
        InputError: the policy lacks something, or a cache is smaller than top-k.
    """
    tokens, layers, k = ids.shape
    caches = layers if scope == "layer" else 1
    known = np.zeros((0, layers, k), dtype=np.int64) if profile is None else profile
    if (policy.needs_weights or policy.precisions() is not None) and weights is None:
        message = "it needs gate weights, and the trace has none"
        raise InputError(message)
    if policy.needs_profile and not len(known):
        message = "it needs a profile of the past"
        raise InputError(message, hint="give --profile above 0")
    capacity = min(capacity, experts * layers // caches)
    room = np.full(caches, capacity, dtype=np.int64)
    numbers = ids.astype(np.int64)
    if scope == "global":
        numbers = numbers + np.arange(layers)[:, np.newaxis] * experts
    flat = numbers.reshape(-1, caches, k)
    future = flat if policy.oracle else None
    frame = CacheFrame(layers, experts, k, caches, room, known, future)
    frame = replace(frame, capacity=policy.sizes(frame))
    mix = policy.precisions()
    high, low = _stores(frame, mix)
    state = policy.start(frame)
    rows = np.arange(caches)[:, np.newaxis]
    gates = None if weights is None else np.asarray(weights, dtype=np.float64).reshape(-1, caches, k)
    classes = None if mix is None or gates is None else precision_of(gates, mix.t1, mix.t2)
    begins = np.zeros(tokens, dtype=bool)
    if sequence is not None:
        begins[1:] = np.asarray(sequence)[1:] != np.asarray(sequence)[:-1]
    per_token = layers // caches
    fixed = policy.keeps == "fixed"
    totals = np.zeros((6, layers), dtype=np.int64)
    for step in range(len(flat)):
        layer = step % per_token
        if layer == 0 and begins[step // per_token]:
            state.reset()
        access = Access(
            step,
            rows,
            flat[step],
            None if gates is None else gates[step],
            rows if caches == layers else np.full((1, 1), layer),
            slice(layer * experts, (layer + 1) * experts) if caches == 1 else slice(0, experts),
            None if classes is None else classes[step],
        )
        if fixed and step == 0:
            _fill(high, state.priorities(access))
        state.see(access)
        at = slice(None) if caches == layers else slice(layer, layer + 1)
        totals[:, at] += _serve(access, high, low, state.priorities, fixed)
        if watch is not None:
            watch(access, high.resident)
        if policy.keeps == "passing":
            high.resident[access.rows, access.ids] = False
    return CacheReplay(np.full(layers, tokens * k, dtype=np.int64), *totals)


def _stores(frame: CacheFrame, mix: Precisions | None) -> tuple[_Store, _Store | None]:
    """Share the memory of each cache among precisions and check that a token fits."""
    if mix is None or not mix.low_share:
        _check_fits(frame.capacity, frame.top_k, "a cache")
        return _Store(frame.capacity, frame.slots), None
    high, low = mix.split(frame.capacity)
    for part, name in ((high, "high"), (low, "low")):
        _check_fits(part, frame.top_k, f"the {name}-precision part of a cache, low_share {mix.low_share:g},")
    return _Store(high, frame.slots), _Store(low, frame.slots)


def _check_fits(capacity: Ints, top_k: int, what: str) -> None:
    """Refuse a cache in which the experts of one token do not fit."""
    if int(capacity.min()) < top_k:
        message = (
            f"{what} of {int(capacity.min())} experts is smaller than top-{top_k}: a token would not fit"
        )
        raise InputError(message, hint=f"the smallest holds {top_k}")


def _fill(store: _Store, worth: Floats) -> None:
    """Make the experts worth most resident."""
    order = np.argsort(-worth, axis=1, kind="stable")
    for cache, size in enumerate(store.capacity):
        store.resident[cache, order[cache, :size]] = True


def _serve(
    access: Access, high: _Store, low: _Store | None, rank: Callable[[Access], Floats], fixed: bool
) -> Ints:
    """Serve one lookup; returns hits, low hits, loads, low loads, skipped, evictions, [6, caches]."""
    found = high.resident[access.rows, access.ids]
    none = np.zeros_like(found)
    if fixed:
        return np.stack([x.sum(axis=1) for x in (found, none, ~found, none, none, none)])
    wanted, found_low, loads_low, skipped = np.ones_like(found), none, none, none
    evicted_low: Any = 0
    if access.precision is not None:
        important = access.precision == HIGH
        if low is None:
            important |= access.precision == LOW
        wanted = found | important
        if low is not None:
            found_low = ~wanted & low.resident[access.rows, access.ids]
            loads_low = ~wanted & ~found_low & (access.precision == LOW)
            evicted_low = low.hold(access, found_low | loads_low, rank)
        skipped = ~wanted & ~found_low & ~loads_low
    evicted = high.hold(access, wanted, rank) if not found.all() else 0
    counted = [x.sum(axis=1) for x in (found | found_low, found_low, wanted & ~found, loads_low, skipped)]
    return np.stack([*counted, np.zeros_like(counted[0]) + evicted + evicted_low])
