"""Which tokens arrive when: steps of prefill or decode with a number of tokens per device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError


@dataclass(frozen=True)
class Workload:
    """A run of equal steps.

    Attributes:
        phase: ``prefill`` (every token attends to the tokens before it in its own prompt) or ``decode``
            (every token belongs to another sequence with a KV cache of ``context`` tokens).
        steps: number of steps.
        tokens_per_device: tokens of each device in a step; one number for all or one per device.
        context: tokens of a prompt (prefill) or cached per sequence (decode).
        moe_only: leave out attention, dense layers and embeddings, as single-layer benchmarks do.
    """

    phase: Literal["prefill", "decode"]
    steps: int
    tokens_per_device: int | tuple[int, ...]
    context: int
    moe_only: bool = False

    def tokens(self, devices: int) -> npt.NDArray[np.int64]:
        """Return tokens per device, int64 [devices].

        Raises:
            InputError: a list of another length than the number of devices.
        """
        if isinstance(self.tokens_per_device, int):
            return np.full(devices, self.tokens_per_device, dtype=np.int64)
        if len(self.tokens_per_device) != devices:
            message = (
                f"tokens_per_device lists {len(self.tokens_per_device)} numbers for {devices} devices: "
                "give one number or one per device"
            )
            raise InputError(message)
        return np.asarray(self.tokens_per_device, dtype=np.int64)
