"""What models of kernels have in common: constants of a device, and ways to run it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Constants:
    """Constants of a kernel on a device; fields ending in ``_s`` are times (s), others shares and counts."""

    def scaled(self, factor: float) -> Self:
        """Return the constants of a device whose every rate is ``factor`` times as fast."""
        times = {f.name: getattr(self, f.name) / factor for f in fields(self) if f.name.endswith("_s")}
        return replace(self, **times)


@dataclass(frozen=True, eq=False)
class Choices:
    """Calls of a kernel with every way to run them; each field is an array [calls, choices] or [calls, 1]."""

    def pick(self, index: npt.NDArray[np.intp]) -> Self:
        """Keep one choice per call.

        Args:
            index: which, intp [calls].

        Returns:
            The same fields, as arrays [calls].
        """
        rows = np.arange(len(index))
        parts = (getattr(self, f.name) for f in fields(self))
        return type(self)(*(part[rows, index if part.shape[1] > 1 else 0] for part in parts))
