"""How families of grouped-GEMM kernels cut rows into blocks.

A block is a tile's worth of rows of one expert; what does not fill it is padding. Fused MoE kernels choose
the height of their blocks before they start, so that one hot expert does not change it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

BLOCKS: Final = (8, 16, 32, 64, 128, 256)
"""Heights of tiles (rows) among which kernels choose."""

SORTED_AT_ONCE: Final = 256
"""Tokens up to which one kernel sorts all pairs of a call (TensorRT-LLM's fused prologue)."""

CHOICES_AT_ONCE: Final = (1, 2, 4, 6, 8)
"""Experts per token for which that kernel exists."""


@dataclass(frozen=True)
class GroupedKernel:
    """How a family of kernels cuts the work.

    Attributes:
        name: family.
        rule: how the block height is chosen: ``call`` by the number of tokens in the whole call as
            vLLM's default Triton configuration does, ``call_fp8`` as it does for block-scaled formats,
            ``call_two`` the same with higher blocks, ``experts`` by whether there are more tokens than
            experts as SGLang's does, ``mean`` by rows per expert, ``rows`` by rows per active expert,
            ``local`` by all pairs of the call per expert on the device, as launchers do that do not know
            how many of the pairs are theirs.
        low: smallest block height of rules that count rows.
        high: largest block height of rules that count rows.
        slack: height that these rules aim at, in rows per expert.
        columns: width of a tile.
        overlap: exponent ``p``: between the sum (1) and the larger (infinity) of loading and arithmetic.
        token_passes: hidden-wide passes per token of the call (quantising, clearing, finishing).
        growth: share of the launch constant that each doubling of the call's pairs adds (sorting pairs).
        all_pairs: passes and tiles run over all pairs of the call, also those of experts elsewhere.
        experts_growth: the same for each doubling of the experts on the device.
        sorting: share of the launch constant for the separate kernels that sort pairs where no single one
            can: above ``SORTED_AT_ONCE`` tokens, or with a number of choices for which none was built.
        pad: widths that weights are padded to (elements).
        reread: how much of an expert's weights every further block of its rows reads from memory again
            where they do not fit the cache.
        waves: tiles that are paid for: ``smooth`` those there are and the device's units as the legs of a
            right angle, ``least`` at least one per unit, ``whole`` only whole waves.
        streams: share of the memory's bandwidth that one tile per unit can draw; 0: a few can draw it all.
        unaligned: slow-down of the second GEMM where the intermediate width is not a multiple of 16
            elements, so that its rows cannot be loaded in whole vectors.
    """

    name: str
    rule: Literal["call", "call_fp8", "call_two", "experts", "mean", "rows", "local"] = "rows"
    low: int = 16
    high: int = 128
    slack: float = 1.0
    columns: int = 128
    overlap: float = 2.0
    token_passes: float = 2.0
    growth: float = 0.0
    experts_growth: float = 0.0
    sorting: float = 0.0
    all_pairs: bool = False
    pad: int = 1
    reread: float = 0.0
    waves: Literal["smooth", "least", "whole"] = "smooth"
    streams: float = 0.0
    unaligned: float = 1.0


@dataclass(frozen=True, eq=False)
class GroupCounts:
    """Rows of a call after cutting them into blocks, possibly averaged over draws; all arrays [...].

    Attributes:
        rows: rows (token-expert pairs) computed here.
        active: experts with at least one row here.
        blocks: blocks of rows here, of the height that the kernel chose.
        height: that height.
        pairs: pairs of the whole call, those of experts elsewhere included.
        all_blocks: blocks of the whole call.
        tokens: tokens of the whole call.
        experts: experts on the device.
    """

    rows: Array
    active: Array
    blocks: Array
    height: Array
    pairs: Array
    all_blocks: Array
    tokens: Array
    experts: Array


def block_height(
    kernel: GroupedKernel, tokens: Array, experts: npt.ArrayLike, rows: Array, active: Array, pairs: Array
) -> Array:
    """Return the block height that a kernel chooses, [...].

    Args:
        kernel: how it chooses.
        tokens: tokens of the call.
        experts: experts on the device.
        rows: rows computed here.
        active: experts with rows here.
        pairs: pairs of the whole call.
    """
    if kernel.rule == "call":
        steps = np.select([tokens <= 32, tokens <= 96, tokens <= 512], [16.0, 32.0, 64.0], 128.0)
        return np.asarray(steps, dtype=np.float64)
    if kernel.rule == "call_fp8":
        return np.where(tokens <= 64, 16.0, 64.0)
    if kernel.rule == "call_two":
        return np.where(tokens <= 64, 16.0, 128.0)
    if kernel.rule == "experts":
        return np.where(tokens <= np.asarray(experts), 16.0, 64.0)
    groups = active if kernel.rule == "rows" else np.asarray(experts, dtype=np.float64)
    counted = pairs if kernel.rule == "local" else rows
    per_expert = np.maximum(counted / np.maximum(groups, 1.0), 1.0) * kernel.slack
    height = 2.0 ** np.ceil(np.log2(per_expert) - 1e-9)
    return np.asarray(np.clip(height, kernel.low, kernel.high), dtype=np.float64)


def count_groups(
    tokens_per_group: npt.ArrayLike,
    kernel: GroupedKernel,
    *,
    top_k: int = 1,
    tokens: npt.ArrayLike | None = None,
) -> GroupCounts:
    """Count rows and blocks of calls.

    Args:
        tokens_per_group: rows of every expert of a device, [..., experts].
        kernel: how it cuts.
        top_k: experts per token, to tell tokens from pairs where ``tokens`` is not given.
        tokens: tokens of the call, [...]; by default what makes all its pairs local (dispatched tokens).
    """
    groups = np.asarray(tokens_per_group, dtype=np.float64)
    rows = groups.sum(axis=-1)
    active = (groups > 0).sum(axis=-1).astype(np.float64)
    call = rows / top_k if tokens is None else np.asarray(tokens, dtype=np.float64)
    pairs = np.maximum(call * top_k, rows)
    height = block_height(kernel, call, groups.shape[-1], rows, active, pairs)
    blocks = np.ceil(groups / height[..., None]).sum(axis=-1)
    experts = np.full(rows.shape, float(groups.shape[-1]))
    return GroupCounts(rows, active, blocks, height, pairs, blocks + (pairs - rows) / height, call, experts)


def count_assigned(
    copies: npt.ArrayLike,
    keys: npt.NDArray[np.int64],
    size: int,
    kernel: GroupedKernel,
    *,
    experts: npt.ArrayLike,
    tokens: npt.ArrayLike,
    pairs: Array | None = None,
) -> GroupCounts:
    """Count rows and blocks of many calls from a list of their experts.

    Args:
        copies: rows of each listed expert, [entries].
        keys: the call to which each belongs, int64 [entries].
        size: number of calls.
        kernel: how it cuts.
        experts: experts on the device of each call, [size].
        tokens: tokens that reach each call, [size].
        pairs: pairs that each call is given, those of experts elsewhere included, [size]; by default only
            those computed here, as after a dispatch.
    """
    listed = np.asarray(copies, dtype=np.float64)

    def total(values: Array) -> Array:
        return np.asarray(np.bincount(keys, weights=values, minlength=size), dtype=np.float64)

    rows, active = total(listed), total((listed > 0).astype(np.float64))
    given = rows if pairs is None else np.maximum(pairs, rows)
    call = np.minimum(np.asarray(tokens, dtype=np.float64), given)
    height = block_height(kernel, call, experts, rows, active, given)
    blocks = total(np.ceil(listed / height[keys]))
    every = np.broadcast_to(np.asarray(experts, dtype=np.float64), rows.shape)
    return GroupCounts(rows, active, blocks, height, given, blocks + (given - rows) / height, call, every)
