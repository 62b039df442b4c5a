"""What the attention core costs: scores, softmax and weighted values over a KV cache.

Work is cut into tiles of query rows; the query heads that share a KV head can be packed into one tile
(FlashAttention-3, FlashInfer, TensorRT-LLM), and in decoding several tiles share one sequence's keys
(split-KV). Every tile height, packing and split of a fixed menu is priced and the cheapest one counts:

    pace   = units * max(2 rows (qk + v + softmax) / (mma * peak), bytes of a key / (streams * bandwidth))
    tile   = tile_s + span * pace               span: keys that a tile visits, causal half or window
    tiles  = max(waves * tile, longest tile)    waves between tiles/units and its ceiling (``whole``)
    memory = bytes / (memory * bandwidth)       ``cache_ratio`` faster where the KV cache fits in L2
    time   = launch_s + passes * new bytes / rate + (tiles^norm + memory^norm)^(1/norm) + split_s and sums

Multi-head latent attention runs on full heads in prefill and on the shared latent (absorbed) in decoding.
Constants are fitted to published timings (data/dense.yaml, moesim.accuracy.attention), which contain
writing the new keys and values to a paged cache; that is what ``passes`` prices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from moesim.errors import unknown_name
from moesim.hardware.attention_choices import (
    UNLIMITED,
    AttentionChoices,
    AttentionWork,
    attention_choices,
)
from moesim.hardware.dense_gemm import miss_share
from moesim.hardware.kernel_model import Constants
from moesim.hardware.spec import Device

Array = npt.NDArray[np.float64]

PHASES: Final = ("prefill", "decode")
KINDS: Final = ("gqa", "mla")

_ROWS: Final = 4096


@dataclass(frozen=True)
class AttentionConstants(Constants):
    """Constants of one device, phase, kind and number format; shares of datasheet rates, and seconds.

    Attributes:
        launch_s: time of empty kernels, that of writing the cache included (s).
        tile_s: start and end of a tile: page table, queries, epilogue (s).
        split_s: second kernel that joins split keys (s).
        mma: share of the peak rate in the two products.
        memory: share of the memory's bandwidth that streaming reaches.
        streams: rate at which one unit reads keys, in multiples of its share of the memory's bandwidth.
        softmax: cost of one exponential in columns of the two products.
        cache_ratio: rate of data found in L2 over that of memory.
        cache_share: share of the L2 that a KV cache can use.
        whole: 1 where a last, partly filled wave counts in full, 0 where work spreads evenly.
        norm: exponent that joins tiles and memory (large: the longer one alone).
        passes: times that new queries, keys and values are moved besides the core.
        packing: one of ``PACKINGS``.
        absorbed: whether latent attention attends to the latent in prefill too.
    """

    launch_s: float = 9e-6
    tile_s: float = 2.2e-6
    split_s: float = 2.5e-6
    mma: float = 0.7
    memory: float = 0.85
    streams: float = 2.0
    softmax: float = 40.0
    cache_ratio: float = 2.0
    cache_share: float = 0.7
    whole: float = 0.7
    norm: float = 3.0
    passes: float = 1.0
    packing: str = "free"
    absorbed: bool = False


def choice_seconds(choices: AttentionChoices, c: AttentionConstants) -> Array:
    """Price every choice; the shape is that of the choices' arrays."""
    pace = np.maximum(
        choices.flops * (choices.columns + c.softmax) / (choices.peak * c.mma),
        choices.loads / (choices.bandwidth * c.streams),
    )
    waves = choices.even + c.whole * (choices.waves - choices.even)
    tiles = np.maximum(waves * (c.tile_s + choices.span * pace), c.tile_s + choices.longest * pace)
    rate = choices.bandwidth * c.memory
    slow = miss_share(choices.kept, choices.cache * c.cache_share)
    memory = choices.moved / rate * (slow + (1.0 - slow) / c.cache_ratio)
    joining = c.split_s + 2.0 * choices.splits * choices.sums / (rate * c.cache_ratio)
    return np.asarray(
        choices.barred
        + c.launch_s
        + c.passes * choices.new / rate
        + (tiles**c.norm + memory**c.norm) ** (1.0 / c.norm)
        + np.where(choices.splits > 1.0, joining, 0.0),
        dtype=np.float64,
    )


