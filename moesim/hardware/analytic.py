"""What kernels cost on a device: the calibrated models behind one interface.

``AnalyticCosts`` is how every step prices dense GEMMs, attention, memory passes and fused expert layers. It
remembers what it has priced, because steps ask for the same few numbers of rows over and over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from moesim.hardware.attention_cost import attention_core_seconds
from moesim.hardware.calibration import FORMATS, Calibration
from moesim.hardware.calibrations import Calibrations
from moesim.hardware.dense_gemm import GemmConstants, dense_gemm_seconds
from moesim.hardware.elementwise import StreamConstants, operation_seconds
from moesim.hardware.grouped_gemm import ExpertShape, layer_work
from moesim.hardware.grouped_kernels import GroupedKernel, count_assigned
from moesim.hardware.grouped_work import LayerWork
from moesim.hardware.spec import DTYPE_BYTES, Device

Array = npt.NDArray[np.float64]

DENSE_KINDS: Final[Mapping[str, str]] = MappingProxyType({"fp8": "fp8_block"})
"""Format of stored weights -> kind of dense GEMM. Released fp8 checkpoints scale weights by blocks."""

EXPERT_KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {"fp8": "fp8_block", "fp4": "mxfp4", "fp16": "bf16"}
)
"""Format of stored experts -> kind of fused expert layer. fp4 has one scale per 32 weights (OCP MX)."""


@dataclass(frozen=True)
class AttentionShape:
    """Attention core of one layer on one device.

    Attributes:
        kind: ``gqa`` or ``mla``; of other token mixers only ``flops`` and ``state_bytes`` count.
        heads: query heads on the device.
        kv_heads: KV heads on the device.
        head_dim, v_head_dim, rope_dim, kv_lora_rank: widths, see ``attention_core_seconds``.
        window: tokens that a query sees (None: all).
        key_bytes: bytes per cached element.
        flops: other mixers: FLOP per token.
        state_bytes: other mixers: bytes of state per sequence.
    """

    kind: str
    heads: int = 0
    kv_heads: int = 1
    head_dim: int = 0
    v_head_dim: int = 0
    rope_dim: int = 0
    kv_lora_rank: int = 0
    window: int | None = None
    key_bytes: float = 2.0
    flops: float = 0.0
    state_bytes: float = 0.0


@dataclass(frozen=True, eq=False)
class ExpertCall:
    """Fused expert layers of many devices, for experts of one make.

    Attributes:
        shape: one expert.
        dtype: format of its stored weights.
        copies: rows of each listed expert, [entries].
        keys: the call to which each belongs, int64 [entries].
        held: experts on the device of each call, [calls].
        tokens: tokens that reach each call, [calls].
        pairs: pairs that each call is given, [calls]; None: only those computed there.
        top_k: experts per token.
        experts: routed experts of the layer.
    """

    shape: ExpertShape
    dtype: str
    copies: Array
    keys: npt.NDArray[np.int64]
    held: Array
    tokens: Array
    pairs: Array | None
    top_k: int
    experts: int

    def work(self, device: Device, kernel: GroupedKernel) -> LayerWork:
        """Count the work of all calls, [calls]."""
        counts = count_assigned(
            self.copies,
            self.keys,
            len(self.held),
            kernel,
            experts=self.held,
            tokens=self.tokens,
            pairs=self.pairs,
        )
        return layer_work(device, kernel, self.shape, counts)


@dataclass(frozen=True)
class Floors:
    """Rates that no kernel of a kind exceeds: what a lower bound may divide by.

    Attributes:
        flops: FLOP/s.
        weights: bytes/s of weights.
        passes: bytes/s of rows that pass between kernels.
    """

    flops: float
    weights: float
    passes: float


class AnalyticCosts:
    """Prices kernels on one kind of device.

    Args:
        device: where they run.
        calibrations: where constants are looked up.
        activation_dtype: format of activations and of the KV cache.
        backend: kernels of fused expert layers, or ``auto``.

    Raises:
        InputError: nothing is known of the kernels asked for.
    """

    def __init__(
        self,
        device: Device,
        calibrations: Calibrations | None = None,
        activation_dtype: str = "bf16",
        backend: str = "auto",
    ) -> None:
        self.device = device
        self.calibrations = calibrations or Calibrations()
        self.activation_dtype = activation_dtype
        self.backend = backend
        self._gemms: dict[tuple[float, float, str], tuple[Array, Array]] = {}
        self._layers: dict[str, Calibration] = {}

    def gemm(self, rows: npt.ArrayLike, n: float, k: float, dtype: str) -> Array:
        """Price dense GEMMs [rows, k] x [k, n], one kernel per entry, launch included (s); 0 without rows.

        Args:
            rows: rows, any shape.
            n: columns of the result.
            k: inner extent.
            dtype: format of the stored weights.
        """
        asked = np.asarray(rows, dtype=np.float64)
        if n <= 0 or k <= 0:
            return np.zeros(asked.shape)
        kind = DENSE_KINDS.get(dtype, dtype)
        known, seconds = self._gemms.get((n, k, kind), (np.zeros(0), np.zeros(0)))
        distinct, inverse = np.unique(asked, return_inverse=True)
        missing = np.setdiff1d(distinct, known, assume_unique=True)
        if missing.size:
            constants = self.calibrations.gemm(self.device, kind)
            priced = dense_gemm_seconds(self.device, constants, missing, n, k, kind)
            known = np.concatenate([known, missing])
            order = np.argsort(known)
            known, seconds = known[order], np.concatenate([seconds, priced])[order]
            self._gemms[n, k, kind] = (known, seconds)
        result: Array = seconds[np.searchsorted(known, distinct)][inverse].reshape(asked.shape)
        return result

    def attention(
        self,
        shape: AttentionShape,
        phase: str,
        batch: npt.ArrayLike,
        queries: npt.ArrayLike,
        context: npt.ArrayLike,
    ) -> Array:
        """Price attention cores (s).

        Args:
            shape: heads on the device.
            phase: ``prefill`` or ``decode``.
            batch: sequences.
            queries: new tokens per sequence.
            context: tokens that the last of them sees.
        """
        sequences, new, seen = (np.asarray(one, dtype=np.float64) for one in (batch, queries, context))
        if shape.kind not in ("gqa", "mla"):
            tokens = sequences * new
            bare = self.calibrations.gemm(self.device, self.activation_dtype)
            arithmetic = tokens * shape.flops / (self.device.flops(self.activation_dtype) * bare.mma)
            kernels = np.minimum(tokens, 1.0) * (shape.flops > 0)
            return np.maximum(arithmetic, self.stream(sequences * shape.state_bytes, kernels))
        dtype = self.activation_dtype if self.activation_dtype in ("bf16", "fp8") else "bf16"
        if shape.key_bytes < DTYPE_BYTES[dtype]:
            dtype = "bf16_kv8"
        return attention_core_seconds(
            self.device,
            self.calibrations.attention(self.device, shape.kind, phase, dtype),
            shape.kind,
            phase,
            batch=sequences,
            queries=new,
            context=np.maximum(seen, new),
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            v_head_dim=shape.v_head_dim,
            rope_dim=shape.rope_dim,
            kv_lora_rank=shape.kv_lora_rank,
            window=shape.window,
            dtype=self.activation_dtype,
            key_bytes=shape.key_bytes,
        )

    def stream(self, traffic: npt.ArrayLike, kernels: npt.ArrayLike = 0.0) -> Array:
        """Price kernels that move many bytes through memory in one go (s); see ``operation`` for small ones.

        Args:
            traffic: bytes read and written.
            kernels: kernels that do it; each takes the time of an empty one besides.
        """
        rate = self.device.memory.bandwidth * self._plain.memory
        empty = np.asarray(kernels, dtype=np.float64) * self._plain.launch_s
        return np.asarray(np.asarray(traffic, dtype=np.float64) / rate + empty, dtype=np.float64)

    def operation(self, name: str, elements: npt.ArrayLike, times: float = 1.0) -> Array:
        """Price an operation that only passes over rows: ``norm``, ``add``, ``rope``, ``activation`` ... (s).

        Args:
            name: see ``moesim.hardware.elementwise.stream_operation``.
            elements: elements of all rows together; none cost nothing.
            times: how often it runs on them.
        """
        size = DTYPE_BYTES[self.activation_dtype]
        work = np.asarray(elements, dtype=np.float64) * times
        return operation_seconds(self.device, name, work, self._rows, element_bytes=size, times=times)

    @cached_property
    def _rows(self) -> StreamConstants:
        return self.calibrations.stream(self.device)

    @cached_property
    def _plain(self) -> GemmConstants:
        return self.calibrations.gemm(self.device, "bf16")

    def expert_layer(self, dtype: str) -> Calibration:
        """Return kernel and constants of fused layers of experts stored in a format."""
        if dtype not in self._layers:
            kind = EXPERT_KINDS.get(dtype, dtype)
            self._layers[dtype] = self.calibrations.grouped(self.device, kind, self.backend)
        return self._layers[dtype]

    def fused(self, calls: Sequence[ExpertCall]) -> Array:
        """Price fused expert layers, [calls] seconds; experts of one format share a launch.

        Args:
            calls: one per make of expert, for the same devices.
        """
        works: dict[str, LayerWork] = {}
        for call in calls:
            work = call.work(self.device, self.expert_layer(call.dtype).kernel)
            known = works.get(call.dtype)
            works[call.dtype] = work if known is None else known.beside(work)
        times = [work.seconds(self.expert_layer(dtype).constants) for dtype, work in works.items()]
        return np.asarray(sum(times, np.zeros(len(calls[0].held)))) if calls else np.zeros(0)

    def arithmetic(self, dtype: str) -> str:
        """Return the format in which experts stored in a format are multiplied."""
        return FORMATS[EXPERT_KINDS.get(dtype, dtype)][0]

    def fused_floors(self, dtype: str) -> Floors:
        """Return the rates that fused expert layers of a format cannot exceed."""
        constants, bandwidth = self.expert_layer(dtype).constants, self.device.memory.bandwidth
        return Floors(
            self.device.flops(self.arithmetic(dtype)) * constants.compute,
            bandwidth * constants.memory,
            bandwidth * constants.passes,
        )

    def gemm_floors(self, dtype: str) -> Floors:
        """Return the rates that dense GEMMs of a format cannot exceed."""
        kind = DENSE_KINDS.get(dtype, dtype)
        constants, bandwidth = self.calibrations.gemm(self.device, kind), self.device.memory.bandwidth
        rate = bandwidth * constants.memory
        return Floors(self.device.flops(dtype) * constants.mma, rate, bandwidth * self._plain.memory)
