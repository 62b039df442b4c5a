"""How long calls take: warm-up, an emptied cache before every call, and the median of many."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from cases import Case
from kernels import Run, prepare

FLUSH_BYTES = 512 * 2**20
"""More than any second-level cache holds."""


@dataclass(frozen=True)
class Timing:
    """A time and how far calls scatter.

    Attributes:
        seconds: median of the calls.
        spread: 90th less 10th percentile, over the median.
        repeats: calls.
    """

    seconds: float
    spread: float
    repeats: int

    @classmethod
    def of(cls, calls: list[float]) -> Timing:
        """Sum calls up."""
        ordered = sorted(calls)
        last = len(ordered) - 1
        low, middle, high = (ordered[round(last * share)] for share in (0.1, 0.5, 0.9))
        return cls(middle, (high - low) / middle, len(ordered))


class Stopwatch:
    """Takes times on one device.

    Args:
        device: where.
        repeats: calls per case.
    """

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device = device
        self.repeats = repeats
        self.gpu = device.type == "cuda"
        size = FLUSH_BYTES if self.gpu else 128 * 2**20
        self.flush = torch.empty(size, dtype=torch.uint8, device=device)

    def take(self, case: Case) -> Timing:
        """Time a case.

        Raises:
            RuntimeError: PyTorch refuses it, or there is not enough memory.
        """
        if case.family == "launch":
            return self._launches(int(case.shape["kernels"]), in_graph=case.shape["graph"] == "yes")
        if case.family == "host_sync":
            value = torch.ones(1024, device=self.device)
            return self._by_clock(lambda: value.sum().item())
        run = prepare(case, self.device)
        if not self.gpu or (case.family.startswith("copy") and case.shape["pinned"] == "no"):
            return self._by_clock(run)
        # a graph keeps the host's launches out of the time; loops over experts and copies run as they are
        eager = case.backend.endswith("/loop") or case.family.startswith("copy")
        return self._by_events(run if eager else self._captured(run))

    def _captured(self, run: Run) -> Run:
        for _ in range(3):
            run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay

    def _by_events(self, run: Run) -> Timing:
        for _ in range(3):
            run()
        calls = []
        for _ in range(self.repeats):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.flush.zero_()  # long enough that the host is ahead when the call begins
            first.record()
            run()
            last.record()
            last.synchronize()
            calls.append(first.elapsed_time(last) * 1e-3)
        return Timing.of(calls)

    def _by_clock(self, run: Run) -> Timing:
        for _ in range(3):
            run()
        calls = []
        for _ in range(self.repeats):
            self.flush.zero_()
            self._wait()
            start = time.perf_counter()
            run()
            self._wait()
            calls.append(time.perf_counter() - start)
        return Timing.of(calls)

    def _launches(self, kernels: int, *, in_graph: bool) -> Timing:
        """Time many empty kernels in a row: by the host's clock one by one, by events in a graph."""
        value = torch.ones(1, device=self.device)

        def run() -> None:
            for _ in range(kernels):
                value.add_(1.0)

        return self._by_events(self._captured(run)) if in_graph else self._by_clock(run)

    def _wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()
