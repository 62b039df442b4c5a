"""Prices of what each device does by itself in a step, whatever the policy decides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.engine.passes import FORWARD, Share
from moesim.engine.setup import Setup
from moesim.hardware.analytic import AnalyticCosts, AttentionShape
from moesim.hardware.spec import DTYPE_BYTES
from moesim.model.spec import AttentionSpec, LayerSpec

Array = npt.NDArray[np.float64]

GATE_STREAMS = 2
"""Kernels that turn router scores into choices: scores to weights, and top-k."""


BEFORE_DISPATCH = ("attention", "all_reduce", "dense", "gate", "permute")
"""Causes of a layer's own work that end before its dispatch, in order."""
AFTER_COMBINE = "unpermute"
"""The cause that follows its combine."""


@dataclass(frozen=True, eq=False)
class OwnCosts:
    """Seconds per transformer layer and device, [layers, devices] each.

    ``head`` is the LM head by itself, which ``dense`` of the last layer holds too.
    """

    attention: Array
    all_reduce: Array
    dense: Array
    gate: Array
    permute: Array
    unpermute: Array
    head: Array

    @property
    def total(self) -> Array:
        """Seconds over all causes, [layers, devices]."""
        return np.asarray(sum(getattr(self, cause) for cause in (*BEFORE_DISPATCH, AFTER_COMBINE)))

    def segments(self, moe_rows: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        """Sum work between collectives.

        Args:
            moe_rows: rows that are MoE layers, int64 [MoE layers].

        Returns:
            Seconds before the dispatch of each MoE layer, from the combine of the one before
            [MoE layers, devices], and seconds after the last combine [devices].
        """
        work = sum((getattr(self, cause) for cause in BEFORE_DISPATCH), np.zeros_like(self.unpermute))
        summed = np.zeros((moe_rows.size + 1, work.shape[1]))
        np.add.at(summed, np.searchsorted(moe_rows, np.arange(work.shape[0])), work)
        summed[1:] += self.unpermute[moe_rows]
        return summed[:-1], summed[-1]


def own_costs(setup: Setup, share: Share = FORWARD) -> OwnCosts:
    """Price attention, dense parts, gate, permute and unpermute for every layer of one pass.

    Args:
        setup: the tokens that are run together.
        share: which pass.
    """
    rows = len(setup.layers)
    shape = (rows, setup.cluster.size)
    costs = OwnCosts(*(np.zeros(shape) for _ in range(7)))
    devices = setup.cluster.devices
    for kind, prices in setup.prices.items():
        columns = np.asarray([i for i, device in enumerate(devices) if device == kind])
        own, together = (part[columns].astype(np.float64) for part in (setup.tokens, setup.together))
        pricer = _Pricer(setup, prices, share, own, together)
        for row, layer in enumerate(setup.layers):
            pricer.price(costs, row, columns, layer)
        if not setup.workload.moe_only:
            costs.head[rows - 1, columns] = pricer.head()
            costs.dense[rows - 1, columns] += costs.head[rows - 1, columns]
    return costs


class _Pricer:
    """Prices layers on one kind of device, each distinct layer once."""

    def __init__(self, setup: Setup, prices: AnalyticCosts, share: Share, own: Array, tokens: Array) -> None:
        self.setup = setup
        self.prices = prices
        self.share = share
        self.own = own
        self.tokens = tokens
        self.busy = np.minimum(tokens, 1.0)
        self.model = setup.model
        self.activation = DTYPE_BYTES[self.model.activation_dtype]
        self._seen: dict[tuple[object, ...], tuple[Array, ...]] = {}

    def price(self, costs: OwnCosts, row: int, columns: npt.NDArray[np.int64], layer: LayerSpec) -> None:
        """Write the prices of one layer into its row."""
        key = (layer.attention, layer.dense_intermediate, id(layer.experts), layer.shared, layer.top_k)
        if key not in self._seen:
            self._seen[key] = (
                self._attention(layer),
                self._all_reduce(layer),
                self._dense(layer),
                *self._routing(layer),
            )
        attention, summing, dense, gate, permute, unpermute = self._seen[key]
        if not self.setup.workload.moe_only:
            costs.attention[row, columns] = attention
            costs.all_reduce[row, columns] = summing
            costs.dense[row, columns] = dense
        costs.gate[row, columns] = gate
        costs.permute[row, columns] = permute
        costs.unpermute[row, columns] = unpermute

    def _gemm(self, n: float, k: float, dtype: str | None = None) -> Array:
        return self._products(self.tokens, n, k, self.model.weight_dtype if dtype is None else dtype)

    def _products(self, rows: Array, n: float, k: float, dtype: str) -> Array:
        return self.share.products * self.prices.gemm(rows, n, k, dtype)

    def _operation(self, name: str, elements: Array, times: float = 1.0) -> Array:
        return self.share.passes * self.prices.operation(name, elements, times)

    def _passes(self, rows: Array, width: float, passes: float, kernels: int = 1) -> Array:
        moved = rows * (width * passes * self.activation)
        return self.share.passes * self.prices.stream(moved, kernels * np.minimum(rows, 1.0))

    def _all_reduce(self, layer: LayerSpec) -> Array:
        """Price the sums over tensor-parallel devices: after attention, and after dense or shared parts."""
        times = (layer.attention.kind != "none") + bool(layer.dense_intermediate)
        times += bool(layer.shared) and not self.setup.summed_by_combine
        return self.share.sums * times * self.setup.all_reduce_seconds(self.tokens)

    def _attention(self, layer: LayerSpec) -> Array:
        spec, context = layer.attention, float(self.setup.workload.context)
        rows = self.tokens * self.model.hidden
        time = self._operation("norm", rows, 2) + self._operation("add", rows, 2)
        if spec.heads:
            turned = spec.rope_dim or spec.head_dim
            keys = 1 if spec.kind == "mla" else spec.kv_heads
            time = time + self._operation("rope", self.tokens * (spec.heads + keys) * turned)
        for gemm in spec.gemms(self.model.hidden):
            time = time + self._gemm(gemm.n, gemm.k)
        shape = _core(spec, self.activation)
        if self.setup.workload.phase == "decode":
            core = self.prices.attention(shape, "decode", self.tokens, self.busy, context)
        else:
            # Less than a prompt is a chunk of one, from its middle: it sees half of the rest.
            prompts = np.maximum(self.tokens / max(context, 1.0), self.busy)
            new = np.minimum(self.tokens, context)
            core = self.prices.attention(shape, "prefill", prompts, new, (new + context) / 2)
        softmax = spec.kind in ("gqa", "mla")
        return time + (self.share.core if softmax else self.share.passes) * core

    def _dense(self, layer: LayerSpec) -> Array:
        time = np.zeros_like(self.tokens)
        if layer.dense_intermediate:
            inner = layer.dense_intermediate
            mlp = self._gemm((layer.ffn_matrices - 1) * inner, self.model.hidden)
            mlp = mlp + self._gemm(self.model.hidden, inner)
            mlp = mlp + self._operation("activation", self.tokens * inner)
            time = time + mlp
        for expert in layer.shared:
            mlp = self._operation("activation", self.tokens * expert.intermediate)
            for gemm in expert.gemms:
                mlp = mlp + self._gemm(gemm.n, gemm.k, expert.dtype)
            time = time + mlp
        return time

    def _routing(self, layer: LayerSpec) -> tuple[Array, Array, Array]:
        if not layer.is_moe:
            nothing = np.zeros_like(self.tokens)
            return nothing, nothing, nothing
        kernels, width = self.setup.kernels, len(layer.experts)
        # Routers keep the activations' format when the other weights are quantised.
        scores = self._products(self.own, width, self.model.hidden, self.model.activation_dtype)
        gate = scores + self._passes(self.own, width, 4.0, GATE_STREAMS)
        reads = self.share.reads * kernels.layer_syncs
        waits = np.minimum(self.own, 1.0) * (reads * self.prices.device.host_sync_s)
        copies = self.own * layer.top_k
        permute = self._passes(copies, self.model.hidden, kernels.permute_passes)
        unpermute = self._passes(copies, self.model.hidden, kernels.unpermute_passes)
        return gate + waits, permute, unpermute

    def head(self) -> Array:
        """Price the language-model head: one row per decoded token or prompt; in training per token."""
        rows = self.tokens
        if self.setup.workload.phase == "prefill" and not self.setup.overlap.trains:
            rows = np.ceil(self.tokens / max(1, self.setup.workload.context))
        return self._products(rows, self.model.vocab, self.model.hidden, self.model.activation_dtype)


def _core(spec: AttentionSpec, activation: float) -> AttentionShape:
    """Return the attention core of a layer."""
    return AttentionShape(
        kind=spec.kind,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        v_head_dim=spec.v_head_dim,
        rope_dim=spec.rope_dim,
        kv_lora_rank=spec.kv_lora_rank,
        window=spec.sliding_window,
        key_bytes=activation,
        flops=spec.score_flops_per_token(0.0),
        state_bytes=spec.state_elements * activation,
    )
