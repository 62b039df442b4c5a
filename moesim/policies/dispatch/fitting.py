"""Amounts per pair of devices that agree with whole copies received."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def fitted(matrix: FloatArray, inbound: FloatArray) -> FloatArray:
    """Change amounts per pair a little so that columns add up to ``inbound`` and rows stay.

    Columns above their target are scaled down and what each source so frees goes to the columns below,
    in proportion to what they lack (Altschuler et al., arXiv 1705.09634, algorithm 2). Shapes are
    [layers, sources, devices] and [layers, devices]; both add up to the same per layer.
    """
    has = matrix.sum(axis=1)
    scale = np.where(has > inbound, inbound / np.where(has > 0, has, 1.0), 1.0)
    kept = matrix * scale[:, np.newaxis, :]
    freed = (matrix - kept).sum(axis=2)
    lacks = np.maximum(inbound - kept.sum(axis=1), 0.0)
    total = lacks.sum(axis=1, keepdims=True)
    part = np.divide(lacks, total, out=np.zeros_like(lacks), where=total > 0)
    return np.asarray(kept + freed[:, :, np.newaxis] * part[:, np.newaxis, :])
