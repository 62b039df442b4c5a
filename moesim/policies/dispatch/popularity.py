"""Devices for experts by popularity, after Lina (ATC 2023): many for popular ones, cold ones packed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def quotas(popularity: IntArray, devices: int) -> IntArray:
    """Return devices per expert, int64 [..., experts]: its share of them, rounded, and at least one.

    Args:
        popularity: copies per expert, int64 [..., experts].
        devices: number of devices.
    """
    total = np.maximum(popularity.sum(axis=-1, keepdims=True), 1)
    return np.asarray(np.clip((2 * popularity * devices + total) // (2 * total), 1, devices), dtype=np.int64)


def schedule_experts(
    popularity: Sequence[int],
    quota: Sequence[int],
    holders: Sequence[Sequence[int]],
    devices: int,
    capacity: float,
    room: int,
) -> dict[int, list[int]]:
    """Choose the devices of the experts of one layer.

    Cold experts begin at home. Popular ones, the most popular first, get their quota of devices: those that
    hold them, then the least loaded. Then cold experts leave devices above capacity, the most popular first,
    for the least loaded device if that stays below what they leave.

    Args:
        popularity: predicted copies per expert.
        quota: devices per expert.
        holders: devices that hold each expert, its home first.
        devices: number of devices.
        capacity: copies that a device should not exceed.
        room: experts that a device can be sent.

    Returns:
        Devices of each expert that does not just stand at home.
    """
    experts = range(len(popularity))
    loads, received = [0.0] * devices, [0] * devices
    cold: list[list[int]] = [[] for _ in range(devices)]
    hot = []
    for expert in experts:
        if quota[expert] > 1:
            hot.append(expert)
        elif popularity[expert]:
            loads[holders[expert][0]] += popularity[expert]
            cold[holders[expert][0]].append(expert)
    chosen: dict[int, list[int]] = {}
    for expert in sorted(hot, key=lambda e: -popularity[e]):
        mine = list(holders[expert][: quota[expert]])
        others = [d for d in range(devices) if d not in holders[expert] and received[d] < room]
        others.sort(key=lambda d: (loads[d], d))
        sent = others[: quota[expert] - len(mine)]
        for device in sent:
            received[device] += 1
        mine += sent
        for device in mine:
            loads[device] += popularity[expert] / len(mine)
        chosen[expert] = mine
    for device in sorted(range(devices), key=lambda d: (-loads[d], d)):
        for expert in sorted(cold[device], key=lambda e: -popularity[e]):
            if loads[device] <= capacity:
                break
            able = [d for d in range(devices) if received[d] < room or d in holders[expert]]
            target = min(able, key=lambda d: (loads[d], d), default=device)
            if loads[target] + popularity[expert] < loads[device]:
                loads[device] -= popularity[expert]
                loads[target] += popularity[expert]
                received[target] += target not in holders[expert]
                chosen[expert] = [target]
    return chosen