def work_seconds(
    device: Device,
    constants: AttentionConstants,
    phase: str,
    work: AttentionWork,
    *,
    dtype: str,
    cache: float,
) -> Array:
    """Price flat batches, launch included; 0 where there is no sequence or no query."""
    result = np.zeros(len(work.batch))
    busy = np.flatnonzero((work.batch > 0) & (work.queries > 0) & (work.heads > 0))
    for start in range(0, len(busy), _ROWS):
        part = busy[start : start + _ROWS]
        choices = attention_choices(
            device, phase, work.rows(part), dtype=dtype, packing=constants.packing, cache=cache
        )
        result[part] = choice_seconds(choices, constants).min(axis=1)
    return result


def attention_core_seconds(
    device: Device,
    constants: AttentionConstants,
    kind: str,
    phase: str,
    *,
    batch: npt.ArrayLike,
    queries: npt.ArrayLike,
    context: npt.ArrayLike,
    heads: int,
    kv_heads: int = 1,
    head_dim: int = 128,
    v_head_dim: int = 0,
    rope_dim: int = 0,
    kv_lora_rank: int = 0,
    window: int | None = None,
    dtype: str = "bf16",
    key_bytes: float = 2.0,
    cache: float = 0.0,
) -> Array:
    """Price the attention core of a layer for batches of equal sequences.

    Args:
        device: where it runs.
        constants: of this device, kind, phase and format.
        kind: ``gqa`` (MHA and MQA included) or ``mla``.
        phase: ``prefill`` or ``decode``.
        batch: sequences on the device.
        queries: new tokens per sequence (1 in plain decoding).
        context: tokens per sequence that the last query sees, itself included; at least ``queries``.
        heads: query heads on the device.
        kv_heads: KV heads on the device (``gqa``).
        head_dim: width of a head; for ``mla`` without the rotary part.
        v_head_dim: width of a value head (0: as ``head_dim``).
        rope_dim: ``mla``: width of the rotary part.
        kv_lora_rank: ``mla``: rank of the latent.
        window: tokens that a query sees (None: all).
        dtype: number format of the products.
        key_bytes: bytes per cached element.
        cache: bytes of L2 that may still hold the KV cache; 0 (default): other layers evicted it.

    Returns:
        Seconds in the broadcast shape of batch, queries and context; 0 without work.

    Raises:
        InputError: unknown kind or phase, or no rate for the format.
    """
    for word, options, what in ((kind, KINDS, "kind of attention"), (phase, PHASES, "phase")):
        if word not in options:
            raise unknown_name(what, word[:60], options)
    sizes = np.broadcast_arrays(*(np.asarray(one, dtype=np.float64) for one in (batch, queries, context)))
    flat = [one.ravel() for one in sizes]
    value = v_head_dim or head_dim
    if kind == "gqa":
        shared, qk, v, cached = kv_heads, head_dim, value, head_dim + value
    elif phase == "decode" or constants.absorbed:
        shared, qk, v, cached = 1, kv_lora_rank + rope_dim, kv_lora_rank, kv_lora_rank + rope_dim
    else:
        shared, qk, v, cached = heads, head_dim + rope_dim, value, head_dim + rope_dim + value
    constant = (window or UNLIMITED, heads, shared, qk, v, cached, key_bytes)
    past = np.maximum(flat[2] - flat[1], 0.0)
    work = AttentionWork(flat[0], flat[1], past, *(np.full(len(past), float(one)) for one in constant))
    return work_seconds(device, constants, phase, work, dtype=dtype, cache=cache).reshape(sizes[0].shape)
