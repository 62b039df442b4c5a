"""Copies of experts on their way to devices: one clock for all links of a cluster."""

from __future__ import annotations

import itertools
import math
from typing import Final

import numpy as np

from moesim.errors import InputError
from moesim.hardware.cluster import Cluster
from moesim.hardware.copies import Stage, copy_seconds
from moesim.hardware.copy_clock import Copied
from moesim.hardware.copy_engines import CopyEngines
from moesim.hardware.copy_paths import CopyPaths
from moesim.hardware.copy_queue import CopyQueue
from moesim.hardware.max_min import FloatArray

DEMAND: Final = 1
PREFETCH: Final = 0
"""Urgency of copies: a demand goes before every prefetch."""


class Loader:
    """The links of every node, with the copies under way.

    A node whose only device loads over a single link keeps a queue; others share links in a fluid.

    Args:
        cluster: where the devices are.
        source: ``host`` or ``storage``.
        pinned: whether host memory is page-locked.
        chunk: bytes between which a more urgent copy may go first.

    Attributes:
        now: time up to which everything has happened (s).
        begun: copies that have been asked for.

    Raises:
        InputError: the cluster lacks a host or a drive, or experts in unified memory need no link.
    """

    def __init__(self, cluster: Cluster, source: str, pinned: bool, chunk: float) -> None:
        self.now = 0.0
        self.begun = 0
        self._local: list[tuple[int, tuple[int, ...]]] = []
        self._clocks: list[CopyQueue | CopyEngines] = []
        self._paths: list[CopyPaths] = []
        self._stages: list[tuple[Stage, ...]] = []
        self._numbers = itertools.count()
        self._mine: dict[tuple[int, int], int] = {}
        self._theirs: dict[int, tuple[int, int]] = {}
        node_of = cluster.node_of.tolist()
        for node in range(node_of[-1] + 1):
            paths = CopyPaths(cluster, node)
            devices = node_of.count(node)
            routes = [paths.route(source, device, pinned) for device in range(devices)]
            if not routes[0]:
                message = (
                    f"on cluster '{cluster.name}' experts in host memory are in device memory: it is unified"
                )
                raise InputError(message, hint="set offload.store: storage")
            single = devices == 1 and len(routes[0]) == 1
            self._local += [(node, route) for route in routes]
            self._stages += [paths.stages(source, device, pinned) for device in range(devices)]
            self._paths.append(paths)
            if single:
                self._clocks.append(CopyQueue(self._stages[-1][0], chunk))
            else:
                self._clocks.append(paths.start(chunk))
        self._chunk = chunk

    def alone(self, device: int, size: float) -> float:
        """Return what a copy to a device takes when nothing else is under way (s)."""
        return float(copy_seconds(size, self._stages[device], self._chunk))

    def submit(self, device: int, size: float, now: float, level: int) -> int:
        """Ask for a copy at ``now`` and return its number."""
        node, route = self._local[device]
        clock = self._clocks[node]
        self.begun += 1
        number = next(self._numbers)
        if isinstance(clock, CopyQueue):
            clock.submit(number, size, now, level)
            return number
        theirs = (node, clock.submit(route, size, now, level))
        self._mine[theirs], self._theirs[number] = number, theirs
        return number

    def hurry(self, device: int, number: int) -> None:
        """Make a prefetch under way as urgent as a demand."""
        node, _ = self._local[device]
        inner = self._theirs.get(number, (node, number))[1]
        self._clocks[node].hurry(inner, DEMAND)

    def next_event(self) -> float:
        """Return when ``advance`` is due next (s); infinite when nothing is under way."""
        if len(self._clocks) == 1:
            event = self._clocks[0].next_event()
            return math.inf if event is None else event
        events = [clock.next_event() for clock in self._clocks]
        return min((event for event in events if event is not None), default=math.inf)

    def advance(self, now: float) -> list[Copied]:
        """Go on to ``now`` (s) and return what has arrived, in order."""
        self.now = now
        if len(self._clocks) == 1 and isinstance(self._clocks[0], CopyQueue):
            return self._clocks[0].advance(now)
        done: list[Copied] = []
        for node, clock in enumerate(self._clocks):
            for copied in clock.advance(now):
                number = copied.copy
                if (node, number) in self._mine:
                    number = self._mine.pop((node, number))
                    del self._theirs[number]
                done.append(Copied(number, copied.begin, copied.finish))
        return sorted(done, key=lambda copied: copied.finish)

    def carried(self) -> list[tuple[str, float, float]]:
        """Return links with the bytes that they carried and their bandwidths (B/s): name, bytes, rate."""
        found: list[tuple[str, float, float]] = []
        for node, (clock, paths) in enumerate(zip(self._clocks, self._paths, strict=True)):
            if isinstance(clock, CopyQueue):
                engine = paths.engines[self._local[node][1][0]]
                amounts: FloatArray = np.zeros(len(paths.names))
                for link, weight in engine.links.items():
                    amounts[link] = weight * clock.moved
            else:
                amounts = clock.carried
            prefix = f"node{node} " if len(self._clocks) > 1 else ""
            found += [
                (prefix + name, float(amount), float(rate))
                for name, amount, rate in zip(paths.names, amounts, paths.bandwidth, strict=True)
            ]
        return found
