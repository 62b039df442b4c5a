"""Stack distances: one pass that tells for every cache size at once whether an access hits.

A cache that always evicts the resident of lowest priority, and always takes in what is used, holds at size c
the first c experts of one list, the stack (Mattson et al., IBM Systems Journal 1970). An access hits
every cache at least as large as its place in the list. Frame as in arXiv 2505.16056: the experts of a
token are looked up in the cache as the token before left it, then taken in one after the other; each may
push out another one of the same token, never itself. An expert used for the first time counts as a hit
while the cache has free places.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError, unknown_name
from moesim.routing.locality.accesses import Accesses, IntArray
from moesim.routing.locality.priorities import UNSEEN, Farthest, Keys, Priorities, Window

Distances = npt.NDArray[np.signedinteger[Any]]

POLICIES: Final = ("lru", "lfu", "belady", "sch")
"""Least recently used, least frequently used in the sequence, farthest next use, least used in a segment."""

_EMPTY: Final = -1
_WIDE: Final = 512
"""Rows from which a loop over places beats doubling steps: its calls then have work to do."""


def stack_distances(accesses: Accesses, policy: str, window: int | None = None) -> Distances:
    """Return the smallest cache that an access hits, same shape as ``accesses.ids``, from 1 to ``experts``.

    Args:
        accesses: the tokens; each sequence begins with an empty cache.
        policy: one of ``POLICIES``.
        window: tokens that ``sch`` looks ahead, the current one included; for no other policy.

    Raises:
        InputError: an unknown policy, or a window that is missing, too small or without use.
    """
    if policy not in POLICIES:
        raise unknown_name("cache policy", policy, POLICIES)
    if (window is None) == (policy == "sch") or (window is not None and window < 1):
        message = "'sch' needs a window of at least one token, other policies take none"
        raise InputError(message, hint="for example policy 'sch' with window 16")
    distances = np.zeros(accesses.ids.shape, dtype=np.int16 if accesses.experts < 2**15 else np.int32)
    if policy == "lru":
        _recency(accesses, distances)
    elif policy == "lfu":
        _general(accesses, Priorities(accesses), distances)
    elif policy == "belady":
        _general(accesses, Farthest(accesses), distances)
    else:
        _general(accesses, Window(accesses, window or 1), distances)
    return distances


def _recency(accesses: Accesses, distances: Distances) -> None:
    """Count the experts used since: under LRU the list is sorted by last use."""
    _, caches, per_token = accesses.ids.shape
    sequences = len(accesses.lengths)
    last = np.full((accesses.experts, sequences * caches), -1, dtype=np.int32)
    seen = np.zeros(sequences * caches, dtype=np.int64)
    narrow = np.uint8 if accesses.experts < 256 else np.uint32
    for position in range(accesses.longest):
        living = accesses.active(position)
        if living < sequences:
            sequences = living
            last, seen = np.ascontiguousarray(last[:, : living * caches]), seen[: living * caches]
        columns = np.arange(living * caches)
        tokens, experts = accesses.at(position, living)
        before = last[experts, columns]
        found = np.empty(experts.shape, dtype=np.int64)
        for turn, used in enumerate(before):
            newer = np.add.reduce((last > used).view(np.uint8), axis=0, dtype=narrow).astype(np.int64)
            found[turn] = np.where(used >= 0, newer, seen) + 1
            seen += used < 0
        distances[tokens] = found.T.reshape(living, caches, per_token)
        moments = np.arange(per_token, dtype=np.int32)[:, np.newaxis] + position * per_token
        last[experts, columns] = moments


def _general(accesses: Accesses, order: Priorities, distances: Distances) -> None:
    """Keep the list of every row sorted as its policy demands, by the keys that it stands for."""
    caches, per_token = accesses.ids.shape[1:]
    sequences = len(accesses.lengths)
    stack: Keys = np.full(order.keys.shape, _EMPTY, dtype=order.keys.dtype)
    seen = np.zeros(stack.shape[1], dtype=np.int64)
    for position in range(accesses.longest):
        living = accesses.active(position)
        if living * 8 <= sequences * 7 or living == 1 < sequences:  # carry few rows that have ended
            sequences = living
            order.shrink(living * caches)
            stack, seen = np.ascontiguousarray(stack[:, : living * caches]), seen[: living * caches]
        rows = stack.shape[1]
        columns = np.arange(rows)
        flat, keys = stack.reshape(-1), order.keys.reshape(-1)
        for places, step in order.raised(position):
            at = np.flatnonzero(stack == keys[places])
            flat[at] += step[at % rows]
            keys[places] += step
        tokens, experts = accesses.at(position, sequences)
        found, first = _look_up(stack, order.keys, experts, seen)
        alive = slice(0, living)
        distances[tokens[alive]] = found.T.reshape(sequences, caches, per_token)[alive]
        running = np.empty_like(stack)
        for turn, expert in enumerate(experts):
            places = expert * rows + columns
            at = first if turn == 0 else np.flatnonzero(stack == keys[places])
            key = order.used(position, turn, tokens, places)
            _take(stack, running, at, key)
            keys[places] = key


def _look_up(stack: Keys, table: Keys, experts: IntArray, seen: IntArray) -> tuple[IntArray, IntArray]:
    """Find the experts of a token in the list.

    Returns:
        Distances, int64 [per_token, rows], and the flat places of the first expert in the list.
    """
    rows = stack.shape[1]
    columns = np.arange(rows)
    found = np.empty(experts.shape, dtype=np.int64)
    first = np.zeros(0, dtype=np.int64)
    for turn, expert in enumerate(experts):
        key = table[expert, columns]
        at = np.flatnonzero(stack == key)
        found[turn] = seen + 1
        place = at // rows
        found[turn, at - place * rows] = place + 1
        seen += key == UNSEEN
        first = at if turn == 0 else first
    return found, first


def _take(stack: Keys, running: Keys, at: IntArray, key: Keys) -> None:
    """Put used experts on top of the list.

    Each size keeps its old residents but the lowest of them, down to the old place of the expert.
    So place i + 1 gets the higher of what stood there and the lowest of places 0 to i.

    Args:
        stack: keys by place, [experts, rows].
        running: room for a copy.
        at: flat places of the experts, where they are in the list.
        key: new keys, [rows].
    """
    stack.reshape(-1)[at] = _EMPTY  # lowest of all: nothing below it changes, and its place is filled
    lowest = _running_minimum(stack, running)
    np.maximum(lowest[:-1], stack[1:], out=stack[1:])
    stack[0] = key


def _running_minimum(stack: Keys, running: Keys) -> Keys:
    """Return the minimum of each place and those before it; numpy's own accumulate is slow on this axis."""
    places, rows = stack.shape
    if rows >= _WIDE or places < 8:
        running[0] = stack[0]
        for place in range(1, places):
            np.minimum(running[place - 1], stack[place], out=running[place])
        return running
    source, target, other = stack, running, np.empty_like(stack)
    reach = 1
    while reach < places:
        target[:reach] = source[:reach]
        np.minimum(source[reach:], source[:-reach], out=target[reach:])
        source, target, other = target, other, target
        reach *= 2
    return source
