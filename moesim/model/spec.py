"""The whole model: its layers, embeddings and the accounting of parameters, bytes and FLOPs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from moesim.errors import InputError, unknown_name
from moesim.model.attention import AttentionSpec
from moesim.model.expert import ExpertSpec, Gemm
from moesim.model.formats import element_bytes, stored_bytes
from moesim.model.layer import LayerSpec

__all__ = ["CONVENTIONS", "AttentionSpec", "ExpertSpec", "Gemm", "LayerSpec", "ModelSpec", "Reported"]

CONVENTIONS: Final = ("with_embeddings", "without_input_embedding", "without_embeddings")
"""What published "active parameters" may count; vendors differ, so every figure names one."""


@dataclass(frozen=True)
class Reported:
    """What the vendor says, to be compared with what the formulas give.

    Attributes:
        total: parameters in all (None: not published).
        active: parameters per token (None: not published).
        convention: what ``active`` counts, one of ``CONVENTIONS``.
        exception: why ``total`` may differ by more than 0.5 % (empty: it does not).
        active_exception: why ``active`` may differ by more than 2 %, the rounding of most reports.
    """

    total: float | None = None
    active: float | None = None
    convention: str = "with_embeddings"
    exception: str = ""
    active_exception: str = ""

    def __post_init__(self) -> None:
        """Check the convention's name."""
        if self.convention not in CONVENTIONS:
            raise unknown_name("convention", self.convention, CONVENTIONS)


