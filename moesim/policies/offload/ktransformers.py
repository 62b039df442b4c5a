"""kTransformers' fixed split: the most used experts on the GPU, the others always on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def gpu_experts(counts: npt.NDArray[Any], slots: int) -> npt.NDArray[np.bool_]:
    """Return which experts stand on the GPU, bool [layers, experts]; equal counts: the lower number.

    Args:
        counts: uses of each expert in a profile, [layers, experts].
        slots: experts of each layer that the GPU holds.
    """
    order = np.argsort(-np.asarray(counts), axis=1, kind="stable")[:, :slots]
    chosen = np.zeros(np.shape(counts), dtype=bool)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen
