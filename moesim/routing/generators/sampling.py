"""Counts of token copies per expert under top-k without replacement.

A token sends its k copies to k different experts, so T tokens give an expert at most T copies.

**Inclusion probabilities.** ``q_e`` is the chance that a token uses expert e: proportional to its
popularity, at most 1, with sum k. What the cap cuts off goes to the others in proportion.

**Systematic sampling** (Madow 1949). Lay the experts, in random order, side by side as intervals of
length ``q_e`` on [0, k). A token draws one number u in [0, 1) and takes the experts at u, u+1, .. u+k-1:
always k different ones, each with chance exactly ``q_e``. How many of T tokens fall on a side of each
boundary is multinomial: many tokens between few boundaries are one multinomial draw, so they cost no more
than one; fewer are drawn one by one and counted, which is faster then. Every count is exactly
Binomial(T, q_e); what is approximate is the joint law: which experts a token combines follows the random
order of the step, not an affinity between experts.

All lengths are whole numbers of a fine grid, so that caps and sums hold exactly.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from moesim.routing.load import IntArray

FloatArray = npt.NDArray[np.float64]

_BITS: Final = 40
_GRID: Final = 1 << _BITS
# Tokens drawn one by one are looked up by the first bits of u in a table that fits the cache.
_CELL_BITS: Final = 14
_REST_BITS: Final = _BITS - _CELL_BITS
_AT_ONCE: Final = 1 << 14
# Tokens per gap and device up to which one by one is the cheaper way (measured for 64 to 512 gaps).
_FEW: Final = 4
_FLOOR: Final = 1e-12


def inclusion(popularity: FloatArray, top_k: int) -> FloatArray:
    """Return the chance that a token uses each expert.

    Args:
        popularity: [experts], not negative, in any unit.
        top_k: experts per token.

    Returns:
        [experts], at most 1, with sum ``top_k``.
    """
    total = float(popularity.sum())
    share = popularity / total if total > 0 else np.zeros(len(popularity))
    # A floor lets experts of popularity zero serve once all others are at the cap.
    share = share + _FLOOR / len(share)
    descending = np.sort(share)[::-1]
    tail = np.append(np.cumsum(descending[::-1])[::-1], 1.0)
    capped = np.arange(min(top_k, len(share) - 1) + 1)
    fits = (top_k - capped) * descending[capped] <= tail[capped] * (1 + 1e-12)
    first = int(capped[fits][0]) if fits.any() else len(share)
    scale = (top_k - first) / float(tail[first]) if first < len(share) else np.inf
    return np.minimum(share * scale, 1.0)


def apportion(popularity: FloatArray, tokens: int, top_k: int) -> IntArray:
    """Return whole copies per expert, as near to the inclusion probabilities as they can be.

    Largest remainder, lowest expert first among equals; no expert gets more than ``tokens`` copies and
    the sum is exactly ``tokens * top_k``.
    """
    wanted = inclusion(popularity, top_k) * tokens
    counts = np.minimum(np.floor(wanted).astype(np.int64), tokens)
    missing = tokens * top_k - int(counts.sum())
    while missing:
        step = 1 if missing > 0 else -1
        able = np.flatnonzero(counts < tokens if step > 0 else counts > 0)
        gain = (wanted - counts)[able] * step
        chosen = able[np.argsort(-gain, kind="stable")[: abs(missing)]]
        counts[chosen] += step
        missing -= step * len(chosen)
    return counts


def on_grid(popularity: FloatArray, top_k: int) -> IntArray:
    """Return the inclusion probabilities in whole parts of a fine grid, int64 [experts]; see ``sampled``."""
    return apportion(popularity, _GRID, top_k)


def sampled(grid: IntArray, tokens: IntArray, draw: np.random.Generator, one_by_one: bool = True) -> IntArray:
    """Draw each token's experts independently.

    Args:
        grid: what ``on_grid`` made of the popularity, int64 [experts].
        tokens: tokens of each device, int64 [devices].
        draw: random stream.
        one_by_one: whether few tokens may be drawn one by one, which gives other draws of the same law.

    Returns:
        copies, int64 [devices, experts]; each device's sum is its tokens times ``top_k``.
    """
    order = draw.permutation(len(grid))
    bounds = np.cumsum(grid[order])
    points, where = np.unique(bounds % _GRID, return_inverse=True)
    gaps = np.diff(points, append=_GRID)
    if one_by_one and int(tokens.sum()) <= _FEW * tokens.size * gaps.size:
        falls = _counted(points, tokens, draw)
    else:
        falls = draw.multinomial(tokens, gaps / _GRID)
    return _fill(bounds // _GRID, where, falls, tokens, order)


def drawn(grid: IntArray, tokens: int, top_k: int, draw: np.random.Generator) -> IntArray:
    """Draw the experts of single tokens, each token with an order of the experts of its own.

    Args:
        grid: what ``on_grid`` made of the popularity, int64 [experts].
        tokens: how many.
        top_k: experts per token.
        draw: random stream.

    Returns:
        Experts, int64 [tokens, top_k]: different ones, each with exactly its inclusion probability.
    """
    orders = draw.permuted(np.tile(np.arange(len(grid)), (tokens, 1)), axis=1)
    bounds = np.cumsum(grid[orders], axis=1)
    points = draw.integers(0, _GRID, (tokens, 1)) + np.arange(top_k) * _GRID
    places = (bounds[:, np.newaxis, :] <= points[:, :, np.newaxis]).sum(axis=2)
    return np.asarray(np.take_along_axis(orders, places, axis=1), dtype=np.int64)


def dealt(totals: IntArray, tokens: IntArray, top_k: int, draw: np.random.Generator) -> IntArray:
    """Deal given totals out to the devices: the tokens of a step are shuffled, their experts stay.

    Args:
        totals: copies per expert, int64 [experts], each at most the tokens of the step, sum tokens * k.
        tokens: tokens of each device, int64 [devices].
        top_k: experts per token; the totals sum to it times the tokens.
        draw: random stream.

    Returns:
        copies, int64 [devices, experts]; each device's sum is its tokens times ``top_k``.
    """
    step = int(tokens.sum())
    if step == 0:
        return np.zeros((len(tokens), len(totals)), dtype=np.int64)
    order = draw.permutation(len(totals))
    bounds = np.cumsum(totals[order])
    points, where = np.unique(bounds % step, return_inverse=True)
    falls = _shared_out(np.diff(points, append=step), tokens, draw)
    return _fill(bounds // step, where, falls, tokens, order)


def _fill(whole: IntArray, where: IntArray, falls: IntArray, tokens: IntArray, order: IntArray) -> IntArray:
    """Turn the tokens that fall between neighbouring boundaries into copies per expert.

    A boundary at w + f (w whole) has w copies of every token before it and one more of those with u < f.
    """
    below = np.zeros_like(falls)
    np.cumsum(falls[:, :-1], axis=1, out=below[:, 1:])
    # In the order of the experts rather than of their intervals, so that nothing is scattered afterwards.
    upper, more = np.empty_like(where), np.empty_like(whole)
    upper[order], more[order] = where, np.diff(whole, prepend=0)
    lower = np.empty_like(where)
    lower[order] = np.concatenate([[0], where[:-1]])  # the first interval begins at 0, the first point
    counts: IntArray = np.take(below, upper, axis=1)
    counts -= np.take(below, lower, axis=1)
    wraps = np.flatnonzero(more)
    counts[:, wraps] += tokens[:, np.newaxis] * more[wraps]
    return counts


def _counted(points: IntArray, tokens: IntArray, draw: np.random.Generator) -> IntArray:
    """Draw every token's u and count, per device, those in each gap, int64 [devices, gaps].

    The first bits of u tell the gap, but in cells with a boundary inside: only there the others are drawn.

    Args:
        points: where gaps begin on the grid, the first at 0, int64 [gaps].
        tokens: tokens of each device, int64 [devices].
        draw: random stream.
    """
    gaps = points.size
    begins = (points + (1 << _REST_BITS) - 1) >> _REST_BITS
    gap_of = np.repeat(np.arange(gaps), np.diff(begins, append=1 << _CELL_BITS))
    gap_of[(points >> _REST_BITS)[points % (1 << _REST_BITS) != 0]] = gaps
    falls = np.empty((tokens.size, gaps), dtype=np.int64)
    rows = max(1, _AT_ONCE // max(1, int(tokens.max(initial=0))))
    for begin in range(0, tokens.size, rows):
        some = tokens[begin : begin + rows]
        amount = int(some.sum())
        words = draw.integers(0, 1 << 64, (amount + 3) // 4, dtype=np.uint64)
        cells = words.astype("<u8", copy=False).view("<u2")[:amount] >> (16 - _CELL_BITS)
        found = np.take(gap_of, cells)
        unclear = np.flatnonzero(found == gaps)
        rest = draw.integers(0, 1 << _REST_BITS, unclear.size)
        exact = (cells[unclear].astype(np.int64) << _REST_BITS) + rest
        found[unclear] = np.searchsorted(points, exact, side="right") - 1
        found += np.repeat(np.arange(some.size) * gaps, some)
        falls[begin : begin + rows] = np.bincount(found, minlength=some.size * gaps).reshape(-1, gaps)
    return falls


def _shared_out(sizes: IntArray, tokens: IntArray, draw: np.random.Generator) -> IntArray:
    """Share the tokens of each interval out to devices at random, int64 [devices, intervals]."""
    devices, intervals = len(tokens), len(sizes)
    if int(tokens.sum()) <= devices * intervals:  # shuffling the tokens themselves is the cheaper way
        interval = draw.permutation(np.repeat(np.arange(intervals), sizes))
        device = np.repeat(np.arange(devices), tokens)
        return np.bincount(device * intervals + interval, minlength=devices * intervals).reshape(devices, -1)
    falls = np.zeros((devices, intervals), dtype=np.int64)
    left = sizes
    for row, count in zip(falls, tokens.tolist(), strict=True):
        row[:] = draw.multivariate_hypergeometric(left, count, method="marginals")
        left = left - row
    return falls
