"""Flows that share links max-min fairly, as a fluid.

A flow is bytes on one or several links that all progress together: a transfer along a path has the
same bytes on each link of it, a collective (coflow) has its own amount per link. Its *size* is its
bytes on its bottleneck, the link it would take longest on if it were alone, and its *rate* the bytes/s
there; on any other link it runs at rate * bytes there / size. Rates are max-min fair: no flow can be
given more without taking from one that has no more than it. For transfers along paths this is textbook
max-min fairness, and for a coflow alone the time is bytes/bandwidth of its most loaded link.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

TIE = 1e-12
"""Relative difference below which two rates or two times count as equal."""


@dataclass(frozen=True, eq=False)
class Flow:
    """Something to move.

    Attributes:
        start_s: when it starts (s).
        amounts: bytes per link, as a mapping from link to bytes or an array over all links.
    """

    start_s: float
    amounts: Mapping[int, float] | FloatArray

    @classmethod
    def along(cls, path: Iterable[int], size: float, start_s: float = 0.0) -> Flow:
        """Make the transfer of ``size`` bytes along a path of links (an empty path takes no time)."""
        return cls(start_s, dict.fromkeys(path, float(size)))

    def columns(self) -> tuple[IntArray, FloatArray]:
        """Return the links with anything to move and the bytes on each.

        Raises:
            InputError: an amount is negative, NaN or infinite, or the start is not a finite time.
        """
        if isinstance(self.amounts, Mapping):
            links = np.fromiter(self.amounts.keys(), dtype=np.int64, count=len(self.amounts))
            amounts = np.fromiter(self.amounts.values(), dtype=np.float64, count=len(self.amounts))
        else:
            amounts = np.asarray(self.amounts, dtype=np.float64)
            links = np.arange(amounts.size)
        if not (np.isfinite(amounts).all() and (amounts >= 0).all() and np.isfinite(self.start_s)):
            message = "a flow needs a finite start and finite amounts that are not negative"
            raise InputError(message)
        used = np.flatnonzero(amounts)
        return links[used], amounts[used]


@dataclass(frozen=True, eq=False)
class FlowTable:
    """Active flows in columns; ``flow``, ``link`` and ``weight`` have one entry per (flow, link).

    Attributes:
        ids: id of each flow, rising, int64 [flows].
        size: bytes on the flow's bottleneck [flows].
        left: how many of these are still to move [flows].
        flow: position of the flow in ``ids``, rising, int64 [entries].
        link: a link it uses, int64 [entries].
        weight: bytes on that link per byte on the bottleneck [entries].
    """

    ids: IntArray
    size: FloatArray
    left: FloatArray
    flow: IntArray
    link: IntArray
    weight: FloatArray

    @classmethod
    def of(cls, number: int, flow: Flow, bandwidth: FloatArray) -> FlowTable:
        """Tabulate one flow under an id.

        Raises:
            InputError: a flow with impossible amounts or on a link that does not exist.
        """
        link, amounts = flow.columns()
        if link.size and not (link.min() >= 0 and link.max() < bandwidth.size):
            message = f"a flow uses a link outside 0..{bandwidth.size - 1}"
            raise InputError(message)
        size = amounts[[np.argmax(amounts / bandwidth[link])]] if link.size else np.zeros(1)
        return cls(np.array([number]), size, size.copy(), np.zeros_like(link), link, amounts / size)

    @classmethod
    def stacked(cls, tables: Sequence[FlowTable]) -> FlowTable:
        """Put tables of rising ids below each other."""
        if not tables:
            none = np.zeros(0, dtype=np.int64)
            return cls(none, np.zeros(0), np.zeros(0), none, none, np.zeros(0))
        offsets = np.cumsum([0, *(table.ids.size for table in tables[:-1])])
        return cls(
            ids=np.concatenate([table.ids for table in tables]),
            size=np.concatenate([table.size for table in tables]),
            left=np.concatenate([table.left for table in tables]),
            flow=np.concatenate([table.flow + offset for table, offset in zip(tables, offsets, strict=True)]),
            link=np.concatenate([table.link for table in tables]),
            weight=np.concatenate([table.weight for table in tables]),
        )

    def kept(self, keep: npt.NDArray[np.bool_]) -> FlowTable:
        """Keep only some flows, bool [flows]."""
        position, entry = np.cumsum(keep) - 1, keep[self.flow]
        return FlowTable(
            ids=self.ids[keep],
            size=self.size[keep],
            left=self.left[keep],
            flow=position[self.flow[entry]],
            link=self.link[entry],
            weight=self.weight[entry],
        )

    def rates(self, bandwidth: FloatArray) -> FloatArray:
        """Return max-min fair rates [flows] (bytes/s on the bottleneck; infinite if nothing is to move)."""
        return max_min_rates(bandwidth, self.flow, self.link, self.weight, self.ids.size)


def max_min_rates(
    bandwidth: FloatArray, flow: IntArray, link: IntArray, weight: FloatArray, flows: int
) -> FloatArray:
    """Fill links progressively.

    All rates rise together; when a link is full, its flows keep what they have. Links that no other
    link can fill before them do not depend on each other and are settled in the same round, so few
    rounds are needed. See Bertsekas and Gallager, Data Networks, section 6.5.

    Args:
        bandwidth: bytes/s [links].
        flow: flow of each entry, rising, int64 [entries].
        link: a link it uses, int64 [entries].
        weight: bytes on the link per byte of the flow [entries].
        flows: number of flows.

    Returns:
        Rates [flows] (bytes/s), infinite for a flow without entries.
    """
    rates = np.full(flows, np.inf)
    spare = bandwidth.astype(np.float64, copy=True)
    level = np.empty_like(spare)
    while flow.size:
        demand = np.bincount(link, weight, minlength=spare.size)
        level.fill(np.inf)
        np.divide(spare, demand, out=level, where=demand > 0)
        first = np.flatnonzero(np.diff(flow, prepend=-1))
        lowest = np.minimum.reduceat(level[link], first)
        limit = np.repeat(lowest, np.diff(np.append(first, flow.size)))
        # A link is full next among its neighbours if none of its flows is held back elsewhere.
        full = np.ones(spare.size, dtype=np.bool_)
        full[link[level[link] > limit * (1 + TIE)]] = False
        settled = np.logical_or.reduceat(full[link], first)
        rates[flow[first[settled]]] = lowest[settled]
        fixed = np.repeat(settled, np.diff(np.append(first, flow.size)))
        taken = np.bincount(link[fixed], weight[fixed] * limit[fixed], minlength=spare.size)
        spare = np.maximum(spare - taken, 0.0)
        flow, link, weight = flow[~fixed], link[~fixed], weight[~fixed]
    return rates
