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
from moesim.routing.locality.priorities import Farthest, Keys, Priorities, Window

Distances = npt.NDArray[np.signedinteger[Any]]

POLICIES: Final = ("lru", "lfu", "belady", "sch")
"""Least recently used, least frequently used in the sequence, farthest next use, least used in a segment."""

_WIDE: Final = 256
"""Rows from which going from place to place beats doubling steps: its calls then have work to do."""


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
    stack = _Stack(order, sequences * caches)
    seen = np.zeros(sequences * caches, dtype=np.int64)
    for position in range(accesses.longest):
        living = accesses.active(position)
        if living * 8 <= sequences * 7 or living == 1 < sequences:  # carry few rows that have ended
            sequences = living
            order.shrink(living * caches)
            stack, seen = stack.shrunk(living * caches), seen[: living * caches]
        keys = order.keys.reshape(-1)
        for places, step in order.raised(position):
            stack.raise_by(stack.find(keys[places]), step)
            keys[places] += step
        tokens, experts = accesses.at(position, sequences)
        found, first = np.empty(experts.shape, dtype=np.int64), stack.columns
        offsets = experts * stack.rows + stack.columns
        for turn, places in enumerate(offsets):
            key = keys[places]
            new = key == order.unseen
            at = stack.find(key)
            first = at if turn == 0 else first
            found[turn] = np.where(new, seen, at) + 1
            seen += new
        alive = slice(0, living)
        distances[tokens[alive]] = found.T.reshape(sequences, caches, per_token)[alive]
        for turn, places in enumerate(offsets):
            at = first if turn == 0 else stack.find(keys[places])
            keys[places] = key = order.used(position, turn, tokens, places)
            stack.take(at, key)


class _Stack:
    """The lists of all rows: keys by place, [experts + 1, rows]; the last place is that of no expert."""

    def __init__(self, order: Priorities, rows: int, keys: Keys | None = None) -> None:
        self.order, self.rows = order, rows
        self.experts = len(order.keys)
        self.wide = rows >= _WIDE
        shape = (self.experts + 1, rows)
        self.keys = np.full(shape, order.empty, order.keys.dtype) if keys is None else keys
        self.spare = np.empty((2, 1 if self.wide else self.experts, rows), dtype=self.keys.dtype)
        self.columns = np.arange(rows)
        kind = np.uint8 if self.experts < 2**8 else np.uint16 if self.experts < 2**16 else np.uint32
        self.depth = np.arange(self.experts, 0, -1, dtype=kind)[:, np.newaxis]
        self.same = np.empty((self.experts, rows), dtype=np.bool_)
        self.deep = np.empty((self.experts, rows), dtype=kind)

    def shrunk(self, rows: int) -> _Stack:
        """Return the leading rows."""
        return _Stack(self.order, rows, np.ascontiguousarray(self.keys[:, :rows]))

    def find(self, key: Keys) -> IntArray:
        """Return the place of one key in each row, int64 [rows]; ``experts`` where it is not in the list."""
        np.equal(self.keys[: self.experts], key, out=self.same)
        if self.wide:
            np.multiply(self.same.view(np.uint8), self.depth, out=self.deep)
            deepest: IntArray = np.maximum.reduce(self.deep, axis=0).astype(np.int64)
            return self.experts - deepest
        found = np.full(self.rows, self.experts)
        at = np.flatnonzero(self.same)
        place = at // self.rows
        found[at - place * self.rows] = place
        return found

    def raise_by(self, places: IntArray, step: Keys) -> None:
        """Raise the keys at one place of each row."""
        self.keys.reshape(-1)[places * self.rows + self.columns] += step

    def take(self, places: IntArray, key: Keys) -> None:
        """Put used experts on top of the list.

        Each size keeps its old residents but the lowest of them, down to the old place of the expert.
        So place i + 1 gets the higher of what stood there and the lowest of places 0 to i.

        Args:
            places: where the experts are, [rows].
            key: their new keys, [rows].
        """
        # Lowest of all: nothing below it changes, and its place is filled.
        self.keys.reshape(-1)[places * self.rows + self.columns] = self.order.empty
        if self.wide:
            self._step_down()
        else:
            lowest, below = self._lowest(), self.keys[1 : self.experts]
            np.maximum(lowest[:-1], below, out=below)
        self.keys[0] = key

    def _step_down(self) -> None:
        """Carry the lowest so far from place to place."""
        lowest, lower = self.spare[:, 0]
        lowest[:] = self.keys[0]
        for keys in self.keys[1 : self.experts]:
            np.minimum(lowest, keys, out=lower)
            np.maximum(lowest, keys, out=keys)
            lowest, lower = lower, lowest

    def _lowest(self) -> Keys:
        """Return the minimum of each place and those before it, in doubling steps."""
        source, (target, other) = self.keys[: self.experts], self.spare
        reach = 1
        while reach < self.experts:
            target[:reach] = source[:reach]
            np.minimum(source[reach:], source[:-reach], out=target[reach:])
            source, target, other = target, other, target
            reach *= 2
        return source
