"""One transformer layer: attention, then a dense MLP or a router with experts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from moesim.errors import InputError
from moesim.model.attention import AttentionSpec
from moesim.model.expert import ExpertSpec, Gemm


@dataclass(frozen=True)
class LayerSpec:
    """What one layer is made of; layers of one model share their attention and experts.

    Attributes:
        index: position in the model, from 0.
        attention: the token mixer.
        dense_intermediate: width of the dense MLP (0: none). A dense MLP beside the experts of the same
            layer is a shared expert instead.
        ffn_matrices: 3 for a gated dense MLP, 2 for a plain one.
        experts: every expert the router can choose, in the order of its scores; they may differ.
        shared: experts that every token takes.
        top_k: experts the router chooses per token.
    """

    index: int
    attention: AttentionSpec
    dense_intermediate: int = 0
    ffn_matrices: int = 3
    experts: tuple[ExpertSpec, ...] = field(default=(), repr=False)
    shared: tuple[ExpertSpec, ...] = ()
    top_k: int = 0

    def __post_init__(self) -> None:
        """Check that the router can choose as many experts as it should."""
        if self.experts and not 1 <= self.top_k <= len(self.experts):
            message = f"top_k is {self.top_k}, but the router chooses among {len(self.experts)} experts"
            raise InputError(message, hint=f"use 1 to {len(self.experts)}")

    @property
    def is_moe(self) -> bool:
        """Whether the layer has a router."""
        return bool(self.experts)

    @cached_property
    def exchanged(self) -> tuple[ExpertSpec, ...]:
        """The routed experts that take part in dispatch."""
        kept = tuple(expert for expert in self.experts if expert.exchanged)
        return self.experts if len(kept) == len(self.experts) else kept

    @cached_property
    def routed_params(self) -> int:
        """Parameters of all routed experts."""
        return sum(expert.params for expert in self.experts)

    @cached_property
    def active_routed_params(self) -> float:
        """Parameters of routed experts per token: ``top_k`` times their mean, that is, even routing."""
        return self.top_k * self.routed_params / len(self.experts) if self.experts else 0.0

    @cached_property
    def routed_flops(self) -> float:
        """FLOPs of routed experts per token under even routing."""
        if not self.experts:
            return 0.0
        return self.top_k * sum(expert.flops_per_token for expert in self.experts) / len(self.experts)

    @cached_property
    def exchanged_bytes(self) -> int:
        """Bytes of the experts that take part in dispatch, the part that expert parallelism shards."""
        return sum(expert.bytes for expert in self.exchanged)

    def dense_gemms(self, hidden: int) -> tuple[Gemm, ...]:
        """Matrices of the dense MLP, gate and up fused."""
        if not self.dense_intermediate:
            return ()
        wide = (self.ffn_matrices - 1) * self.dense_intermediate
        return (Gemm(wide, hidden), Gemm(hidden, self.dense_intermediate))

    def router_gemm(self, hidden: int) -> Gemm:
        """The router's score matrix (no rows where there is no router)."""
        return Gemm(len(self.experts), hidden)
