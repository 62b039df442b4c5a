"""What stands in the memory of devices whose experts come from elsewhere."""

from __future__ import annotations

import numpy as np

from moesim.engine.memory import Moment
from moesim.engine.offload.sizes import Sizes, cached_bytes
from moesim.engine.setup import Setup
from moesim.hardware.memory import MemoryLedger


def standing_memory(setup: Setup, sizes: Sizes) -> MemoryLedger:
    """Enter what stands in device memory: caches are set aside as a whole."""
    model, served = setup.model, setup.workload.requests
    devices = setup.cluster.size
    largest = float((setup.expert_bytes * sizes.narrow).max())
    offload = setup.policy.offload
    assert offload is not None
    fixed = offload.cache.keeps == "fixed"
    whole = all(
        int(frame.capacity.sum()) == int(mask.sum())
        for frame, mask in zip(sizes.frames, sizes.mask, strict=True)
    )
    at_once = setup.tokens.astype(np.float64) * (1 if served is None else served.prompt)
    ledger = MemoryLedger(setup.cluster.memory_capacity, setup.cluster.devices[0].memory.name)
    ledger.hold(
        {
            "model weights": np.full(devices, float(model.resident_bytes)),
            "expert cache": np.array([float(frame.capacity.sum()) for frame in sizes.frames]) * largest,
            "staging buffers": np.full(
                devices, offload.settings.staging * largest if fixed and not whole else 0.0
            ),
            "KV cache": cached_bytes(setup),
            "tokens": at_once * model.token_bytes * setup.kernels.token_buffers,
            "reserve": np.full(devices, float(setup.memory.reserve)),
        },
        0.0,
        Moment(0, 0, "experts"),
    )
    return ledger
