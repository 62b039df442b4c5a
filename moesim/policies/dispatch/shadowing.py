"""How many experts to shadow, by the performance model of FasterMoE (PPoPP 2022).

The behaviour is that of the prototype's policy (thu-pacman/FasterMoE de4d5ac, dynamic shadowing), which knows
one expert per device; here a device may have several.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ShadowCosts:
    """Constants of the performance model.

    Attributes:
        copy_s: computing one token copy (s).
        exchange_s: sending one token copy, all ways together (s).
        shadow_s: giving one expert to all devices (s).
    """

    copy_s: float
    exchange_s: float
    shadow_s: float


def shadow_order(counts: IntArray | FloatArray) -> IntArray:
    """Return experts by falling copies, equal ones by index, int64 [layers, experts].

    Args:
        counts: copies [layers, devices, experts].
    """
    return np.argsort(-counts.sum(axis=1), axis=1, kind="stable")


def shadow_counts(
    counts: IntArray | FloatArray, homes: IntArray, costs: ShadowCosts, most: int | None = None
) -> IntArray:
    """Decide how many of the experts with the most copies every layer shadows.

    Without shadows, a layer takes as long as the device with most copies computes and exchanges them. With
    ``k`` shadows it takes as long as the device computes that has most copies left, those of its own experts
    and its own tokens' for shadows, and ``k`` broadcasts. Shadows are added until that rises; they are kept
    if it is less than without. As in the prototype, a device whose last expert gets a shadow forgets what it
    computes for earlier shadows, and if the time never rises the last expert has none.

    Args:
        counts: copies from each device to each expert, [layers, devices, experts].
        homes: device of each expert, int64 [layers, experts].
        costs: constants.
        most: shadows that memory has room for.

    Returns:
        int64 [layers].
    """
    layers, devices, experts = counts.shape
    rows = np.arange(layers)
    load, order = counts.sum(axis=1), shadow_order(counts)
    own = np.zeros((layers, devices), dtype=counts.dtype)
    np.add.at(own, (rows[:, np.newaxis], homes), load)
    unshadowed = np.zeros((layers, devices), dtype=np.int64)
    np.add.at(unshadowed, (rows[:, np.newaxis], homes), 1)
    without = own.max(axis=1) * (costs.copy_s + costs.exchange_s)
    borrowed = np.zeros_like(own)
    best = np.full(layers, np.inf)
    limit = experts if most is None else min(experts, most)
    found = np.full(layers, limit - 1 if limit == experts else limit, dtype=np.int64)
    open_ = np.ones(layers, dtype=bool)
    for k in range(limit):
        expert = order[:, k]
        home = homes[rows, expert]
        own[rows, home] -= load[rows, expert]
        unshadowed[rows, home] -= 1
        borrowed[rows, home] = np.where(unshadowed[rows, home] == 0, 0, borrowed[rows, home])
        np.add(borrowed, counts[rows, :, expert], out=borrowed)
        seconds = (own + borrowed).max(axis=1) * costs.copy_s + (k + 1) * costs.shadow_s
        rises = open_ & (seconds > best)
        found[rises] = k
        open_ &= ~rises
        best = np.where(open_, np.minimum(best, seconds), best)
        if not open_.any():
            break
    return np.where(without > best, found, 0)
