"""What timing models of copies have in common: time that only goes on, and arrivals in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple


class Copied(NamedTuple):
    """A copy that has arrived: which, when its first byte moved, when its last byte arrived (s)."""

    copy: int
    begin: float
    finish: float


class CopyClock(ABC):
    """Copies under way, up to the time ``now`` (s)."""

    now: float

    @abstractmethod
    def next_event(self) -> float | None:
        """Time (s) at which something changes next; None where nothing is under way."""

    @abstractmethod
    def advance(self, now: float) -> list[Copied]:
        """Go on to ``now`` (s) and return what has arrived, in order."""

    def finish_all(self) -> list[Copied]:
        """Let everything arrive and return it in order."""
        done: list[Copied] = []
        while (event := self.next_event()) is not None:
            done.extend(self.advance(event))
        return done

    def _check(self, now: float) -> None:
        if not now >= self.now:
            message = f"time cannot go back from {self.now!r} to {now!r}"
            raise ValueError(message)
