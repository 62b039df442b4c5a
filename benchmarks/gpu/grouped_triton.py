"""A grouped GEMM in Triton: rows sorted by expert, cut into blocks that never mix experts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _kernel(
    rows_ptr,
    weights_ptr,
    out_ptr,
    expert_ptr,
    first_ptr,
    last_ptr,
    n,
    k,
    scale,
    HIGH: tl.constexpr,
    WIDE: tl.constexpr,
    DEEP: tl.constexpr,
):
    block = tl.program_id(1)
    expert = tl.load(expert_ptr + block).to(tl.int64)
    last = tl.load(last_ptr + block)
    rows = tl.load(first_ptr + block) + tl.arange(0, HIGH)
    columns = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
    inner = tl.arange(0, DEEP)
    left = rows_ptr + rows[:, None].to(tl.int64) * k + inner[None, :]
    right = weights_ptr + expert * n * k + columns[None, :].to(tl.int64) * k + inner[:, None]
    total = tl.zeros((HIGH, WIDE), dtype=tl.float32)
    for done in range(0, k, DEEP):
        kept = inner < k - done
        a = tl.load(left, mask=(rows[:, None] < last) & kept[None, :], other=0.0)
        b = tl.load(right, mask=(columns[None, :] < n) & kept[:, None], other=0.0)
        total = tl.dot(a, b, total)
        left += DEEP
        right += DEEP
    place = out_ptr + rows[:, None].to(tl.int64) * n + columns[None, :]
    tl.store(
        place,
        (total * scale).to(out_ptr.dtype.element_ty),
        mask=(rows[:, None] < last) & (columns[None, :] < n),
    )


class Blocks:
    """Blocks of rows of a call, made once per load as a real layer makes them once per step.

    Args:
        counts: rows of every expert.
        device: where the kernel runs.
    """

    def __init__(self, counts: tuple[int, ...], device: torch.device) -> None:
        active = [count for count in counts if count]
        mean = sum(active) / len(active)
        self.high = min(max(16, 1 << (int(mean) - 1).bit_length()), 128)
        expert, first, last = [], [], []
        start = 0
        for number, count in enumerate(counts):
            for begin in range(start, start + count, self.high):
                expert.append(number)
                first.append(begin)
                last.append(start + count)
            start += count
        made = torch.tensor([expert, first, last], dtype=torch.int32, device=device)
        self.expert, self.first, self.last = made.unbind()

    def multiply(self, rows: torch.Tensor, weights: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """Return rows [r, k] times the transposed weights [experts, n, k] of their expert, bf16 [r, n]."""
        n, k = weights.shape[1:]
        out = torch.empty((len(rows), n), dtype=torch.bfloat16, device=rows.device)
        wide = 128 if self.high < 128 else 256
        grid = (triton.cdiv(n, wide), len(self.expert))
        _kernel[grid](
            rows,
            weights,
            out,
            self.expert,
            self.first,
            self.last,
            n,
            k,
            scale,
            HIGH=self.high,
            WIDE=wide,
            DEEP=64 if rows.element_size() > 1 else 128,
            num_warps=4 if self.high < 128 else 8,
            num_stages=3,
        )
        return out
