"""One expert as a first-class thing: its own kind, matrices, FLOPs and bytes.

Everything else in the package asks an expert what it costs and whether tokens travel to it. So shared,
low-rank, zero-cost and pruned experts are data here and need no case of their own elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, NamedTuple

from moesim.errors import InputError, unknown_name
from moesim.model.formats import element_bytes, stored_bytes

EXPERT_KINDS: Final = ("ffn", "shared", "low_rank", "zero", "copy", "constant", "external")
LOCAL_KINDS: Final = frozenset({"shared", "zero", "copy", "constant"})
"""Kinds that every device holds itself, so that no token travels to them."""


class Gemm(NamedTuple):
    """One matrix applied to every token: ``n`` output features from ``k`` input features."""

    n: int
    k: int

    @property
    def weights(self) -> int:
        """Elements of the matrix."""
        return self.n * self.k

    @property
    def flops_per_token(self) -> float:
        """Two FLOPs per multiply-accumulate."""
        return 2.0 * self.n * self.k


@dataclass(frozen=True)
class ExpertSpec:
    """What one expert computes for a token and what it weighs.

    Attributes:
        kind: one of ``EXPERT_KINDS``.
        hidden: width of the token that enters and leaves.
        intermediate: width of the hidden activation (0 where there is none).
        gemms: matrices in the order they run; gate and up projections are one fused matrix.
        params: stored parameters, biases included.
        dtype: format in which they are stored.
    """

    kind: str
    hidden: int
    intermediate: int
    gemms: tuple[Gemm, ...]
    params: int
    dtype: str = "bf16"

    def __post_init__(self) -> None:
        """Check kind, format and signs."""
        if self.kind not in EXPERT_KINDS:
            raise unknown_name("kind of expert", self.kind, EXPERT_KINDS)
        element_bytes(self.dtype)
        if min(self.hidden, self.intermediate, self.params, *(min(g) for g in self.gemms)) < 0:
            message = "an expert cannot have a negative width or parameter count"
            raise InputError(message)

    @cached_property
    def bytes(self) -> int:
        """Bytes of the stored weights."""
        return stored_bytes(self.params, self.dtype)

    @cached_property
    def flops_per_token(self) -> float:
        """FLOPs for one token, two per multiply-accumulate; activation functions are not counted."""
        return float(sum(gemm.flops_per_token for gemm in self.gemms))

    @property
    def exchanged(self) -> bool:
        """Whether tokens are dispatched to the device that holds it."""
        return self.kind not in LOCAL_KINDS

    def with_dtype(self, dtype: str) -> ExpertSpec:
        """Return the same expert stored in another format."""
        return replace(self, dtype=dtype)

    def sharded(self, parts: int) -> ExpertSpec:
        """Return one device's share when the hidden activation is split over ``parts`` devices.

        Matrices into the activation keep a part of their outputs, the one out of it a part of its inputs.

        Raises:
            InputError: the width cannot be split evenly.
        """
        if parts == 1 or not self.intermediate:
            return self
        if self.intermediate % parts:
            message = f"an expert of width {self.intermediate} cannot be split over {parts} devices evenly"
            raise InputError(message)
        low_rank = self.kind == "low_rank"
        gemms = list(self.gemms)
        for place in range(1, len(gemms) - 2, 2) if low_rank else range(len(gemms) - 1):
            gemms[place] = Gemm(gemms[place].n // parts, gemms[place].k)
        last = len(gemms) - 2 if low_rank else len(gemms) - 1
        gemms[last] = Gemm(gemms[last].n, gemms[last].k // parts)
        kept = sum(gemm.weights for gemm in gemms) / max(1, sum(gemm.weights for gemm in self.gemms))
        params = math.ceil(self.params * kept)
        return replace(self, intermediate=self.intermediate // parts, gemms=tuple(gemms), params=params)

    @classmethod
    def gated(
        cls, hidden: int, intermediate: int, *, bias: bool = False, dtype: str = "bf16", kind: str = "ffn"
    ) -> ExpertSpec:
        """Build a gated MLP (SwiGLU and its kin): gate and up [2H, D], down [D, H].

        ``3 D H`` weights and ``6 D H`` FLOPs; biases add ``2 H + D`` parameters.
        """
        params = 3 * hidden * intermediate + (2 * intermediate + hidden if bias else 0)
        gemms = (Gemm(2 * intermediate, hidden), Gemm(hidden, intermediate))
        return cls(kind, hidden, intermediate, gemms, params, dtype)

    @classmethod
    def plain(
        cls, hidden: int, intermediate: int, *, bias: bool = False, dtype: str = "bf16", kind: str = "ffn"
    ) -> ExpertSpec:
        """Build a two-matrix MLP: ``2 D H`` weights and ``4 D H`` FLOPs; biases add ``H + D``."""
        params = 2 * hidden * intermediate + (intermediate + hidden if bias else 0)
        gemms = (Gemm(intermediate, hidden), Gemm(hidden, intermediate))
        return cls(kind, hidden, intermediate, gemms, params, dtype)

    @classmethod
    def low_rank(
        cls, hidden: int, intermediate: int, rank: int, *, matrices: int = 3, dtype: str = "bf16"
    ) -> ExpertSpec:
        """Build an expert whose matrices are products of rank ``rank`` (FlexMoRE, LoRA experts).

        ``matrices * rank * (D + H)`` weights, twice that many FLOPs per token. A base MLP that all such
        experts refine is a shared expert of the layer.
        """
        up = (Gemm(rank, hidden), Gemm(intermediate, rank)) * (matrices - 1)
        gemms = (*up, Gemm(rank, intermediate), Gemm(hidden, rank))
        return cls("low_rank", hidden, intermediate, gemms, sum(g.weights for g in gemms), dtype)

    @classmethod
    def zero(cls, hidden: int, *, kind: str = "zero", dtype: str = "bf16") -> ExpertSpec:
        """Build an expert that returns nothing (``zero``), its input (``copy``) or a learned blend.

        The ``constant`` expert of MoE++ mixes the input with one trainable vector by a softmax over two
        scores: ``3 D`` parameters and one ``[2, D]`` product.
        """
        if kind == "constant":
            return cls(kind, hidden, 0, (Gemm(2, hidden),), 3 * hidden, dtype)
        if kind not in ("zero", "copy"):
            raise unknown_name("kind of zero-cost expert", kind, ("zero", "copy", "constant"))
        return cls(kind, hidden, 0, (), 0, dtype)
