"""HybriMoE's split of a layer's experts between GPU and CPU (arXiv 2504.05897)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ExpertTimes:
    """Times of one expert, all in one unit.

    Attributes:
        cpu_per_token: CPU time of a token.
        cpu_first: extra CPU time of the first expert of a layer.
        gpu: GPU time of an expert.
        gpu_first: extra GPU time of the first expert of a layer.
        transfer: time to load an expert.
    """

    cpu_per_token: float
    cpu_first: float
    gpu: float
    gpu_first: float
    transfer: float


@dataclass(frozen=True)
class Split:
    """Experts by the processor that computes them, in order.

    Attributes:
        cpu: on the CPU.
        gpu: on the GPU.
        loaded: those of the GPU that are loaded first, in order.
        makespan: when both are done.
    """

    cpu: tuple[int, ...]
    gpu: tuple[int, ...]
    loaded: tuple[int, ...]
    makespan: float


def split_as_repository(
    resident: Sequence[int], absent: Sequence[int], load: Mapping[int, int], times: ExpertTimes
) -> Split:
    """Split as the repository does: the head of one list to the GPU, or its tail to the CPU.

    The list is the resident experts by load falling, then the absent ones by load falling; loads of one
    size keep the given order. The head goes to the GPU if it ends there, behind its transfer if it is
    absent, no later than the tail would on the CPU.
    """
    there = set(resident)
    queue = sorted(resident, key=lambda e: -load[e]) + sorted(absent, key=lambda e: -load[e])
    cpu: list[int] = []
    gpu: list[int] = []
    cpu_end = gpu_end = link_end = 0.0
    while queue:
        head, tail = queue[0], queue[-1]
        arrives = 0.0 if head in there else link_end + times.transfer
        on_gpu = max(gpu_end, arrives) + times.gpu + (0.0 if gpu else times.gpu_first)
        on_cpu = cpu_end + load[tail] * times.cpu_per_token + (0.0 if cpu else times.cpu_first)
        if on_gpu <= on_cpu:
            gpu.append(queue.pop(0))
            gpu_end, link_end = on_gpu, max(link_end, arrives)
        else:
            cpu.append(queue.pop())
            cpu_end = on_cpu
    return Split(tuple(cpu), tuple(gpu), tuple(e for e in gpu if e not in there), max(cpu_end, gpu_end))


def split_as_paper(
    resident: Sequence[int],
    absent: Sequence[int],
    load: Mapping[int, int],
    times: ExpertTimes,
    gpu_starts: float = 0.0,
    under_way: Mapping[int, float] | None = None,
) -> Split:
    """Split as the paper says: three timelines, each free one takes its next expert.

    The GPU takes the resident of highest load, the CPU the absent one of lowest load and, when none is
    left, the resident of lowest load; the link takes the absent one of highest load, which is resident
    when it has arrived. Of timelines free at once the CPU goes first, then the link, then the GPU, which
    gives the paper's figure 5. As in the paper, nothing weighs whether another timeline would end it sooner.

    Args:
        resident: experts in GPU memory.
        absent: the others.
        load: tokens of each.
        times: what they take.
        gpu_starts: when the GPU is free, after the shared experts.
        under_way: experts that the link is moving already, with when they arrive; the GPU computes them, and
            the link is free after the last of them.
    """
    ready = sorted(resident, key=lambda e: -load[e])
    missing = sorted(absent, key=lambda e: load[e])
    coming = sorted((when, expert) for expert, when in (under_way or {}).items())
    cpu: list[int] = []
    gpu: list[int] = []
    loaded: list[int] = []
    free = {"cpu": 0.0, "link": coming[-1][0] if coming else 0.0, "gpu": gpu_starts}
    ends = {"cpu": 0.0, "gpu": gpu_starts}
    while ready or missing or coming:
        able = {
            "cpu": bool(missing or ready),
            "link": bool(missing),
            "gpu": bool(ready or coming),
        }
        name = min((n for n in free if able[n]), key=lambda n: free[n])
        now = free[name]
        if name == "cpu":
            taken = missing.pop(0) if missing else ready.pop()
            first = 0.0 if cpu else times.cpu_first
            cpu.append(taken)
            ends["cpu"] = free["cpu"] = now + first + load[taken] * times.cpu_per_token
        elif name == "link":
            loaded.append(missing.pop())
            free["link"] = now + times.transfer
            coming.append((free["link"], loaded[-1]))
        else:
            here = [arrival for arrival in coming if arrival[0] <= now]
            coming = [arrival for arrival in coming if arrival[0] > now]
            ready = sorted([*ready, *(e for _, e in here)], key=lambda e: -load[e])
            if not ready:
                free["gpu"] = coming[0][0]
                continue
            first = 0.0 if gpu else times.gpu_first
            gpu.append(ready.pop(0))
            ends["gpu"] = free["gpu"] = now + first + times.gpu
    return Split(tuple(cpu), tuple(gpu), tuple(loaded), max(ends.values()))


def prefetch_gains(
    resident: Sequence[int],
    absent: Sequence[int],
    load: Mapping[int, int],
    times: ExpertTimes,
    candidates: Sequence[int] | None = None,
) -> dict[int, float]:
    """Return by how much the layer would be shorter if an absent expert were resident, for each candidate.

    Impact-driven prefetch: for each one the split is made again as if it were resident.

    Args:
        resident: experts in GPU memory.
        absent: the others.
        load: tokens of each.
        times: what they take.
        candidates: the absent ones that are weighed; None: all.
    """
    now = split_as_paper(resident, absent, load, times).makespan
    gains: dict[int, float] = {}
    for expert in absent if candidates is None else candidates:
        others = [e for e in absent if e != expert]
        gains[expert] = now - split_as_paper([*resident, expert], others, load, times).makespan
    return gains


def rank_prefetches(
    resident: Sequence[int], absent: Sequence[int], load: Mapping[int, int], times: ExpertTimes
) -> list[int]:
    """Return the absent experts whose residence would shorten the layer, the largest gain first."""
    gains = prefetch_gains(resident, absent, load, times)
    return sorted((e for e in absent if gains[e] > 0), key=lambda e: -gains[e])
