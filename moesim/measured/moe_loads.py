"""Rows per expert behind a measured MoE timing, reproduced from how its authors drew them.

``balanced`` deals pairs out in turn. ``power_law_a`` draws every expert's share from a bounded power law
with exponent ``a`` (from 1 to 0.8 x tokens, or from 0.01 to 2 when there are no more pairs than experts),
scales shares to the pairs there are, caps them at the tokens, and gives the device under test the group
of experts with most pairs: such a timing is that of the straggler. A timing is the mean of five draws
that nobody published, so counts are averaged over many draws of our own.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from moesim.hardware.grouped_kernels import BLOCKS, GroupCounts, GroupedKernel, block_height
from moesim.policies.placement.eplb import rebalance

Array = npt.NDArray[np.float64]

DRAWS: Final = 16
"""Draws averaged; a count's standard error is then about half of that of the published five."""

KEYS: Final = ("tokens", "top_k", "experts", "slots", "ep", "distribution")
"""Columns that fix a load."""


def draw(tokens: int, top_k: int, experts: int, exponent: float, draws: int, seed: int) -> Array:
    """Draw pairs per expert, [draws, experts], whole numbers that sum to ``tokens * top_k``."""
    pairs = tokens * top_k
    low, high = (0.01, 2.0) if pairs <= experts else (1.0, 0.8 * tokens)
    power = 1.0 - exponent
    uniform = np.random.default_rng(seed).random((draws, experts))
    share = ((high**power - low**power) * uniform + low**power) ** (1.0 / power)
    share *= pairs / share.sum(axis=1, keepdims=True)
    for _ in range(8):
        surplus = np.maximum(share - tokens, 0.0).sum(axis=1, keepdims=True)
        if not surplus.any():
            break
        share = np.minimum(share, tokens)
        room = np.where(share < tokens, share, 0.0)
        share = share + surplus * room / np.maximum(room.sum(axis=1, keepdims=True), 1e-9)
    return _whole(share, pairs)


def _whole(share: Array, pairs: int) -> Array:
    """Round rows to whole numbers that keep their sum, largest remainders up."""
    floor = np.floor(share + 1e-9)
    missing = np.round(pairs - floor.sum(axis=1)).astype(np.int64)
    rank = np.argsort(np.argsort(floor - share, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray(floor + (rank < missing[:, np.newaxis]), dtype=np.float64)


def dealt(tokens: int, top_k: int, experts: int) -> Array:
    """Return balanced pairs per expert, [1, experts]; a remainder is spread evenly over the experts."""
    pairs = tokens * top_k
    counts = np.full((1, experts), pairs // experts, dtype=np.float64)
    rest = pairs % experts
    counts[0, np.arange(rest) * experts // max(rest, 1)] += 1.0
    return counts


def _packed(counts: Array, slots: int, ep: int) -> Array:
    """Return pairs per slot after EPLB placed the experts by these very counts, [draws, slots]."""
    expert_of, _, copies = rebalance(counts, slots, 1, 1, ep)
    return np.take_along_axis(counts / copies, expert_of, axis=1)


@cache
def load_counts(
    tokens: int, top_k: int, experts: int, slots: int, ep: int, distribution: str
) -> tuple[float, ...]:
    """Return rows, active experts, blocks of each height here, then blocks of each height of the call.

    Args:
        tokens: tokens of the whole group.
        top_k: experts per token.
        experts: routed experts.
        slots: places for experts over the group.
        ep: devices of the group.
        distribution: ``balanced``, ``power_law_<a>``, with ``_eplb`` behind it if EPLB placed the experts.
    """
    here, whole = loads_here(tokens, top_k, experts, slots, ep, distribution)
    blocks = [float(np.ceil(here / height).sum(axis=1).mean()) for height in BLOCKS]
    every = [float(np.ceil(whole / height).sum(axis=1).mean()) for height in BLOCKS]
    return (float(here.sum(axis=1).mean()), float((here > 0).sum(axis=1).mean()), *blocks, *every)


def loads_here(
    tokens: int, top_k: int, experts: int, slots: int, ep: int, distribution: str
) -> tuple[Array, Array]:
    """Return pairs per slot of the device under test and of the whole group, [draws, slots]; see above."""
    name, _, placed = distribution.partition("_eplb")
    if name in ("balanced", "uniform"):
        whole = dealt(tokens, top_k, experts)
    else:
        seed = zlib.crc32(f"{tokens} {top_k} {experts} {name}".encode())
        whole = draw(tokens, top_k, experts, float(name.rpartition("_")[2]), DRAWS, seed)
    if distribution.endswith("_eplb"):
        whole = _packed(whole, slots, ep)
    groups = whole.reshape(len(whole), ep, -1)
    heaviest = groups.sum(axis=2).argmax(axis=1) if len(whole) > 1 or placed else np.zeros(1, dtype=int)
    return groups[np.arange(len(whole)), heaviest], whole


def group_counts(rows: pd.DataFrame, kernel: GroupedKernel) -> GroupCounts:
    """Return the expected counts of measured rows under a kernel's choice of blocks, arrays [rows]."""
    keys = [rows[name].tolist() for name in KEYS]
    table = np.array([load_counts(*key) for key in zip(*keys, strict=True)], dtype=np.float64)
    tokens = rows["tokens"].to_numpy(dtype=np.float64)
    experts = rows["slots"].to_numpy(dtype=np.float64) / rows["ep"].to_numpy(dtype=np.float64)
    computed, active = table[:, 0], table[:, 1]
    pairs = tokens * rows["top_k"].to_numpy(dtype=np.float64)
    height = block_height(kernel, tokens, experts, computed, active, pairs)
    chosen = np.searchsorted(np.array(BLOCKS, dtype=np.float64), height)
    place = np.arange(len(table))
    return GroupCounts(
        rows=computed,
        active=active,
        blocks=table[place, 2 + chosen],
        height=height,
        pairs=pairs,
        all_blocks=table[place, 2 + len(BLOCKS) + chosen],
        tokens=tokens,
        experts=experts,
    )
