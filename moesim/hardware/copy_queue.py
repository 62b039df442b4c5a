"""One copy engine over time: copies come while others run, the urgent ones first, chunks never broken off."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

from moesim.hardware.copies import DEFAULT_CHUNK, Stage, check_chunk, check_sizes
from moesim.hardware.copy_clock import Copied, CopyClock


@dataclass
class _Copy:
    """A copy that is not all under way: full chunks before the last one, and the bytes of the last."""

    copy: int
    number: int
    level: int
    full: int
    last: float
    begin: float = math.nan


class CopyQueue(CopyClock):
    """Copies on one engine of fixed rate, moved forward by whoever owns the clock.

    It knows nothing of an event engine: after every ``submit`` and ``advance`` ask ``next_event`` when to
    call ``advance`` again. What the engine moves next is chosen when the clock leaves an instant, or when
    ``next_event`` is asked, so copies submitted at the same moment compete on equal terms. Runs of
    chunks are taken in one step: the cost is per copy and not per chunk. For engines that share links see
    ``moesim.hardware.copy_engines``.

    Attributes:
        now: time up to which everything has happened (s).
        moved: bytes of all chunks that have been moved or are being moved.
        busy: seconds for which the link was or will be taken by these.
    """

    def __init__(self, stage: Stage, chunk: float = DEFAULT_CHUNK, now: float = 0.0) -> None:
        """Start idle.

        Raises:
            InputError: a chunk that is not above zero.
        """
        self.now = now
        self.moved = 0.0
        self.busy = 0.0
        self._stage = stage
        self._chunk = check_chunk(chunk)
        self._step = max(self._chunk / stage.rate, stage.start)
        self._coming: list[tuple[float, int, _Copy]] = []
        self._waiting: list[tuple[int, int, _Copy]] = []
        self._arriving: list[tuple[float, int, Copied]] = []
        self._free = -math.inf
        self._number = 0

    def __len__(self) -> int:
        """Return how many copies have not arrived."""
        return len(self._coming) + len(self._waiting) + len(self._arriving)

    def submit(self, copy: int, size: float, now: float, level: int = 0) -> None:
        """Ask for a copy at ``now``, which may lie ahead of the clock; higher levels go before lower ones.

        Raises:
            InputError: a size that is negative or not finite.
            ValueError: a time before ``self.now``.
        """
        if not 0 <= size < math.inf:
            check_sizes(size)
        self._check(now)
        self._number += 1
        if size == 0:
            heapq.heappush(self._arriving, (now, self._number, Copied(copy, now, now)))
            return
        # As ``cut`` does for arrays.
        full = max(math.ceil(size / self._chunk) - 1, 0)
        new = _Copy(copy, self._number, level, full, min(size - full * self._chunk, self._chunk))
        heapq.heappush(self._coming, (now + self._stage.start, self._number, new))

    def hurry(self, copy: int, level: int) -> None:
        """Give a copy that has not wholly been served another level; one that has been is left alone."""
        for _, _, coming in self._coming:
            if coming.copy == copy:
                coming.level = level
        for at, (_, number, waiting) in enumerate(self._waiting):
            if waiting.copy == copy:
                waiting.level = level
                self._waiting[at] = (-level, number, waiting)
                heapq.heapify(self._waiting)
                return

    def next_event(self) -> float | None:
        """Let the engine choose what to move now; return when ``advance`` is due next (s), None when idle.

        That is the next arrival if no other copy is submitted, or the moment at which one has been set up.
        """
        self._take(self.now)
        while self._waiting and self._free <= self.now:
            self._serve(self.now, self.now)
        times = [heap[0][0] for heap in (self._arriving, self._coming) if heap]
        if self._waiting:
            copy, rate = self._waiting[0][2], self._stage.rate
            times.append(self._free + copy.full * self._step + copy.last / rate + self._stage.latency)
        return min(times) if times else None

    def advance(self, now: float) -> list[Copied]:
        """Move to ``now`` and return the copies that have arrived until then, in order.

        Raises:
            ValueError: a time before ``self.now``.
        """
        self._check(now)
        while self._waiting or self._coming:
            at = max(self._free, self.now)
            if not self._waiting:
                at = max(at, self._coming[0][0])
            if at >= now:
                break
            self._take(at)
            self._serve(at, now)
        self.now = now
        done = []
        while self._arriving and self._arriving[0][0] <= now:
            done.append(heapq.heappop(self._arriving)[2])
        return done

    def _take(self, at: float) -> None:
        """Put copies that are set up by now in line."""
        while self._coming and self._coming[0][0] <= at:
            _, number, copy = heapq.heappop(self._coming)
            heapq.heappush(self._waiting, (-copy.level, number, copy))

    def _serve(self, at: float, now: float) -> None:
        """Move chunks of the most urgent copy from ``at`` on, as many as begin before anything can change."""
        copy = self._waiting[0][2]
        if math.isnan(copy.begin):
            copy.begin = at
        horizon = min(now, self._coming[0][0]) if self._coming else now
        run = max(1, math.ceil((horizon - at) / self._step))
        stage = self._stage
        if run <= copy.full:
            copy.full -= run
            taken = run * self._chunk
            self._free = at + run * self._step
        else:
            taken = copy.full * self._chunk + copy.last
            end = at + copy.full * self._step
            self._free = end + max(copy.last / stage.rate, stage.start)
            heapq.heappop(self._waiting)
            arrived = Copied(copy.copy, copy.begin, end + copy.last / stage.rate + stage.latency)
            heapq.heappush(self._arriving, (arrived.finish, copy.number, arrived))
        self.moved += taken
        self.busy += taken / stage.rate
