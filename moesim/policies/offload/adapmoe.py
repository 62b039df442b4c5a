"""AdapMoE's choice between one and two experts for a token (arXiv 2408.10284)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def one_is_enough(
    weights: npt.NDArray[np.floating[Any]], sensitivity: float, tau: float = 0.005
) -> npt.NDArray[np.bool_]:
    """Say for which tokens the second expert is left out, bool [...].

    It is where its share of both gate weights is below sqrt(tau / sensitivity): then dropping it changes
    the output by less than the layer bears. Meant for decoding; it changes the output of the model.

    Args:
        weights: gate weights of the two experts, [..., 2], in any order.
        sensitivity: of the loss to a change of the layer's output, squared; above 0.
        tau: change that is borne; 0.005 in the authors' demonstration.
    """
    values = np.asarray(weights, dtype=np.float64)
    second = values.min(axis=-1) / values.sum(axis=-1)
    enough: npt.NDArray[np.bool_] = second < np.sqrt(tau / sensitivity)
    return enough
