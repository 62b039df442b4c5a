"""What mixes tokens with their past: matrices, score FLOPs and the memory kept per token.

Sources of the formulas: multi-head latent attention after the DeepSeek-V2 report (arXiv 2405.04434),
Mamba-1 blocks after arXiv 2312.00752, linear attention with an output gate after the MiniMax-01 report
(arXiv 2501.08313) and Gated DeltaNet (arXiv 2412.06464). Norms inside attention, attention biases and
per-head decay projections are left out: together below 0.03 % of any catalogue model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from moesim.errors import InputError, unknown_name
from moesim.model.expert import Gemm

ATTENTION_KINDS: Final = ("gqa", "mla", "linear", "mamba", "none")


@dataclass(frozen=True)
class AttentionSpec:
    """One layer's token mixer.

    Attributes:
        kind: ``gqa`` (softmax attention with grouped KV heads, MHA and MQA included), ``mla``, ``linear``
            (a matrix state per head), ``mamba`` or ``none``.
        heads: query heads; for ``linear`` the value heads.
        kv_heads: KV heads; for ``linear`` the key heads.
        head_dim: width of a query or key head; for ``mla`` the part without rotary positions.
        v_head_dim: width of a value head (0: as ``head_dim``).
        rope_dim: ``mla``: width of the rotary part, shared by all heads on the key side.
        q_lora_rank: ``mla``: rank of the query compression (0: none).
        kv_lora_rank: ``mla``: rank of the cached latent.
        sliding_window: tokens that a query can see (None: all).
        output_gate: whether a gate as wide as the value multiplies the output.
        inner: ``mamba``: width of the inner stream.
        state: ``mamba``: states per inner channel.
        conv: taps of the short convolution (``mamba``, ``linear``; 0: none).
        dt_rank: ``mamba``: rank of the step-size projection.
    """

    kind: str
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    v_head_dim: int = 0
    rope_dim: int = 0
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    sliding_window: int | None = None
    output_gate: bool = False
    inner: int = 0
    state: int = 0
    conv: int = 0
    dt_rank: int = 0

    def __post_init__(self) -> None:
        """Check the kind and that the heads can be grouped."""
        if self.kind not in ATTENTION_KINDS:
            raise unknown_name("kind of attention", self.kind, ATTENTION_KINDS)
        if self.kind in ("gqa", "linear") and (self.kv_heads < 1 or self.heads % self.kv_heads):
            message = f"{self.heads} attention heads cannot share {self.kv_heads} KV heads evenly"
            raise InputError(message)

    @property
    def value_dim(self) -> int:
        """Width of one value head."""
        return self.v_head_dim or self.head_dim

    def gemms(self, hidden: int) -> tuple[Gemm, ...]:
        """Projections applied to every token of width ``hidden``; query, key and value are fused."""
        out = Gemm(hidden, self.heads * self.value_dim)
        if self.kind == "gqa":
            gate = self.heads * self.value_dim if self.output_gate else 0
            wide = self.heads * self.head_dim + gate + self.kv_heads * (self.head_dim + self.value_dim)
            return (Gemm(wide, hidden), out)
        if self.kind == "mla":
            query = self.heads * (self.head_dim + self.rope_dim)
            down = (Gemm(self.q_lora_rank, hidden), Gemm(query, self.q_lora_rank))
            return (
                *(down if self.q_lora_rank else (Gemm(query, hidden),)),
                Gemm(self.kv_lora_rank + self.rope_dim, hidden),
                Gemm(self.heads * (self.head_dim + self.value_dim), self.kv_lora_rank),
                out,
            )
        if self.kind == "linear":
            value = self.heads * self.value_dim * (2 if self.output_gate else 1)
            return (Gemm(2 * self.kv_heads * self.head_dim + value, hidden), out)
        if self.kind == "mamba":
            return (
                Gemm(2 * self.inner, hidden),
                Gemm(self.dt_rank + 2 * self.state, self.inner),
                Gemm(self.inner, self.dt_rank),
                Gemm(hidden, self.inner),
            )
        return ()

    def sharded(self, parts: int) -> AttentionSpec:
        """Return one device's share when heads are split over ``parts`` devices (tensor parallelism).

        Fewer KV heads than devices are kept whole on several of them; latents are kept on all.

        Raises:
            InputError: the heads, or the inner width of ``mamba``, cannot be split evenly.
        """
        if parts == 1 or self.kind == "none":
            return self
        if self.heads % parts or self.inner % parts:
            what = f"{self.heads} attention heads" if self.heads else f"an inner width of {self.inner}"
            message = f"{what} cannot be split over {parts} devices evenly"
            raise InputError(message)
        kv_heads = max(1, self.kv_heads // parts) if self.kv_heads else 0
        if kv_heads and (self.heads // parts) % kv_heads:
            message = f"{self.kv_heads} KV heads cannot be split over {parts} devices evenly"
            raise InputError(message)
        return replace(self, heads=self.heads // parts, kv_heads=kv_heads, inner=self.inner // parts)

    def params(self, hidden: int) -> int:
        """Parameters: the projections, plus convolution and state matrices where there are any."""
        total = sum(gemm.weights for gemm in self.gemms(hidden))
        if self.kind == "mamba":
            # convolution with bias, step bias, A and D, and the three norms of Jamba's blocks
            total += self.inner * (self.conv + 3 + self.state) + self.dt_rank + 2 * self.state
        elif self.kind == "linear":
            total += self._channels * self.conv
        return total

    @property
    def _channels(self) -> int:
        return 2 * self.kv_heads * self.head_dim + self.heads * self.value_dim

    @cached_property
    def kv_elements_per_token(self) -> int:
        """Elements that every cached token adds (no window applied); 0 where a state replaces them."""
        if self.kind == "gqa":
            return self.kv_heads * (self.head_dim + self.value_dim)
        return self.kv_lora_rank + self.rope_dim if self.kind == "mla" else 0

    @cached_property
    def state_elements(self) -> int:
        """Elements of the fixed-size state of one sequence (``linear``, ``mamba``)."""
        if self.kind == "linear":
            return self.heads * self.head_dim * self.value_dim + self._channels * max(self.conv - 1, 0)
        return self.inner * (self.state + max(self.conv - 1, 0)) if self.kind == "mamba" else 0

    def visible(self, context: float) -> float:
        """Return how many of ``context`` past tokens a query sees."""
        return context if self.sliding_window is None else min(context, float(self.sliding_window))

    def score_flops_per_token(self, context: float, absorbed: bool = False) -> float:
        """FLOPs of scores and weighted values for one query token, two per multiply-accumulate.

        Args:
            context: past tokens attended to (for causal prefill, the mean over its tokens).
            absorbed: ``mla`` only: attend in the latent space, as decoding does; the projections cost
                the same either way because the up-projections move to the query and the output.
        """
        if self.kind == "gqa":
            return 2.0 * self.visible(context) * self.heads * (self.head_dim + self.value_dim)
        if self.kind == "mla":
            plain = self.head_dim + self.rope_dim + self.value_dim
            wide = 2 * self.kv_lora_rank + self.rope_dim if absorbed else plain
            return 2.0 * self.visible(context) * self.heads * wide
        if self.kind == "linear":  # one update and one read of the state, convolution taps
            return 4.0 * self.heads * self.head_dim * self.value_dim + 2.0 * self._channels * self.conv
        if self.kind == "mamba":  # decay, input and read of every state, convolution taps
            return 6.0 * self.inner * self.state + 2.0 * self.inner * self.conv
        return 0.0

    def kv_bytes_read(self, context: float, dtype_bytes: float) -> float:
        """Bytes of cache or state that one decoded token reads."""
        return (self.kv_elements_per_token * self.visible(context) + self.state_elements) * dtype_bytes
