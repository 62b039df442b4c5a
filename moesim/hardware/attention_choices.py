"""The ways to run an attention core: tiles of query rows, packed heads and split keys.

What each way costs is priced in ``attention_cost``; here work is only counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from moesim.hardware.kernel_model import Choices
from moesim.hardware.spec import Device

Array = npt.NDArray[np.float64]

PACKINGS: Final = ("free", "single", "up_to_32", "never", "single_split")
"""When a library packs the query heads of a KV head into one tile: wherever it helps; for single queries
without a sliding window (FlashAttention-2); up to 32 heads (TensorRT-LLM's XQA kernels); never; as
``single``, and keys are not split where there is nothing to pack (vLLM with FlashAttention-2)."""

HEIGHTS: Final[Mapping[str, tuple[int, ...]]] = {"prefill": (64, 128, 256), "decode": (16, 32, 64, 128)}
"""Query rows of a tile: Tensor Core instructions take 16, 64 or 128."""

SPLITS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
"""Tiles that may share the keys of one sequence in decoding."""

BLOCK: Final = 64
"""Keys that a tile takes at once."""

UNLIMITED: Final = 1e15
"""Window of attention without a sliding window (tokens)."""

_NEVER: Final = 1e6
"""Seconds that rule a choice out."""


@dataclass(frozen=True, eq=False)
class AttentionWork:
    """Batches of equal sequences; arrays of one shape.

    Attributes:
        batch: sequences.
        queries: new tokens per sequence.
        past: earlier tokens per sequence.
        window: tokens that a query sees at most (``UNLIMITED``: all).
        heads, kv_heads: query heads and KV heads.
        qk, v: widths of the two products per head.
        cached: elements kept per token and KV head.
        key_bytes: bytes per cached element.
    """

    batch: Array
    queries: Array
    past: Array
    window: Array
    heads: Array
    kv_heads: Array
    qk: Array
    v: Array
    cached: Array
    key_bytes: Array

    def rows(self, index: npt.NDArray[np.intp] | slice) -> Self:
        """Return some entries of flat arrays."""
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))


@dataclass(frozen=True, eq=False)
class AttentionChoices(Choices):
    """Batches with every way to run them: arrays [batches, choices] or [batches, 1].

    Attributes:
        peak, bandwidth, cache: of the device (FLOP/s, bytes/s, bytes of L2).
        even: tiles / units, at least 1. waves: its ceiling.
        span, longest: keys that a tile visits, on average and at most.
        splits: tiles that share one sequence's keys.
        flops: FLOP per key and column of the products if all units worked on such tiles.
        loads: bytes per key if all units read. columns: widths of both products.
        kept, moved: bytes of the visible KV cache, and of everything read and written.
        sums: bytes of one set of split sums. new: bytes of new queries, keys and values.
        barred: seconds that rule a choice out, else 0.
    """

    peak: Array
    bandwidth: Array
    cache: Array
    even: Array
    waves: Array
    span: Array
    longest: Array
    splits: Array
    flops: Array
    loads: Array
    columns: Array
    kept: Array
    moved: Array
    sums: Array
    new: Array
    barred: Array


def attention_choices(
    device: Device, phase: str, work: AttentionWork, *, dtype: str, packing: str, cache: float
) -> AttentionChoices:
    """List the ways to run flat batches of positive extents.

    Causal tiles end at their own last query; with a window they reach back by the window only. Sums over
    the tiles of a sequence are arithmetic series.
    """
    splits = SPLITS if phase == "decode" else (1,)
    menu = np.array([(h, p, s) for h in HEIGHTS[phase] for p in (0, 1) for s in splits], dtype=np.float64)
    height, packed, split = menu.T[:, None, :]
    part = {f.name: getattr(work, f.name)[:, None] for f in fields(work)}
    batch, queries, past, window = (part[name] for name in ("batch", "queries", "past", "window"))
    heads, kv_heads, new_kv = part["heads"], part["kv_heads"], part["kv_heads"] * part["cached"]
    group = heads / kv_heads
    positions = np.minimum(np.where(packed > 0, height / group, height), queries)
    bands = np.ceil(queries / np.where(packed > 0, height / group, height))
    longest = np.minimum(window + positions, past + queries)
    growing = np.clip(np.floor((longest - past) / positions), 0.0, bands)
    keys = past * growing + positions * growing * (growing + 1.0) / 2.0 + (bands - growing) * longest
    span = np.clip(keys / bands, 1.0, past + queries)
    units = float(device.compute_units)
    share = batch * np.where(packed > 0, kv_heads, heads) * bands * split / units
    full = np.ones_like(batch)
    alone = (window < UNLIMITED) | (queries > 1.0)
    barred = {
        "free": np.zeros_like(group * packed),
        "single": packed * alone,
        "single_split": packed * alone + (split > 1.0) * (group <= 1.0),
        "up_to_32": packed * (group > 32.0),
        "never": packed * (group > 1.0),
    }[packing]
    kept = (
        batch * kv_heads * np.minimum(past + queries, window + queries) * part["cached"] * part["key_bytes"]
    )
    tokens = batch * queries
    return AttentionChoices(
        peak=full * device.flops(dtype),
        bandwidth=full * device.memory.bandwidth,
        cache=full * cache,
        even=np.maximum(share, 1.0),
        waves=np.ceil(share),
        span=np.ceil(span / split / BLOCK) * BLOCK,
        longest=np.ceil(longest / split / BLOCK) * BLOCK,
        splits=full * split,
        flops=full * (2.0 * height * units),
        loads=part["cached"] * part["key_bytes"] * units,
        columns=part["qk"] + part["v"],
        kept=kept,
        moved=kept + tokens * (heads * (part["qk"] + part["v"]) + new_kv) * 2.0,
        sums=tokens * heads * part["v"] * 4.0,
        new=tokens * (heads * part["qk"] + new_kv) * 2.0,
        barred=barred * _NEVER,
    )
