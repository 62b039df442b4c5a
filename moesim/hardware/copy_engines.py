"""Copy engines that share links: several devices behind one host, one drive, one memory."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from moesim.errors import InputError
from moesim.hardware.copies import DEFAULT_CHUNK, Stage, check_chunk, check_sizes, cut
from moesim.hardware.copy_clock import Copied, CopyClock
from moesim.hardware.fluid_live import LiveFluid
from moesim.hardware.max_min import FloatArray, Flow


@dataclass(frozen=True)
class Engine:
    """What moves one chunk at a time: a device's copies to it, a drive's reads ...

    Attributes:
        name: what it is called.
        links: links that each chunk crosses, with how many bytes of each byte copied cross it.
        start: cost of setting one copy up (s).
        latency: time from the last byte sent to its arrival (s).
    """

    name: str
    links: Mapping[int, float]
    start: float = 0.0
    latency: float = 0.0

    def stage(self, bandwidth: FloatArray) -> Stage:
        """Return what it reaches when nothing else runs on its links [links] (B/s)."""
        rate = min(float(bandwidth[link]) / weight for link, weight in self.links.items())
        return Stage(rate, self.start, self.latency, self.name)


@dataclass
class _Copy:
    number: int
    route: tuple[int, ...]
    level: int
    full: int
    last: float
    begin: float = math.nan


@dataclass(order=True)
class _Chunk:
    """A chunk at one stage of its copy; ordered as engines choose."""

    rank: tuple[int, int, int]
    copy: _Copy = field(compare=False)
    index: int = field(compare=False)
    stage: int = field(compare=False)

    @property
    def engine(self) -> int:
        return self.copy.route[self.stage]

    @property
    def final(self) -> bool:
        """Whether it is the last chunk."""
        return self.index == self.copy.full


class CopyEngines(CopyClock):
    """Copies on many engines, each over one or more of them in turn, moved forward by the owner of the clock.

    Every engine obeys the rules of ``moesim.hardware.copies``; chunks under way at the same time share links
    max-min fairly. A chunk that has passed one engine of its route is set up on the next. Use it like
    ``CopyQueue``: after every ``submit`` and ``advance`` ask ``next_event`` when to call ``advance`` again.
    It takes each chunk one by one, so choose larger chunks where many gigabytes move.

    Attributes:
        now: time up to which everything has happened (s).
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        bandwidth: FloatArray,
        chunk: float = DEFAULT_CHUNK,
        now: float = 0.0,
    ) -> None:
        """Start idle on links of the given bandwidths [links] (B/s).

        Raises:
            InputError: a chunk or a bandwidth that is not above zero.
        """
        self.now = now
        self._engines = tuple(engines)
        self._chunk = check_chunk(chunk)
        if not (np.isfinite(bandwidth) & (np.asarray(bandwidth) > 0)).all():
            message = "every link of a copy engine needs a bandwidth above zero"
            raise InputError(message)
        self._fluid = LiveFluid(np.asarray(bandwidth, dtype=np.float64), now)
        self._waiting: list[list[_Chunk]] = [[] for _ in engines]
        self._next_begin = [-math.inf] * len(self._engines)
        self._moving: dict[int, _Chunk] = {}
        self._taken: set[int] = set()
        # Chunks on their way to an engine, copies on their way to their end, engines that may begin again.
        self._due: list[tuple[float, int, _Chunk | _Copy | None]] = []
        self._order = itertools.count()
        self._numbers = itertools.count()
        self._open = 0

    def __len__(self) -> int:
        """Return how many copies have not arrived."""
        return self._open

    @property
    def carried(self) -> FloatArray:
        """Bytes that each link has carried so far [links]."""
        return self._fluid.carried

    def submit(self, route: Sequence[int], size: float, now: float, level: int = 0) -> int:
        """Ask for a copy over the engines of ``route`` at ``now`` and return its number.

        A copy of zero bytes, or over no engine, arrives at once.

        Raises:
            InputError: a size that is negative or not finite.
            ValueError: a time that is not ``self.now`` or later.
        """
        full, last = cut(check_sizes(size), self._chunk)
        self._check(now)
        copy = _Copy(next(self._numbers), tuple(route), level, int(full), float(last))
        self._open += 1
        if size == 0 or not route:
            copy.begin = now
            self._push(now, copy)
        else:
            self._push(now + self._engines[route[0]].start, self._at(copy, 0, 0))
        return copy.number

    def hurry(self, copy: int, level: int) -> None:
        """Give what is left of a copy another level; chunks under way are not touched."""
        chunks = [chunk for waiting in self._waiting for chunk in waiting]
        chunks += [item for _, _, item in self._due if isinstance(item, _Chunk)]
        chunks += list(self._moving.values())
        for chunk in chunks:
            if chunk.copy.number == copy:
                chunk.copy.level = level
                chunk.rank = (-level, *chunk.rank[1:])
        for waiting in self._waiting:
            heapq.heapify(waiting)

    def next_event(self) -> float | None:
        """Let idle engines choose; return when ``advance`` is due next (s), None when nothing is to do."""
        self._pop_due(arrivals=None)
        self._dispatch()
        return self._next_time()

    def advance(self, now: float) -> list[Copied]:
        """Move to ``now`` and return the copies that have arrived until then, in order.

        Raises:
            ValueError: a time before ``self.now``.
        """
        self._check(now)
        arrivals: list[Copied] = []
        while True:
            self._pop_due(arrivals)
            if self.now < now:
                self._dispatch()
            event = self._next_time()
            if event is None or event > now or (event == self.now == now):
                break
            self._move(event)
        self._move(now)
        self._pop_due(arrivals)
        return arrivals

    def _at(self, copy: _Copy, index: int, stage: int) -> _Chunk:
        return _Chunk((-copy.level, copy.number, index), copy, index, stage)

    def _push(self, when: float, item: _Chunk | _Copy | None) -> None:
        heapq.heappush(self._due, (when, next(self._order), item))

    def _next_time(self) -> float | None:
        """Return when something happens next if nobody interferes; None when nothing will."""
        times = [self._due[0][0]] if self._due else []
        completion = self._fluid.next_completion()
        if completion is not None:
            times.append(completion[0])
        return max(min(times), self.now) if times else None

    def _move(self, now: float) -> None:
        """Let chunks flow until ``now``, at which or after which the next of them is through."""
        for when, flow in self._fluid.advance(now):
            chunk = self._moving.pop(flow)
            self._taken.discard(chunk.engine)
            there = when + self._engines[chunk.engine].latency
            if chunk.stage + 1 < len(chunk.copy.route):
                onward = self._at(chunk.copy, chunk.index, chunk.stage + 1)
                self._push(there + self._engines[onward.engine].start, onward)
            elif chunk.final:
                self._push(there, chunk.copy)
        self.now = now

    def _pop_due(self, arrivals: list[Copied] | None) -> None:
        """Take what is due by now: chunks get in line, and copies arrive where somebody asks for them."""
        kept: list[tuple[float, int, _Chunk | _Copy | None]] = []
        while self._due and self._due[0][0] <= self.now:
            entry = heapq.heappop(self._due)
            if isinstance(entry[2], _Chunk):
                heapq.heappush(self._waiting[entry[2].engine], entry[2])
            elif entry[2] is not None and arrivals is None:
                kept.append(entry)
            elif entry[2] is not None and arrivals is not None:
                self._open -= 1
                arrivals.append(Copied(entry[2].number, entry[2].begin, entry[0]))
        for entry in kept:
            heapq.heappush(self._due, entry)

    def _dispatch(self) -> None:
        """Begin a chunk on every idle engine that has one waiting."""
        for number, waiting in enumerate(self._waiting):
            if not waiting or number in self._taken:
                continue
            if self._next_begin[number] > self.now:
                # Woken again when the next copy has been set up; several wake-ups do no harm.
                self._push(self._next_begin[number], None)
                continue
            self._begin(number, heapq.heappop(waiting))

    def _begin(self, number: int, chunk: _Chunk) -> None:
        """Set a chunk moving, and put the one after it in line."""
        engine, copy = self._engines[number], chunk.copy
        if math.isnan(copy.begin):
            copy.begin = self.now
        size = copy.last if chunk.final else self._chunk
        amounts = {link: weight * size for link, weight in engine.links.items()}
        self._moving[self._fluid.add(Flow(self.now, amounts), self.now)] = chunk
        self._taken.add(number)
        self._next_begin[number] = self.now + engine.start
        if chunk.stage == 0 and not chunk.final:
            heapq.heappush(self._waiting[number], self._at(copy, chunk.index + 1, 0))
