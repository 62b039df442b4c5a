"""What a run has to say about its prices: said once, counted, always in the same order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class Notes:
    """Collects remarks; the same remark again only adds to its count."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, what: str, count: int = 1) -> None:
        """Remember a remark.

        Args:
            what: one sentence without a full stop.
            count: how often it applies; 0 leaves the notes as they are.
        """
        if count > 0:
            self._counts[what] += int(count)

    def merge(self, others: Iterable[Notes]) -> None:
        """Take over the remarks of others, for example of parts of a run."""
        for other in others:
            self._counts.update(other._counts)

    def texts(self) -> tuple[str, ...]:
        """Return the remarks in alphabetical order, each with how often it applied if more than once."""
        return tuple(
            what if count == 1 else f"{what} ({count} times)" for what, count in sorted(self._counts.items())
        )

    def __len__(self) -> int:
        return len(self._counts)


def outside(what: str, device: str, reach: str) -> str:
    """Word the remark that tables do not reach and the analytic model stepped in.

    Args:
        what: what was asked for, for example ``experts of [7168 x 2048], fp8``.
        device: catalogue name.
        reach: what the tables cover, for example ``rows 1..16384``; empty if they hold none of it.
    """
    if not reach:
        return f"{what}: not measured on {device}, analytic model used"
    return f"{what}: outside the measured range of {device} ({reach}), analytic model used"
