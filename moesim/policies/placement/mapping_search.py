"""Mappings of clusters to devices where not all can be looked at: a local search, and a bound."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

MOST_SWEEPS: Final = 20


def costs_of(device_of: IntArray, traffic: FloatArray, bandwidth: FloatArray) -> FloatArray:
    """Return the worst traffic / bandwidth of each boundary, [layers - 1].

    Args:
        device_of: device of each cluster, int64 [layers, clusters].
        traffic: from clusters to clusters of the next layer, [layers - 1, clusters, clusters].
        bandwidth: rate between devices, [devices, devices].
    """
    slowness = _slowness(bandwidth)
    return np.asarray(
        [
            (amounts * slowness[np.ix_(device_of[at], device_of[at + 1])]).max()
            for at, amounts in enumerate(traffic)
        ]
    )


def _slowness(bandwidth: FloatArray) -> FloatArray:
    slowness = 1.0 / np.asarray(bandwidth, dtype=np.float64)
    np.fill_diagonal(slowness, 0.0)
    return slowness


def bound_of(traffic: FloatArray, bandwidth: FloatArray, node_of: IntArray | None) -> FloatArray:
    """Return what each boundary costs at least, [layers - 1].

    Clusters of two layers that stay together have a device, or at least a node, in common, which takes
    only so many of each layer. Going down the amounts, the first that would keep more together than fit
    shows that it or a larger one has to be sent.
    """
    rates = bandwidth[~np.eye(len(bandwidth), dtype=bool)]
    room = int(np.bincount(node_of).max()) if node_of is not None else len(bandwidth)
    return np.asarray(
        [
            max(_sent(amounts, 1) / float(rates.max()), _sent(amounts, room) / float(rates.min()))
            for amounts in traffic
        ]
    )


def _sent(amounts: FloatArray, room: int) -> float:
    """Return an amount that cannot stay where only ``room`` clusters of each layer fit together."""
    count = len(amounts)
    joined = np.arange(2 * count)
    held = np.repeat(np.eye(2, dtype=np.int64), count, axis=0)
    for entry in np.argsort(-amounts.ravel(), kind="stable"):
        source, target = divmod(int(entry), count)
        one, other = int(joined[source]), int(joined[count + target])
        if one != other:
            held[one] += held[other]
            if int(held[one].max()) > room:
                return float(amounts[source, target])
            joined[joined == other] = one
    return 0.0


def search(
    traffic: FloatArray,
    bandwidth: FloatArray,
    node_of: IntArray | None,
    objective: str,
    seconds: float = np.inf,
) -> tuple[IntArray, bool]:
    """Swap devices of clusters that take part in the worst transfers, as long as that helps.

    Returns:
        Device of each cluster, int64 [layers, clusters], never worse than giving cluster i device i; and
        whether time ran out.
    """
    end = time.monotonic() + seconds
    plain = np.tile(np.arange(len(bandwidth), dtype=np.int64), (len(traffic) + 1, 1))
    nodes = node_of if node_of is not None else plain[0] * 0
    alike = nodes[:, np.newaxis] == nodes if node_of is not None else np.zeros(bandwidth.shape, dtype=bool)
    found: list[tuple[tuple[float, float], IntArray]] = []
    for start in (_chained(traffic, nodes), plain):
        improved = _Search(traffic, bandwidth, alike, objective, end).improved(start)
        found.append((_value(costs_of(improved, traffic, bandwidth), objective), improved))
    return min(found, key=lambda one: one[0])[1], time.monotonic() > end


def _value(costs: FloatArray, objective: str) -> tuple[float, float]:
    total, worst = float(costs.sum()), float(costs.max())
    return (total, worst) if objective == "sum" else (worst, total)


def _chained(traffic: FloatArray, node_of: IntArray) -> IntArray:
    """Let the largest amounts stay on their device, else in their node, layer after layer."""
    count = len(node_of)
    device_of = np.full((len(traffic) + 1, count), -1, dtype=np.int64)
    device_of[0] = np.arange(count)
    for at, amounts in enumerate(traffic):
        here, after = device_of[at], device_of[at + 1]
        free = np.ones(count, dtype=bool)
        order = np.argsort(-amounts.ravel(), kind="stable")
        for same_device in (True, False):
            for entry in order:
                source, target = divmod(int(entry), count)
                device = int(here[source])
                if after[target] >= 0:
                    continue
                if same_device:
                    if free[device]:
                        after[target], free[device] = device, False
                else:
                    room = np.flatnonzero(free & (node_of == node_of[device]))
                    if room.size:
                        after[target], free[room[0]] = room[0], False
        after[after < 0] = np.flatnonzero(free)
    return device_of


def _below(new: tuple[float, float], old: tuple[float, float]) -> bool:
    """Tell whether a value fell by more than rounding."""
    return new[0] < old[0] * (1 - 1e-9) or (new[0] <= old[0] and new[1] < old[1] * (1 - 1e-9))


@dataclass(frozen=True, eq=False)
class _Search:
    """A local search: what it is about, which devices can be exchanged freely, and when it ends."""

    traffic: FloatArray
    bandwidth: FloatArray
    alike: npt.NDArray[np.bool_]
    objective: str
    end: float

    def improved(self, start: IntArray) -> IntArray:
        """Return a mapping that no swap betters, or the best one when time ran out."""
        device_of = start.copy()
        costs = costs_of(device_of, self.traffic, self.bandwidth)
        for _ in range(MOST_SWEEPS):
            before = costs
            for at in range(len(self.traffic)):
                while time.monotonic() < self.end:
                    better = self._best_swap(device_of, costs, at)
                    if better is None:
                        break
                    device_of, costs = better
            if costs is before:
                break
        return device_of

    def _best_swap(
        self, device_of: IntArray, costs: FloatArray, at: int
    ) -> tuple[IntArray, FloatArray] | None:
        """Return the best swap of a cluster of the worst transfer of a boundary, with its costs."""
        slowness, count = _slowness(self.bandwidth), len(self.bandwidth)
        price = self.traffic[at] * slowness[np.ix_(device_of[at], device_of[at + 1])]
        worst = divmod(int(price.argmax()), count)
        best, choice = _value(costs, self.objective), None
        for side in (0, 1):
            layer, mine = at + side, int(device_of[at + side, worst[side]])
            for other in range(count):
                if other == mine:
                    continue
                # Swapping like devices in all that follows changes this boundary only.
                for rest in (False, True) if side and self.alike[mine, other] else (False,):
                    last = len(device_of) if rest else layer + 1
                    tried = _swapped(device_of[layer:last], mine, other)
                    found = costs.copy()
                    for boundary in (at,) if rest else (layer - 1, layer):
                        if 0 <= boundary < len(costs):
                            left = tried[0] if boundary == layer else device_of[boundary]
                            right = tried[0] if boundary == layer - 1 else device_of[boundary + 1]
                            pairs = self.traffic[boundary] * slowness[np.ix_(left, right)]
                            found[boundary] = pairs.max()
                    value = _value(found, self.objective)
                    if _below(value, best):
                        best, choice = value, (layer, last, tried, found)
        if choice is None:
            return None
        layer, last, tried, found = choice
        changed = device_of.copy()
        changed[layer:last] = tried
        return changed, found


def _swapped(part: IntArray, a: int, b: int) -> IntArray:
    swapped = part.copy()
    swapped[part == a], swapped[part == b] = b, a
    return swapped
