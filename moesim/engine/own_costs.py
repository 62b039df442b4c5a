"""Prices of what each device does by itself in a step, whatever the policy decides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.engine.setup import Setup
from moesim.hardware.compute import attention_seconds, dense_seconds, memory_seconds
from moesim.hardware.spec import DTYPE_BYTES, Device
from moesim.model.spec import LayerSpec

Array = npt.NDArray[np.float64]

NORM_PASSES = 10.0
"""Hidden-wide passes of two norms (read, write) and two residual additions (read twice, write)."""
ATTENTION_OPS = 12
"""Kernels launched per attention block without graphs: norms, projections, rope, core, residual."""
QUERY_TILE = 128
"""Queries that share one pass over the KV cache in prefill (FlashAttention-2, section 3.3)."""


@dataclass(frozen=True, eq=False)
class OwnCosts:
    """Seconds per transformer layer and device, [layers, devices] each."""

    attention: Array
    dense: Array
    gate: Array
    permute: Array
    unpermute: Array

    def segments(self, moe_rows: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        """Sum work between collectives.

        Args:
            moe_rows: rows that are MoE layers, int64 [MoE layers].

        Returns:
            Seconds before the dispatch of each MoE layer, from the combine of the one before
            [MoE layers, devices], and seconds after the last combine [devices].
        """
        work = self.attention + self.dense + self.gate + self.permute
        summed = np.zeros((moe_rows.size + 1, work.shape[1]))
        np.add.at(summed, np.searchsorted(moe_rows, np.arange(work.shape[0])), work)
        summed[1:] += self.unpermute[moe_rows]
        return summed[:-1], summed[-1]


def own_costs(setup: Setup) -> OwnCosts:
    """Price attention, dense parts, gate, permute and unpermute for every layer of one step."""
    rows = len(setup.layers)
    shape = (rows, setup.cluster.size)
    costs = OwnCosts(*(np.zeros(shape) for _ in range(5)))
    devices = setup.cluster.devices
    for kind in dict.fromkeys(devices):
        columns = np.asarray([i for i, device in enumerate(devices) if device == kind])
        pricer = _Pricer(setup, kind, setup.tokens[columns].astype(np.float64))
        for row, layer in enumerate(setup.layers):
            pricer.price(costs, row, columns, layer)
        if not setup.workload.moe_only:
            costs.dense[rows - 1, columns] += pricer.head()
    return costs


class _Pricer:
    """Prices layers on one kind of device, each distinct layer once."""

    def __init__(self, setup: Setup, device: Device, tokens: Array) -> None:
        self.setup = setup
        self.device = device
        self.tokens = tokens
        self.model = setup.model
        self.activation = DTYPE_BYTES[self.model.activation_dtype]
        self.launch = 0.0 if setup.kernels.graphs else device.launch_s
        self._seen: dict[tuple[object, ...], tuple[Array, ...]] = {}

    def price(self, costs: OwnCosts, row: int, columns: npt.NDArray[np.int64], layer: LayerSpec) -> None:
        """Write the prices of one layer into its row."""
        key = (layer.attention, layer.dense_intermediate, id(layer.experts), layer.shared, layer.top_k)
        if key not in self._seen:
            self._seen[key] = (self._attention(layer), self._dense(layer), *self._routing(layer))
        attention, dense, gate, permute, unpermute = self._seen[key]
        if not self.setup.workload.moe_only:
            costs.attention[row, columns] = attention
            costs.dense[row, columns] = dense
        costs.gate[row, columns] = gate
        costs.permute[row, columns] = permute
        costs.unpermute[row, columns] = unpermute

    def _gemm(self, n: float, k: float, dtype: str | None = None) -> Array:
        weights = self.model.weight_dtype if dtype is None else dtype
        return dense_seconds(self.device, self.tokens, n, k, weights, self.model.activation_dtype)

    def _passes(self, rows: Array, width: float, passes: float) -> Array:
        return memory_seconds(self.device, rows * (width * passes * self.activation))

    def _attention(self, layer: LayerSpec) -> Array:
        spec, context = layer.attention, self.setup.workload.context
        time = self._passes(self.tokens, self.model.hidden, NORM_PASSES) + ATTENTION_OPS * self.launch
        for gemm in spec.gemms(self.model.hidden):
            time = time + self._gemm(gemm.n, gemm.k)
        if self.setup.workload.phase == "decode":
            reach, shared_by = float(context), 1
        else:
            # A prompt's token sees the tokens before it: half the prompt on average.
            reach, shared_by = (context + 1) / 2, QUERY_TILE
        core = attention_seconds(
            self.device,
            self.tokens,
            # Decode multiplies with the compressed cache itself (MLA's absorbed form).
            spec.score_flops_per_token(reach, absorbed=self.setup.workload.phase == "decode"),
            spec.kv_bytes_read(reach, self.activation) / shared_by,
            self.model.activation_dtype,
        )
        return time + core

    def _dense(self, layer: LayerSpec) -> Array:
        time = np.zeros_like(self.tokens)
        if layer.dense_intermediate:
            inner = layer.dense_intermediate
            time = time + self._gemm((layer.ffn_matrices - 1) * inner, self.model.hidden)
            time = time + self._gemm(self.model.hidden, inner) + self._passes(self.tokens, inner, 3.0)
            time = time + 3 * self.launch
        for expert in layer.shared:
            for gemm in expert.gemms:
                time = time + self._gemm(gemm.n, gemm.k)
            time = time + self._passes(self.tokens, expert.intermediate, 3.0) + 3 * self.launch
        return time

    def _routing(self, layer: LayerSpec) -> tuple[Array, Array, Array]:
        if not layer.is_moe:
            nothing = np.zeros_like(self.tokens)
            return nothing, nothing, nothing
        kernels, width = self.setup.kernels, len(layer.experts)
        host = kernels.layer_ops * self.launch + kernels.layer_syncs * self.device.host_sync_s
        # Routers keep the activations' format when the other weights are quantised.
        scores = self._gemm(width, self.model.hidden, self.model.activation_dtype)
        gate = scores + self._passes(self.tokens, width, 4.0) + host
        copies = self.tokens * layer.top_k
        permute = self._passes(copies, self.model.hidden, kernels.permute_passes)
        unpermute = self._passes(copies, self.model.hidden, kernels.unpermute_passes)
        return gate, permute, unpermute

    def head(self) -> Array:
        """Price the language-model head: one row per decoded token or prompt."""
        rows = self.tokens
        if self.setup.workload.phase == "prefill":
            rows = np.ceil(self.tokens / max(1, self.setup.workload.context))
        return dense_seconds(
            self.device,
            rows,
            self.model.vocab,
            self.model.hidden,
            self.model.activation_dtype,
            self.model.activation_dtype,
        )
