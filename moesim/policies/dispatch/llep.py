"""LLEP: overloaded devices hand token slices, and the weights they need, to less loaded ones.

Least-loaded expert parallelism (arXiv 2601.17111), with the behaviour of its reference implementation
(SalesforceAIResearch/LeastLoadedEP, commit 0349746) where the two differ. Copies of an expert are numbered
source after source; a slice is a range of these numbers given to one device.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

Slice = tuple[int, int, int]
Transfer = tuple[int, int, int, int, int]

_FAR_ABOVE = sys.maxsize


@dataclass(frozen=True)
class LlepAssignment:
    """The plan of one layer.

    Attributes:
        slices: for each expert with copies, in the order in which experts were visited, its
            (device, start, end).
        transfers: (expert, home, helper, start, end) of each slice computed away from home; the same
            expert and helper can occur twice.
        loads: copies per device.
        capacity: copies that a device should not exceed.
    """

    slices: dict[int, list[Slice]]
    transfers: list[Transfer]
    loads: list[int]
    capacity: int


def capacity_of(total: int, devices: int, alpha: float) -> int:
    """Copies that a device should not exceed: alpha times an even share, at least 1."""
    share = total // devices
    return max(1, int(alpha * share) if share else total)


def spill(
    counts: Sequence[int],
    homes: Sequence[int],
    order: Sequence[int],
    loads: list[int],
    capacity: int,
    m: int,
    *,
    forced: bool = True,
    room: int = _FAR_ABOVE,
) -> dict[int, list[Slice]]:
    """Hand over the copies of experts whose home is above capacity.

    Experts that keep to their home change no load, so only the others are touched; within a ranking by
    load the free room falls and so does the chunk, hence a refused first device means that all are.

    Args:
        counts: copies per expert.
        homes: home device of each expert.
        order: experts by falling count, equal ones by index.
        loads: native copies per device; changed in place to the planned copies.
        capacity: copies that a device should not exceed.
        m: smallest chunk worth a GEMM, unless it finishes the expert.
        forced: LLEP's way: what no device accepts goes to the first of the ranking. Otherwise it stays at
            home, and so does what is smaller than ``m``.
        room: foreign experts that a device can take.

    Returns:
        Slices of each expert that does not stay at home, the one kept at home first.
    """
    foreign = [0] * len(loads)
    moved: dict[int, list[Slice]] = {}
    devices = len(loads)
    if devices == 1:
        return moved
    # Devices by load, then index. Entries are not removed when a load changes: a new one is added, and
    # one that no longer tells the load is skipped.
    ranking = [load * devices + device for device, load in enumerate(loads)]
    heapify(ranking)
    for expert in order:
        home = homes[expert]
        if loads[home] <= capacity:
            continue
        count = counts[expert]
        if not count:
            break
        others = loads[home] - count
        kept = max(0, capacity - others)
        slices: list[Slice] = [(home, 0, kept)] if kept else []
        start, first, touched = kept, -1, [home]
        while start < count:
            load, best = _least_loaded(ranking, loads, home)
            if load < capacity and foreign[best] >= room:
                touched.append(best)
                continue
            first = best if first < 0 else first
            chunk = min(count - start, capacity - load)
            if chunk <= 0 or (chunk < m and (start + chunk < count or not forced)):
                touched.append(best)
                if not forced:
                    break
                # No device is acceptable, so the rest goes to the first of the ranking, full or not.
                helper, end = (best if kept else first), count
            else:
                helper, end = best, start + chunk
            slices.append((helper, start, end))
            loads[helper] += end - start
            foreign[helper] += 1
            start = end
            if kept:
                heappush(ranking, loads[helper] * devices + helper)
            else:
                # With nothing kept, the reference walks down a ranking made once for this expert.
                touched.append(helper)
        stays = count - start
        loads[home] = others + kept + stays
        for device in touched:
            heappush(ranking, loads[device] * devices + device)
        if start > kept:
            moved[expert] = _lowest_at_home(slices, kept, stays, home) if stays else slices
    return moved


def _lowest_at_home(slices: list[Slice], kept: int, stays: int, home: int) -> list[Slice]:
    """Number the copies anew, so that what stays at home besides ``kept`` comes right after these."""
    helped = slices[1:] if kept else slices
    return [(home, 0, kept + stays), *((device, a + stays, b + stays) for device, a, b in helped)]


def _least_loaded(ranking: list[int], loads: list[int], home: int) -> tuple[int, int]:
    """Take the least loaded device but the home from the ranking; a full one if none is left."""
    devices = len(loads)
    while ranking:
        load, device = divmod(heappop(ranking), devices)
        if device != home and loads[device] == load:
            return load, device
    return _FAR_ABOVE, home


def assign(
    counts: Sequence[int],
    devices: int,
    experts_per_device: int,
    alpha: float = 1.0,
    m: int = 1024,
    homes: Sequence[int] | None = None,
) -> LlepAssignment:
    """Plan one layer.

    Args:
        counts: copies per expert.
        devices: number of devices.
        experts_per_device: experts of one device; expert e lives on device ``e // experts_per_device``.
        alpha: capacity of a device in even shares.
        m: smallest chunk worth a GEMM.
        homes: home device per expert, if experts do not live in blocks.

    Returns:
        Slices in the order in which experts are visited, transfers and loads.
    """
    numbers = [int(count) for count in counts]
    if homes is None:
        homes = [expert // experts_per_device for expert in range(len(numbers))]
    order = sorted(range(len(numbers)), key=numbers.__getitem__, reverse=True)
    loads = [0] * devices
    for expert, count in enumerate(numbers):
        loads[homes[expert]] += count
    capacity = capacity_of(sum(numbers), devices, alpha)
    moved = spill(numbers, homes, order, loads, capacity, m)
    slices = {
        expert: moved.get(expert) or [(homes[expert], 0, numbers[expert])]
        for expert in order
        if numbers[expert]
    }
    transfers = [
        (expert, homes[expert], device, start, end)
        for expert, parts in slices.items()
        for device, start, end in parts
        if device != homes[expert]
    ]
    return LlepAssignment(slices, transfers, loads, capacity)
