"""Fluid sharing over time: flows come, share links max-min fairly, and go."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from moesim.hardware.max_min import TIE, FloatArray, Flow, FlowTable

_ULPS = 8


class LiveFluid:
    """Active flows on a network, moved forward by whoever owns the clock.

    It knows nothing of an event engine: after every ``add``, ``remove`` and ``advance`` ask
    ``next_completion`` when to call ``advance`` again. Rates are worked out only when needed, so flows
    added at the same moment cost one calculation.

    Attributes:
        now: time up to which flows have moved (s).
        carried: bytes that each link has carried so far [links].
        refills: how often rates were calculated (an exact measure of cost).
    """

    def __init__(self, bandwidth: FloatArray, now: float = 0.0) -> None:
        """Start with no flows on links of the given bandwidths [links] (bytes/s)."""
        self.now = now
        self.carried = np.zeros(bandwidth.size)
        self.refills = 0
        self._bandwidth = np.asarray(bandwidth, dtype=np.float64)
        self._table = FlowTable.stacked([])
        self._fresh: list[FlowTable] = []
        self._known: FloatArray | None = None
        self._next_id = 0

    def __len__(self) -> int:
        """Return the number of active flows."""
        return int(self._table.ids.size) + len(self._fresh)

    def add(self, flow: Flow, now: float) -> int:
        """Start a flow at ``now`` (its own ``start_s`` is not looked at) and return its id.

        Flows that complete before ``now`` must have been collected by ``advance(now)`` already.

        Raises:
            InputError: a flow with impossible amounts or on a link that does not exist.
        """
        self._reach(now)
        number = self._next_id
        self._fresh.append(FlowTable.of(number, flow, self._bandwidth))
        self._next_id += 1
        return number

    def remove(self, number: int, now: float) -> float:
        """Stop a flow at ``now`` and return the fraction of it that was not moved."""
        self._reach(now)
        table = self._settled()
        at = self._position(number)
        fraction = float(table.left[at] / table.size[at]) if table.size[at] > 0 else 0.0
        self._keep(table.ids != number)
        return fraction

    def next_completion(self) -> tuple[float, int] | None:
        """Return when the next flow completes if nothing else happens, and its id; None without flows."""
        if not len(self):
            return None
        waits = self._settled().left / self._rates()
        first = int(np.argmin(waits))
        return self.now + float(waits[first]), int(self._table.ids[first])

    def advance(self, now: float) -> list[tuple[float, int]]:
        """Move to ``now`` and return the (time, id) of every flow that completes until then, in order."""
        done: list[tuple[float, int]] = []
        # A clock that adds up delays may stand a rounding error before the completion it waits for.
        horizon = now + _ULPS * math.ulp(now)
        while len(self):
            waits = self._settled().left / self._rates()
            wait = float(waits.min())
            if self.now + wait > horizon:
                break
            self._move(wait)
            self.now = min(self.now + wait, now)
            ready = waits <= wait * (1 + TIE)
            done.extend((self.now, int(number)) for number in self._table.ids[ready])
            self._keep(~ready)
        self._reach(now)
        return done

    def rate(self, number: int) -> float:
        """Return a flow's rate now, bytes/s on its bottleneck."""
        self._settled()
        return float(self._rates()[self._position(number)])

    def load(self) -> FloatArray:
        """Return what each link carries now [links] (bytes/s)."""
        table = self._settled()
        speed = table.weight * self._rates()[table.flow]
        return np.bincount(table.link, speed, minlength=self._bandwidth.size).astype(np.float64)

    def _reach(self, now: float) -> None:
        """Let flows move until ``now``, none of which may complete before it."""
        if now < self.now - _ULPS * math.ulp(self.now):
            message = f"time cannot go back from {self.now!r} to {now!r}"
            raise ValueError(message)
        if now > self.now:
            if len(self):
                self._move(now - self.now)
            self.now = now

    def _move(self, seconds: float) -> None:
        if seconds <= 0:
            return
        table = self._settled()
        self.carried += self.load() * seconds
        np.maximum(table.left - self._rates() * seconds, 0.0, out=table.left)

    def _settled(self) -> FlowTable:
        """Take new flows into the table."""
        if self._fresh:
            self._table = FlowTable.stacked([self._table, *self._fresh])
            self._fresh, self._known = [], None
        return self._table

    def _rates(self) -> FloatArray:
        if self._known is None:
            self._known = self._table.rates(self._bandwidth)
            self.refills += 1
        return self._known

    def _position(self, number: int) -> int:
        found = np.flatnonzero(self._table.ids == number)
        if not found.size:
            message = f"there is no active flow {number}"
            raise KeyError(message)
        return int(found[0])

    def _keep(self, keep: npt.NDArray[np.bool_]) -> None:
        self._table, self._known = self._table.kept(keep), None
