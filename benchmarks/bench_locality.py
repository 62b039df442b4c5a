"""How long hit rates of caches of every size take, on synthetic routing.

Run with ``OPENBLAS_NUM_THREADS=1 python benchmarks/bench_locality.py [sequences] [tokens]``; 64 sequences of
512 tokens in 26 layers of 64 experts, top-6, by default.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from moesim.routing.locality import Accesses, hit_rate_curves

LAYERS, EXPERTS, TOP_K = 26, 64, 6
CURVES = (("lru", None), ("lfu", None), ("belady", None), ("sch", 16))


def main() -> None:
    """Time each policy and all together."""
    given = [int(word) for word in sys.argv[1:]]
    sequences, tokens = (given + [64, 512][len(given) :])[:2]
    random = np.random.default_rng(0)
    ids = random.random((sequences * tokens, LAYERS, EXPERTS)).argsort(axis=2)[..., :TOP_K].astype(np.int16)
    began = time.perf_counter()
    accesses = Accesses.of(ids, [tokens] * sequences, experts=EXPERTS)
    for policy, window in CURVES:
        start = time.perf_counter()
        hit_rate_curves(accesses, policy, window)
        print(f"{policy:8} {time.perf_counter() - start:6.2f} s")
    print(f"{sequences} x {tokens} tokens, {LAYERS} layers: {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
