"""What makes an expert worth keeping, for caches that keep the experts of highest priority.

A priority is a whole number; those of two resident experts that matter are never equal, because they hold
the moment of one access. Keys are priorities in the narrowest type that holds them, from its lowest value
up. All tables are [experts, rows], a row being one cache of one sequence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.routing.locality.accesses import Accesses, IntArray

Keys = npt.NDArray[np.signedinteger[Any]]


class Priorities:
    """LFU: uses so far in the sequence, then the last use; base of the other orders.

    Attributes:
        unseen: key of an expert that was never used, below all others.
        empty: key that no expert has, just above.
        keys: key of each expert, [experts, rows].
        uses: what the priority counts, int32 [experts, rows].
    """

    def __init__(self, accesses: Accesses) -> None:
        self.accesses = accesses
        self.caches, self.per_token = accesses.ids.shape[1:]
        self.moments = accesses.longest * self.per_token + 2
        rows = len(accesses.lengths) * self.caches
        span = self.moments * (self.most_uses() + 2) + 2
        kind = np.int16 if span <= 2**16 else np.int32 if span <= 2**32 else np.int64
        self.unseen = int(np.iinfo(kind).min)
        self.empty = self.unseen + 1
        self.keys: Keys = np.full((accesses.experts, rows), self.unseen, dtype=kind)
        self.uses = np.zeros(self.keys.shape, dtype=np.int32)

    def most_uses(self) -> int:
        """Return the largest count that a priority can hold."""
        return self.accesses.longest

    def key(self, priority: IntArray) -> Keys:
        """Return the keys of priorities from 0."""
        return (priority + (self.empty + 1)).astype(self.keys.dtype)

    def shrink(self, rows: int) -> None:
        """Forget all but the leading rows."""
        self.keys = np.ascontiguousarray(self.keys[:, :rows])
        self.uses = np.ascontiguousarray(self.uses[:, :rows])

    def raised(self, position: int) -> list[tuple[IntArray, Keys]]:
        """Return changes before the token at a position: places in ``keys`` and what each is raised by."""
        return []

    def used(self, position: int, turn: int, tokens: IntArray, places: IntArray) -> Keys:
        """Return the priorities of experts just used, [rows].

        Args:
            position: of the token in its sequence.
            turn: of the access in its token.
            tokens: token numbers, [sequences].
            places: flat places of the experts in the tables, [rows].
        """
        uses = self.uses.reshape(-1)
        count = uses[places] + 1
        uses[places] = count
        return self.key(count * np.int64(self.moments) + (position * self.per_token + turn + 1))


class Farthest(Priorities):
    """Belady: the sooner the next use, the higher."""

    def __init__(self, accesses: Accesses) -> None:
        super().__init__(accesses)
        self.next = next_uses(accesses)

    def most_uses(self) -> int:
        """Return 0: a moment is all there is."""
        return 0

    def used(self, position: int, turn: int, tokens: IntArray, places: IntArray) -> Keys:
        """Return the priorities of experts just used, [rows]."""
        return self.key(self.moments - self.next[tokens, :, turn].reshape(-1).astype(np.int64))


class Window(Priorities):
    """Segment cache: uses in the coming tokens, then the last use.

    The window is the token itself, for experts it has not taken yet, and the following ``window - 1`` tokens.
    """

    def __init__(self, accesses: Accesses, window: int) -> None:
        self.window = min(window, accesses.longest)
        super().__init__(accesses)
        for position in range(self.window - 1):
            self._enter(position)

    def most_uses(self) -> int:
        """Return the tokens of a window."""
        return self.window

    def raised(self, position: int) -> list[tuple[IntArray, Keys]]:
        """Return the experts of the token that enters the window."""
        return self._enter(position + self.window - 1)

    def _enter(self, position: int) -> list[tuple[IntArray, Keys]]:
        rows = self.keys.shape[1]
        living = self.accesses.active(position) * self.caches
        if not living:
            return []
        _, experts = self.accesses.at(position, rows // self.caches)
        step = (np.arange(rows) < living).astype(np.int32)
        keys, uses = self.keys.reshape(-1), self.uses.reshape(-1)
        changes = []
        for expert in experts:
            places = expert * rows + np.arange(rows)
            uses[places] += step
            raised = step * np.int64(self.moments) * (keys[places] > self.empty)
            changes.append((places, raised.astype(keys.dtype)))
        return changes

    def used(self, position: int, turn: int, tokens: IntArray, places: IntArray) -> Keys:
        """Return the priorities of experts just used, [rows]; this use leaves the window."""
        uses = self.uses.reshape(-1)
        count = uses[places] - 1
        uses[places] = count
        return self.key(count * np.int64(self.moments) + (position * self.per_token + turn + 1))


def next_uses(accesses: Accesses) -> npt.NDArray[np.int32]:
    """Return when each access's expert is used next, int32, same shape as ``accesses.ids``.

    A moment is ``position * per_token + turn`` in the sequence; never is two beyond the last moment.
    """
    tokens, caches, per_token = accesses.ids.shape
    rows = len(accesses.lengths) * caches
    never = accesses.longest * per_token + 2
    upcoming = np.full((accesses.experts, rows), never, dtype=np.int32)
    found = np.empty((tokens, caches, per_token), dtype=np.int32)
    for position in reversed(range(accesses.longest)):
        living = accesses.active(position)
        numbers, experts = accesses.at(position, living)
        columns = np.arange(living * caches)
        found[numbers] = upcoming[experts, columns].T.reshape(living, caches, per_token)
        moments = np.arange(per_token, dtype=np.int32)[:, np.newaxis] + position * per_token
        upcoming[experts, columns] = moments
    return found