@dataclass(frozen=True)
class ModelSpec:
    """A decoder-only MoE model. Counts leave out multi-token-prediction layers and vision towers.

    Attributes:
        name: catalogue name or the name of the configuration.
        hidden: width of a token.
        vocab: rows of the embedding.
        tie_embeddings: whether the LM head is the input embedding.
        layers: all layers in order.
        weight_dtype: format of attention and dense matrices; each expert has its own.
        activation_dtype: format of activations, KV cache, embeddings, router and norms.
        n_group: groups of experts in group-limited routing.
        topk_group: groups that a token may take experts from; 0 for all of them.
        source: where the dimensions come from.
        reported: published counts.
    """

    name: str
    hidden: int
    vocab: int
    tie_embeddings: bool
    layers: tuple[LayerSpec, ...] = field(repr=False)
    weight_dtype: str = "bf16"
    activation_dtype: str = "bf16"
    n_group: int = 1
    topk_group: int = 0
    source: str = ""
    reported: Reported = field(default_factory=Reported)

    def __post_init__(self) -> None:
        """Check formats and that there is something to route."""
        element_bytes(self.weight_dtype)
        element_bytes(self.activation_dtype)
        if not self.moe_layers:
            message = f"model '{self.name}' has no layer with experts"
            raise InputError(message)

    @cached_property
    def moe_layers(self) -> tuple[LayerSpec, ...]:
        """Layers with a router."""
        return tuple(layer for layer in self.layers if layer.is_moe)

    @cached_property
    def experts(self) -> int:
        """Routed experts per MoE layer that take part in dispatch (the most of any layer)."""
        return max(len(layer.exchanged) for layer in self.moe_layers)

    @cached_property
    def top_k(self) -> int:
        """Experts that the router chooses per token (the most of any layer)."""
        return max(layer.top_k for layer in self.moe_layers)

    @cached_property
    def expert_bytes(self) -> int:
        """Bytes of one routed expert, the largest where they differ."""
        return max((expert.bytes for layer in self.moe_layers for expert in layer.exchanged), default=0)

    @cached_property
    def token_bytes(self) -> int:
        """Bytes of one token's activation."""
        return math.ceil(self.hidden * element_bytes(self.activation_dtype))

    @property
    def embedding_params(self) -> int:
        """Parameters of one embedding matrix."""
        return self.vocab * self.hidden

    @property
    def lm_head(self) -> Gemm:
        """The matrix from tokens to vocabulary scores."""
        return Gemm(self.vocab, self.hidden)

    @cached_property
    def _plain_params(self) -> int:
        """Attention and dense MLPs, what ``weight_dtype`` stores."""
        return sum(
            layer.attention.params(self.hidden) + sum(g.weights for g in layer.dense_gemms(self.hidden))
            for layer in self.layers
        )

    @cached_property
    def _wide_params(self) -> int:
        """Routers and two norms per layer plus the last one; no released checkpoint quantises them."""
        routers = sum(layer.router_gemm(self.hidden).weights for layer in self.layers)
        return routers + self.hidden * (2 * len(self.layers) + 1)

    @cached_property
    def _shared_params(self) -> int:
        return sum(expert.params for layer in self.layers for expert in layer.shared)

    @cached_property
    def total_params(self) -> int:
        """All parameters: embeddings, attention, dense, shared and routed experts, routers, norms."""
        embeddings = self.embedding_params * (1 if self.tie_embeddings else 2)
        routed = sum(layer.routed_params for layer in self.layers)
        return embeddings + self._plain_params + self._wide_params + self._shared_params + routed

    def active_params(self, convention: str = "with_embeddings") -> float:
        """Parameters that one token uses under even routing.

        Args:
            convention: ``with_embeddings`` counts both embedding matrices (one if tied),
                ``without_input_embedding`` the LM head only, ``without_embeddings`` neither.

        Raises:
            InputError: unknown convention.
        """
        if convention not in CONVENTIONS:
            raise unknown_name("convention", convention, CONVENTIONS)
        matrices = {"with_embeddings": 1 if self.tie_embeddings else 2, "without_input_embedding": 1}
        routed = sum(layer.active_routed_params for layer in self.layers)
        inner = self._plain_params + self._wide_params + self._shared_params + routed
        return inner + self.embedding_params * matrices.get(convention, 0)

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of all weights as stored."""
        return self.resident_bytes + sum(layer.exchanged_bytes for layer in self.layers)

    @cached_property
    def resident_bytes(self) -> int:
        """Bytes of all weights except the routed experts that take part in dispatch."""
        wide = self._wide_params + self.embedding_params * (1 if self.tie_embeddings else 2)
        wider = max(self.weight_dtype, self.activation_dtype, key=element_bytes)
        local = sum(
            expert.bytes
            for layer in self.layers
            for expert in (*layer.shared, *(e for e in layer.experts if not e.exchanged))
        )
        return stored_bytes(wide, wider) + stored_bytes(self._plain_params, self.weight_dtype) + local

    def kv_bytes_per_token(self, context: int | None = None) -> float:
        """Bytes of KV cache per token over all layers.

        Args:
            context: tokens in the sequence; then layers with a sliding window keep only their window and
                the mean per token is given. None counts every token in every layer.
        """
        size = element_bytes(self.activation_dtype)
        if context is None:
            return size * sum(layer.attention.kv_elements_per_token for layer in self.layers)
        if context < 1:
            message = f"a context has at least one token, got {context}"
            raise InputError(message)
        kept = sum(
            layer.attention.kv_elements_per_token * layer.attention.visible(context) for layer in self.layers
        )
        return size * kept / context

    def sequence_bytes(self, context: int) -> float:
        """Bytes that one sequence of ``context`` tokens keeps: KV cache and fixed-size states."""
        states = sum(layer.attention.state_elements for layer in self.layers)
        cache = self.kv_bytes_per_token(context) * context if context else 0.0
        return cache + states * element_bytes(self.activation_dtype)

    def flops_per_token(self, context: float = 0.0, absorbed: bool = False) -> Mapping[str, float]:
        """FLOPs of one token by part, two per multiply-accumulate, experts under even routing.

        Args:
            context: past tokens that attention sees.
            absorbed: how multi-head latent attention runs, see ``AttentionSpec.score_flops_per_token``.
        """
        layers, hidden = self.layers, self.hidden
        return {
            "attention_projections": sum(
                g.flops_per_token for layer in layers for g in layer.attention.gemms(hidden)
            ),
            "attention_scores": sum(x.attention.score_flops_per_token(context, absorbed) for x in layers),
            "dense": sum(g.flops_per_token for layer in layers for g in layer.dense_gemms(hidden)),
            "shared": sum(e.flops_per_token for layer in layers for e in layer.shared),
            "routed": sum(layer.routed_flops for layer in layers),
            "router": sum(layer.router_gemm(hidden).flops_per_token for layer in layers),
            "lm_head": self.lm_head.flops_per_token,
        }

    def with_layers(self, count: int) -> ModelSpec:
        """Return the model cut to its first ``count`` layers.

        Raises:
            InputError: more layers than there are, or none of those kept has experts.
        """
        first = self.moe_layers[0].index + 1
        if not first <= count <= len(self.layers):
            message = f"cannot keep {count} layers of '{self.name}'"
            hint = f"use {first} to {len(self.layers)}; the first layer with experts is number {first}"
            raise InputError(message, hint=hint)
        return replace(self, layers=self.layers[:count])

    def with_dtype(self, weight_dtype: str) -> ModelSpec:
        """Return the model with all attention, dense and expert weights stored in one format."""
        seen: dict[int, tuple[ExpertSpec, ...]] = {}

        def stored(experts: tuple[ExpertSpec, ...]) -> tuple[ExpertSpec, ...]:
            if id(experts) not in seen:
                each = {expert: expert.with_dtype(weight_dtype) for expert in set(experts)}
                seen[id(experts)] = tuple(each[expert] for expert in experts)
            return seen[id(experts)]

        layers = tuple(replace(x, experts=stored(x.experts), shared=stored(x.shared)) for x in self.layers)
        return replace(self, layers=layers, weight_dtype=weight_dtype)
