"""What one run's devices hold and what is on its way to them, moved on from router to router."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from moesim.engine.offload.loader import DEMAND, PREFETCH, Loader
from moesim.engine.offload.residency import Residency
from moesim.hardware.copy_clock import Copied
from moesim.policies.prefetch.base import Floats

COUNTS: Final = (
    "accesses",
    "hits",
    "low_hits",
    "late",
    "loads",
    "low_loads",
    "cpu",
    "skipped",
    "prefetches",
    "used",
    "in_time",
    "wasted",
)
"""What is counted by device and MoE layer, in order."""
(ACCESSES, HITS, LOW_HITS, LATE, LOADS, LOW_LOADS, CPU, SKIPPED, PREFETCHES, USED, IN_TIME, WASTED) = range(
    len(COUNTS)
)


class Flight(NamedTuple):
    """A copy under way: where it goes, what it is, and why it was begun."""

    device: int
    layer: int
    expert: int
    precision: int
    prefetched: bool
    stays: bool
    asked: float


@dataclass(frozen=True)
class CopySpan:
    """A copy that has arrived: where it went, for which layer, when its first and last byte moved (s)."""

    device: int
    layer: int
    expert: int
    prefetched: bool
    begin: float
    finish: float


class Machine:
    """Caches and links of all devices.

    Args:
        loader: the links.
        residency: caches of each device.
        sizes: bytes of each expert in high precision [MoE layers, experts].
        low_size: bytes of one in low precision over these.
        staging: buffers of each device for experts that do not stay.

    Attributes:
        counts: what was counted [devices][MoE layers][COUNTS].
        loaded_bytes: bytes asked for on demand, and by prefetches.
        wasted_bytes: of the latter, those of experts that their layer did not need.
        spans: copies that arrived while ``watched``.
        wanted: prefetches of each device that have not begun, most urgent first: layer, expert, precision.
        foreseen: slots of each device that a predictor wants to stay, by cache.
    """

    def __init__(
        self,
        loader: Loader,
        residency: Sequence[Residency],
        sizes: Floats,
        low_size: float,
        staging: int,
    ) -> None:
        self.loader, self.residency = loader, residency
        self.staging = staging
        layers = len(sizes)
        self.sizes = [sizes.tolist(), (sizes * low_size).tolist()]
        self.counts = [[[0] * len(COUNTS) for _ in range(layers)] for _ in residency]
        self.loaded_bytes = [0.0, 0.0]
        self.wasted_bytes = 0.0
        self.spans: list[CopySpan] = []
        self.watched = False
        self.flights: dict[int, Flight] = {}
        self.stale: set[int] = set()
        self.in_air = [0] * len(residency)
        self.passing = [0] * len(residency)
        self.wanted: list[deque[tuple[int, int, int]]] = [deque() for _ in residency]
        self.pinned: list[list[set[int]]] = [[set(), set()] for _ in residency]
        self.foreseen: list[dict[int, set[int]]] = [{} for _ in residency]
        self.pinned_cache = [-1] * len(residency)

    def pin(self, device: int, layer: int, high: Iterable[int], low: Iterable[int] = ()) -> None:
        """Keep the experts that a layer needs, in each precision, until the next one's router answers.

        A copy in the other precision may leave: nobody waits for it to be computed.
        """
        residency = self.residency[device]
        first = residency.firsts[layer]
        if first:
            high, low = ([first + expert for expert in part] for part in (high, low))
        self.pinned[device] = [set(high), set(low)]
        self.pinned_cache[device] = residency.caches[layer]

    def unpin(self, device: int, slot: int) -> None:
        """Let an expert go that has been computed, or is elsewhere."""
        for pinned in self.pinned[device]:
            pinned.discard(slot)

    def ask(self, device: int, layer: int, expert: int, precision: int, now: float) -> int | None:
        """Load an expert on demand; returns the copy's number, or None where nothing can leave yet."""
        residency = self.residency[device]
        if residency.fixed:
            if self.passing[device] >= self.staging:
                return None
            self.passing[device] += 1
        elif not residency.has_room(layer, precision):
            pinned = self.pinned[device][precision]
            able = residency.make_room(layer, precision, pinned | self._coming_up(device, layer, precision))
            if not (able or residency.make_room(layer, precision, pinned)):
                return None
        return self._begin(Flight(device, layer, expert, precision, False, not residency.fixed, now))

    def _coming_up(self, device: int, layer: int, precision: int) -> set[int]:
        """Return what stands in the cache of a layer because it is foreseen to be needed."""
        residency = self.residency[device]
        cache = residency.caches[layer]
        fresh = residency.stores[precision].fresh[cache]
        there = self.foreseen[device].get(cache)
        return fresh | there if there else fresh

    def left(self, device: int) -> None:
        """Free the buffer of an expert that did not stay, after it has been computed."""
        self.passing[device] -= 1

    def feed(self, device: int, now: float) -> None:
        """Begin the next prefetch of a device whose link has nothing else to do."""
        wanted = self.wanted[device]
        residency = self.residency[device]
        while wanted and not self.in_air[device]:
            layer, expert, precision = wanted.popleft()
            if expert in residency.present[layer]:
                continue
            if not residency.has_room(layer, precision):
                keep = self._coming_up(device, layer, precision)
                if self.pinned_cache[device] == residency.caches[layer]:
                    keep = keep | self.pinned[device][precision]
                if not residency.make_room(layer, precision, keep):
                    continue
            self.counts[device][layer][PREFETCHES] += 1
            self._begin(Flight(device, layer, expert, precision, True, True, now))

    def _begin(self, flight: Flight) -> int:
        size = self.sizes[flight.precision][flight.layer][flight.expert]
        level = PREFETCH if flight.prefetched else DEMAND
        number = self.loader.submit(flight.device, size, flight.asked, level)
        self.flights[number] = flight
        self.in_air[flight.device] += 1
        self.loaded_bytes[flight.prefetched] += size
        if flight.stays:
            residency = self.residency[flight.device]
            residency.reserve(flight.layer, flight.expert, flight.precision, number)
        return number

    def arrived(self, copied: Copied) -> Flight:
        """Take in a copy that has arrived."""
        flight = self.flights.pop(copied.copy)
        self.in_air[flight.device] -= 1
        if flight.stays:
            settled = copied.copy in self.stale
            self.stale.discard(copied.copy)
            residency = self.residency[flight.device]
            fresh = flight.prefetched and not settled
            residency.land(flight.layer, flight.expert, flight.precision, fresh)
        if self.watched:
            self.spans.append(
                CopySpan(
                    flight.device,
                    flight.layer,
                    flight.expert,
                    flight.prefetched,
                    copied.begin,
                    copied.finish,
                )
            )
        return flight

    def settle(self, device: int, layer: int, needed: set[int]) -> None:
        """Judge the prefetches of a layer whose router has answered: used, or wasted."""
        residency = self.residency[device]
        cache = residency.caches[layer]
        counts = self.counts[device][layer]
        experts = residency.frame.experts
        first = residency.firsts[layer]
        for precision, store in enumerate(residency.stores):
            fresh, coming = store.fresh[cache], store.coming[cache]
            if fresh:
                mine = [slot for slot in fresh if first <= slot < first + experts]
                for slot in mine:
                    fresh.discard(slot)
                    counts[IN_TIME] += slot - first in needed
                    self._judge(counts, precision, layer, slot - first, slot - first in needed)
            for slot, number in coming.items():
                if first <= slot < first + experts and self.flights[number].prefetched:
                    if number in self.stale:
                        continue
                    self.stale.add(number)
                    self._judge(counts, precision, layer, slot - first, slot - first in needed)
        if residency.gone:
            gone, residency.gone = residency.gone, []
            for precision, slot in gone:
                where, expert = divmod(slot, experts)
                self._judge(self.counts[device][where], precision, where, expert, used=False)

    def _judge(self, counts: list[int], precision: int, layer: int, expert: int, used: bool) -> None:
        if used:
            counts[USED] += 1
        else:
            counts[WASTED] += 1
            self.wasted_bytes += self.sizes[precision][layer][expert]

    def run_to(self, now: float) -> None:
        """Let copies go on until ``now``, prefetches one behind the other."""
        loader = self.loader
        if not self.flights:
            loader.advance(now)
            return
        while (event := loader.next_event()) <= now:
            for copied in loader.advance(event):
                flight = self.arrived(copied)
                self.feed(flight.device, event)
        loader.advance(now)
