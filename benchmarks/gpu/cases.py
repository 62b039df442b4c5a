"""What is timed: shapes that MoE models have, spread over what cost models have to tell apart. No torch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

FAMILIES = ("gemm", "moe", "memory", "permute", "copy_h2d", "copy_d2h", "launch", "host_sync")

WEIGHTS = (  # n, k of dense layers of models, from small to large
    (512, 2048),
    (2048, 7168),
    (4096, 4096),
    (7168, 2048),
    (14336, 4096),
    (4096, 14336),
    (28672, 8192),
)
ROWS = (1, 16, 64, 256, 1024, 4096, 16384)

LAYERS = (  # hidden, inter, topk, experts on the device: many small ones, then few large ones
    (2048, 768, 8, 128),
    (7168, 2048, 8, 32),
    (4096, 1536, 8, 32),
    (4096, 14336, 2, 8),
    (6144, 16384, 2, 4),
)
TOKENS = (16, 64, 256, 1024, 4096, 16384)
LOADS = ("balanced", "power_law", "hot")
FP8_BACKENDS = ("own/triton", "torch/loop")

MIB = 2**20


@dataclass(frozen=True)
class Case:
    """One timing to take.

    Attributes:
        family, dtype, backend: as in the file of timings.
        shape: the family's columns.
        counts: rows of every expert on the device, of family ``moe``.
    """

    family: str
    dtype: str
    backend: str
    shape: dict[str, int | str] = field(hash=False)
    counts: tuple[int, ...] = ()

    def columns(self) -> dict[str, str]:
        """Return the case's columns of the file."""
        told = {name: str(value) for name, value in self.shape.items()}
        if self.counts:
            told["counts"] = ";".join(map(str, self.counts))
        return {"family": self.family, "dtype": self.dtype, "backend": self.backend, **told}

    def __str__(self) -> str:
        """Show the case on one line."""
        shape = " ".join(f"{name}={value}" for name, value in self.shape.items())
        skew = f" fullest={max(self.counts)}" if self.counts else ""
        return f"{self.family} {self.dtype} {self.backend} {shape}{skew}"


def gpu_cases(backends: list[str], *, quick: bool, fp8: bool) -> list[Case]:
    """List the cases of a GPU.

    Args:
        backends: of family ``moe``, those that this machine has.
        quick: about a fifth of the cases.
        fp8: whether the GPU multiplies 8-bit floats.
    """
    cases = [
        *_gemms(quick=quick, fp8=fp8),
        *_layers("bf16", backends, quick=quick),
        *(_layers("fp8", [name for name in backends if name in FP8_BACKENDS], quick=quick) if fp8 else ()),
        *_moves(quick=quick),
    ]
    cases += [Case("launch", "-", "torch", {"kernels": 100, "graph": graph}) for graph in ("no", "yes")]
    cases.append(Case("host_sync", "-", "torch", {}))
    return cases


def smoke_cases() -> list[Case]:
    """List a few tiny cases that show on any CPU that everything works; their times mean nothing."""
    cases = [
        Case("gemm", "fp32", "torch", {"m": m, "n": n, "k": k})
        for m in (8, 64, 256)
        for n, k in ((256, 256), (256, 512), (512, 512), (1024, 512))
    ]
    for tokens in (4, 8, 12, 16, 24, 32, 48, 64, 96, 128):
        counts = draw_counts("balanced", tokens, 2, 4)
        shape = {"hidden": 128, "inter": 256, "topk": 2, "experts": 4, "ep": 1, "tokens": tokens}
        cases.append(Case("moe", "bf16", "torch/loop", shape, counts))
    cases += [Case("memory", "-", "torch/copy", {"bytes": size * MIB}) for size in (2, 4, 8, 16, 32)]
    cases += [
        Case("permute", "fp32", f"torch/{name}", {"tokens": tokens, "hidden": 512, "topk": 2})
        for name in ("index_select", "index_add")
        for tokens in (256, 512, 1024, 2048)
    ]
    return cases


def draw_counts(load: str, tokens: int, topk: int, experts: int) -> tuple[int, ...]:
    """Draw rows per expert.

    Args:
        load: ``balanced``; ``power_law``: shares from a power law with exponent 1.2; ``hot``: nine of
            ten tokens want the same expert.
        tokens: tokens on the device.
        topk: experts per token.
        experts: experts on the device.
    """
    pairs = tokens * topk
    chance = random.Random(f"{load} {tokens} {topk} {experts}")
    if load == "balanced":
        shares = [1.0] * experts
    elif load == "hot":
        shares = [0.9 * tokens] + [(pairs - 0.9 * tokens) / (experts - 1)] * (experts - 1)
    else:
        power, high = 1.0 - 1.2, max(0.8 * tokens, 2.0)
        shares = [((high**power - 1.0) * chance.random() + 1.0) ** (1.0 / power) for _ in range(experts)]
    return tuple(_whole(shares, pairs, tokens, chance))


def _whole(shares: list[float], pairs: int, limit: int, chance: random.Random) -> list[int]:
    """Deal pairs out by shares, none above the limit; what is left over goes to random experts with room."""
    total = sum(shares)
    counts = [min(int(pairs * share / total), limit) for share in shares]
    left = pairs - sum(counts)
    while left > 0:
        room = [place for place, count in enumerate(counts) if count < limit]
        for place in chance.sample(room, min(left, len(room))):
            counts[place] += 1
            left -= 1
    return counts


def _gemms(*, quick: bool, fp8: bool) -> Iterator[Case]:
    dtypes = ["bf16"] if quick else ["bf16", "fp16"]
    for dtype in [*dtypes, *(["fp8"] if fp8 else [])]:
        for n, k in WEIGHTS[1:5:2] if quick else WEIGHTS:
            for m in ROWS:
                yield Case("gemm", dtype, "torch", {"m": m, "n": n, "k": k})


def _layers(dtype: str, backends: list[str], *, quick: bool) -> Iterator[Case]:
    for hidden, inter, topk, experts in LAYERS[::3] if quick else LAYERS:
        for tokens in TOKENS[::2] if quick else TOKENS:
            for load in LOADS[:2] if quick else LOADS:
                counts = draw_counts(load, tokens, topk, experts)
                shape: dict[str, int | str] = {"hidden": hidden, "inter": inter, "topk": topk}
                shape |= {"experts": experts, "ep": 1, "tokens": tokens}
                for backend in backends:
                    yield Case("moe", dtype, backend, shape, counts)


def _moves(*, quick: bool) -> Iterator[Case]:
    sizes = (8, 32, 128, 512) if quick else (2, 8, 32, 128, 512)
    for backend in ("torch/copy", "torch/triad"):
        for size in sizes:
            yield Case("memory", "-", backend, {"bytes": 6 * size * MIB})
    for hidden in (7168,) if quick else (2048, 7168):
        for tokens in (256, 1024, 4096, 16384):
            for backend in ("torch/index_select", "torch/index_add"):
                yield Case("permute", "bf16", backend, {"tokens": tokens, "hidden": hidden, "topk": 8})
    for family in ("copy_h2d", "copy_d2h"):
        for pinned in ("yes", "no"):
            for power in (12, 16, 20, 24, 28) if quick else range(12, 30, 2):
                yield Case(family, "-", "torch", {"bytes": 2**power, "pinned": pinned})
