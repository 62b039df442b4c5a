"""Fiddler's choice between computing an expert on the CPU and loading it (arXiv 2402.07033)."""

from __future__ import annotations

from collections.abc import Sequence


def cpu_is_faster(cpu_s: float, gpu_s: float, transfer_s: float) -> bool:
    """Say whether an absent expert runs on the CPU: c(n) <= g + x, all in one unit of time."""
    return cpu_s <= gpu_s + transfer_s


def prototype_cpu_experts(
    tokens: Sequence[int],
    resident: Sequence[bool],
    cpu_per_token: float = 7.0,
    gpu_with_transfer: float = 70.0,
) -> tuple[list[int], float]:
    """Return the experts that the published prototype runs on the CPU, and the summed cost.

    The prototype minimises the sum of the costs over experts, so each expert decides for itself: on the
    CPU tokens x ``cpu_per_token``, on the GPU nothing if resident, else ``gpu_with_transfer``. Equal
    costs go to the GPU.

    Args:
        tokens: tokens of each expert.
        resident: whether each one is in GPU memory.
        cpu_per_token: cost of a token on the CPU.
        gpu_with_transfer: cost of an absent expert on the GPU, transfer included.
    """
    chosen: list[int] = []
    total = 0.0
    for expert, (count, there) in enumerate(zip(tokens, resident, strict=True)):
        on_cpu, on_gpu = count * cpu_per_token, 0.0 if there else gpu_with_transfer
        if on_cpu < on_gpu:
            chosen.append(expert)
        total += min(on_cpu, on_gpu)
    return chosen, total
