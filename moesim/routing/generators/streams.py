"""Random streams by the name of what consumes them.

Each consumer gets its own stream from the seed and its name, so what one draws never depends on how
often, or in what order, others have drawn. Two policies compared under one seed see the same routing.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """Return the random stream of a consumer.

    Args:
        seed: of the whole run, not negative.
        name: words and numbers that tell this consumer from every other.
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in name)
    words = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u4")
    return np.random.default_rng(np.random.SeedSequence([seed, *words.tolist()]))
