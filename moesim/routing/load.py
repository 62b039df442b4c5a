"""Load: how many token copies each expert gets, from where."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Load:
    """Token copies per (source device, expert) for every MoE layer of one step.

    A copy is one (token, selected expert) pair. ``counts`` has one row per source device, or a single
    row when only totals are known; then every device contributes in proportion to its tokens.

    Attributes:
        counts: int64 [layers, sources, experts]; sources is ``devices`` or 1.
        tokens: tokens that each device contributes to the step, int64 [devices].
    """

    counts: IntArray
    tokens: IntArray

    def __post_init__(self) -> None:
        """Check shapes and signs."""
        if self.counts.ndim != 3 or self.counts.shape[1] not in (1, self.devices):
            message = f"a load has shape [layers, sources, experts], got {self.counts.shape}"
            raise InputError(message)
        if self.counts.size and int(self.counts.min()) < 0:
            message = "a load cannot hold a negative number of copies"
            raise InputError(message)

    @property
    def layers(self) -> int:
        """Number of MoE layers."""
        return int(self.counts.shape[0])

    @property
    def experts(self) -> int:
        """Number of routed (logical) experts."""
        return int(self.counts.shape[2])

    @property
    def devices(self) -> int:
        """Number of source devices."""
        return int(self.tokens.shape[0])

    @property
    def is_pooled(self) -> bool:
        """Whether only totals over the source devices are known."""
        return self.counts.shape[1] == 1 and self.devices != 1

    @property
    def per_expert(self) -> IntArray:
        """Copies per expert over all sources, int64 [layers, experts]."""
        return self._per_expert.copy()

    @cached_property
    def _per_expert(self) -> IntArray:
        """The same, added up once: policies, engine and bounds all ask."""
        return np.asarray(self.counts.sum(axis=1), dtype=np.int64)

    @property
    def share(self) -> npt.NDArray[np.float64]:
        """Fraction of the step's tokens that each device contributes, [devices]."""
        total = int(self.tokens.sum())
        if total == 0:
            return np.full(self.devices, 1.0 / self.devices)
        return np.asarray(self.tokens / total, dtype=np.float64)

    @property
    def per_source(self) -> npt.NDArray[np.float64]:
        """Copies that each device sends into each layer, [layers, devices]."""
        if self.is_pooled:
            return np.asarray(self.counts.sum(axis=(1, 2))[:, np.newaxis] * self.share[np.newaxis, :])
        return np.asarray(self.counts.sum(axis=2), dtype=np.float64)
