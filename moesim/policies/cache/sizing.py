"""How many experts each layer's cache holds, when layers need not have the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.policies.cache.base import Floats, Ints
from moesim.routing.locality import Accesses, stack_distances


def lru_miss_curves(ids: npt.NDArray[np.integer[Any]], experts: int) -> Ints:
    """Return the misses of an LRU cache of every size, int64 [layers, experts + 1], from stack distances.

    First uses miss, whatever the size.

    Args:
        ids: expert ids, [tokens, layers, k].
        experts: routed experts per layer.

    Raises:
        InputError: no tokens, or ids that are none.
    """
    tokens, layers, k = ids.shape
    distances = stack_distances(Accesses.of(ids, experts=experts), "lru").astype(np.int64)
    rows = np.arange(layers)[:, np.newaxis]
    keys = (ids + rows * experts).reshape(-1)
    distances.reshape(-1)[np.unique(keys, return_index=True)[1]] = experts + 1
    width = experts + 2
    counted = np.bincount((distances + rows * width).reshape(-1), minlength=layers * width)
    hits: Ints = counted.reshape(layers, width)[:, : experts + 1].cumsum(axis=1)
    misses: Ints = tokens * k - hits
    return misses


def sizes_by_misses(curves: npt.NDArray[Any], total: int, least: int = 0) -> Ints:
    """Return the sizes that sum to at most ``total`` with the fewest misses, by dynamic programming.

    The recurrence is AdapMoE's (arXiv 2408.10284): f(l, c) = min over s of f(l - 1, c - s) + misses(l, s).

    Args:
        curves: misses by size, [layers, sizes from 0].
        total: experts that all caches hold together.
        least: experts that each holds at least.

    Raises:
        ValueError: ``total`` does not give every layer the least.
    """
    layers, sizes = curves.shape
    if total < layers * least or least >= sizes:
        message = f"{total} experts do not give {layers} layers {least} each"
        raise ValueError(message)
    best: Floats = np.zeros(total + 1)
    choices = np.zeros((layers, total + 1), dtype=np.int64)
    for layer in range(layers):
        options = np.full((sizes, total + 1), np.inf)
        for size in range(least, min(sizes, total + 1)):
            options[size, size:] = best[: total + 1 - size] + curves[layer, size]
        choices[layer] = options.argmin(axis=0)
        best = options.min(axis=0)
    found = np.zeros(layers, dtype=np.int64)
    left = total
    for layer in range(layers - 1, -1, -1):
        found[layer] = choices[layer, left]
        left -= int(found[layer])
    return found


def sizes_by_demand(demand: npt.NDArray[Any], total: int, least: int, most: int, order: str) -> Ints:
    """Return sizes by predicted demand: filled from the first layer on, or in proportion.

    Args:
        demand: distinct experts that each layer is predicted to need, [layers].
        total: experts that all caches hold together; at least ``least`` per layer.
        least: experts that each holds at least.
        most: experts that each holds at most.
        order: ``"depth"`` or ``"proportional"``.
    """
    wanted = np.clip(np.asarray(demand, dtype=np.float64), least, most)
    sizes = np.full(len(wanted), least, dtype=np.int64)
    if order == "depth":
        for layer, need in enumerate(np.ceil(wanted).astype(np.int64)):
            sizes[layer] += min(int(need) - least, total - int(sizes.sum()))
    while sizes.sum() < total and (sizes < most).any():
        gap = np.where(sizes < most, wanted / (sizes + 0.5), -np.inf)
        sizes[int(np.argmax(gap))] += 1
    return sizes
