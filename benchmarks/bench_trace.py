"""Measure recorded routing: replay of large steps, streaming statistics, writing and checking.

Run with ``python benchmarks/bench_trace.py [--tokens N]``; figures depend on the machine and are reported,
not asserted.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from moesim.routing import RoutingTrace, TraceSource, TraceWriter
from moesim.routing.importers import importer_kinds

LAYERS, TOP_K, EXPERTS = 58, 8, 256


def timed(label: str, work: Callable[[], object], items: int, unit: str, repeats: int = 1) -> None:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{label:<58} {best:8.3f} s  {best / items * 1e9:8.2f} ns/{unit}  peak {rss:6.0f} MiB")


def record(path: Path, tokens: int) -> None:
    """Write random routing in blocks; steps of an odd stride keep the ids of a token distinct."""
    rng = np.random.default_rng(0)
    with TraceWriter(
        path, model="random", experts=EXPERTS, top_k=TOP_K, layers=range(3, 3 + LAYERS)
    ) as writer:
        for start in range(0, tokens, 8192):
            rows = min(8192, tokens - start)
            first = rng.integers(0, EXPERTS, (rows, LAYERS, 1))
            stride = rng.integers(0, EXPERTS // 2, (rows, LAYERS, 1)) * 2 + 1
            writer.append(((first + stride * np.arange(TOP_K)) % EXPERTS).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=32 * 16384, help="tokens to record (default: one step)")
    tokens = parser.parse_args().tokens
    ids = tokens * LAYERS * TOP_K
    print(
        f"{tokens} tokens, {LAYERS} layers, top-{TOP_K} of {EXPERTS}: "
        f"{tokens * LAYERS / 1e6:.1f} M (token, layer) rows; importers: {', '.join(importer_kinds())}"
    )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "trace"
        timed("record and write", lambda: record(path, tokens), ids, "id")
        trace = RoutingTrace.open(path)
        timed("open", lambda: RoutingTrace.open(path), 1, "trace", repeats=3)
        timed("info (balance and overlap, streamed)", trace.info, ids, "id")
        timed("verify (checksum, range, duplicates, streamed)", trace.verify, ids, "id")
        for assign in ("contiguous", "interleaved"):
            source = TraceSource(trace, profile=1, assign=assign)
            for devices in (32, 256):
                share = np.full(devices, tokens // devices)
                copies = int(share.sum()) * LAYERS * TOP_K
                timed(
                    f"load: {devices} devices x {share[0]} tokens, {assign}",
                    lambda source=source, share=share: source.load(0, share),
                    copies,
                    "id",
                    repeats=3,
                )
        share = np.full(256, 128)
        timed(
            "load: decode step, 256 devices x 128 tokens",
            lambda: source.load(1, share),
            256 * 128 * LAYERS * TOP_K,
            "id",
            repeats=5,
        )


if __name__ == "__main__":
    main()
