"""Which tokens arrive when: steps of prefill or decode with a number of tokens per device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError


@dataclass(frozen=True)
class Requests:
    """Requests that are served one group after another: every device works on so many sequences at a time.

    Attributes:
        count: groups of requests, one after another.
        prompt: tokens of each prompt.
        output: tokens generated for each; the prompt's own pass gives the first.
        most: passes through the model at most; None for all.
    """

    count: int
    prompt: int
    output: int
    most: int | None = None

    @property
    def steps(self) -> int:
        """Passes through the model: one for a prompt, one for every further token."""
        whole = self.count * self.output
        return whole if self.most is None else min(whole, self.most)


@dataclass(frozen=True)
class Workload:
    """A run of equal steps, or of requests.

    Attributes:
        phase: ``prefill`` (every token attends to the tokens before it in its own prompt) or ``decode``
            (every token belongs to another sequence with a KV cache of ``context`` tokens).
        steps: number of steps.
        tokens_per_device: tokens of each device in a step; one number for all or one per device.
        context: tokens of a prompt (prefill) or cached per sequence (decode).
        moe_only: leave out attention, dense layers and embeddings, as single-layer benchmarks do.
        requests: requests in place of equal steps, whose passes then are the steps; ``tokens_per_device``
            is the sequences of each device.
    """

    phase: Literal["prefill", "decode"]
    steps: int
    tokens_per_device: int | tuple[int, ...]
    context: int
    moe_only: bool = False
    requests: Requests | None = None

    @property
    def passes(self) -> int:
        """Passes through the model: steps, or those of all requests."""
        return self.steps if self.requests is None else self.requests.steps

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
