"""What each case runs: a function without arguments over tensors that are made once."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from cases import Case
from torch.nn import functional

Run = Callable[[], object]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def moe_backends(device: torch.device) -> list[str]:
    """Return the ways to run expert layers that this machine has."""
    found = ["torch/loop"]
    if device.type == "cuda":
        if hasattr(torch, "_grouped_mm"):
            found.append("torch/cutlass")
        if importlib.util.find_spec("triton") is not None:
            found.append("own/triton")
        if importlib.util.find_spec("vllm") is not None:
            found.append("vllm/triton")
    return found


def prepare(case: Case, device: torch.device) -> Run:
    """Return what the case runs."""
    make = {
        "gemm": _gemm,
        "moe": _layer,
        "memory": _memory,
        "permute": _permute,
        "copy_h2d": _copy,
        "copy_d2h": _copy,
    }[case.family]
    return make(case, device)


def fp8_rate(device: torch.device) -> bool:
    """Tell whether the GPU multiplies 8-bit floats."""
    return (
        device.type == "cuda"
        and hasattr(torch, "_scaled_mm")
        and torch.cuda.get_device_capability(device) >= (8, 9)
    )


def _random(shape: tuple[int, ...], dtype: str, device: torch.device) -> torch.Tensor:
    if dtype == "fp8":
        values = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(std=0.5)
        return values.to(torch.float8_e4m3fn)
    return torch.empty(shape, dtype=DTYPES[dtype], device=device).normal_(std=0.1)


def _product(rows: torch.Tensor, weights: torch.Tensor, one: torch.Tensor | None) -> torch.Tensor:
    """Return rows [m, k] times transposed weights [n, k]."""
    if one is None:
        return rows @ weights.t()
    return torch._scaled_mm(rows, weights.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


def _gemm(case: Case, device: torch.device) -> Run:
    m, n, k = (int(case.shape[name]) for name in ("m", "n", "k"))
    rows, weights = _random((m, k), case.dtype, device), _random((n, k), case.dtype, device)
    one = torch.ones((), device=device) if case.dtype == "fp8" else None
    return lambda: _product(rows, weights, one)


def _layer(case: Case, device: torch.device) -> Run:
    """Gather rows by expert, both GEMMs with a gated activation between, weighted sum per token."""
    hidden, inter, topk = (int(case.shape[name]) for name in ("hidden", "inter", "topk"))
    experts, pairs = len(case.counts), sum(case.counts)
    wide = torch.bfloat16
    tokens = _random((pairs // topk, hidden), "bf16", device)
    up = _random((experts, 2 * inter, hidden), case.dtype, device)
    down = _random((experts, hidden, inter), case.dtype, device)
    # pairs of one expert come from tokens that differ, as top-k routing has it
    of_token = torch.cat([torch.randperm(len(tokens))[:count] for count in case.counts]).to(device)
    share = torch.full((pairs, 1), 1.0 / topk, dtype=wide, device=device)
    out = torch.zeros_like(tokens)
    if case.backend == "vllm/triton":
        return _vllm(tokens, up, down, of_token, case, topk)
    grouped = _grouped(case, device)

    def narrow(values: torch.Tensor) -> torch.Tensor:
        return values.to(torch.float8_e4m3fn) if case.dtype == "fp8" else values

    def run() -> torch.Tensor:
        rows = narrow(tokens.index_select(0, of_token))
        gate, value = grouped(rows, up).chunk(2, dim=-1)
        result = grouped(narrow(functional.silu(gate) * value), down)
        return out.zero_().index_add_(0, of_token, result * share)

    return run


def _grouped(case: Case, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return what multiplies rows sorted by expert with the weights of their experts."""
    if case.backend == "own/triton":
        from grouped_triton import Blocks

        return Blocks(case.counts, device).multiply
    if case.backend == "torch/cutlass":
        ends = torch.tensor(case.counts, device=device).cumsum(0).to(torch.int32)
        return lambda rows, weights: torch._grouped_mm(rows, weights.transpose(1, 2), offs=ends)
    one = torch.ones((), device=device) if case.dtype == "fp8" else None
    parts = [(number, count) for number, count in enumerate(case.counts) if count]
    sizes = [count for _, count in parts]

    def loop(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        pieces = zip(rows.split(sizes), parts, strict=True)
        return torch.cat([_product(piece, weights[number], one) for piece, (number, _) in pieces])

    return loop


def _vllm(tokens, up, down, of_token, case: Case, topk: int) -> Run:
    """Return vLLM's fused layer; it takes expert numbers per token, so pairs are dealt out in turn."""
    from vllm.model_executor.layers.fused_moe import fused_experts

    pairs = sum(case.counts)
    expert = torch.repeat_interleave(torch.arange(len(case.counts)), torch.tensor(case.counts))
    # sorted pairs dealt out with a stride give every token different experts
    ids = expert.view(topk, pairs // topk).t().contiguous().to(torch.int32).to(tokens.device)
    share = torch.full(ids.shape, 1.0 / topk, dtype=torch.float32, device=tokens.device)
    rows = tokens[: len(ids)].contiguous()
    return lambda: fused_experts(rows, up, down, share, ids)


def _memory(case: Case, device: torch.device) -> Run:
    arrays = 2 if case.backend == "torch/copy" else 3
    size = int(case.shape["bytes"]) // (4 * arrays)
    first, second, third = (torch.ones(size if used else 0, device=device) for used in (1, 1, arrays == 3))
    if arrays == 2:
        return lambda: first.copy_(second)
    return lambda: torch.add(second, third, alpha=1.5, out=first)


def _permute(case: Case, device: torch.device) -> Run:
    tokens, hidden, topk = (int(case.shape[name]) for name in ("tokens", "hidden", "topk"))
    values = _random((tokens, hidden), case.dtype, device)
    index = torch.randperm(tokens * topk, device=device) % tokens
    copies = _random((tokens * topk, hidden), case.dtype, device)
    if case.backend == "torch/index_select":
        return lambda: torch.index_select(values, 0, index, out=copies)
    return lambda: values.index_add_(0, index, copies)


def _copy(case: Case, device: torch.device) -> Run:
    size, pinned = int(case.shape["bytes"]), case.shape["pinned"] == "yes"
    host = torch.ones(size, dtype=torch.uint8, pin_memory=pinned)
    there = torch.ones(size, dtype=torch.uint8, device=device)
    if case.family == "copy_h2d":
        return lambda: there.copy_(host, non_blocking=pinned)
    return lambda: host.copy_(there, non_blocking=pinned)
