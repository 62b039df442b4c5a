"""What a pass through the layers takes, told by what the forward pass takes.

The backward pass is priced by the forward one, because published tables of kernels hold forward passes only:

* a matrix product has two products of the same size behind it: the gradients of its inputs and of its
  weights;
* an attention core multiplies five times instead of twice (FlashAttention-2, arXiv 2307.08691, counts 2.5
  times the arithmetic): scores once more, and gradients of values, scores, queries and keys. It has no
  weights;
* what only passes over rows reads the gradient beside what it read, and its backward pass counts twice;
* sums over tensor-parallel devices are as many and as large;
* counts that the host had to read in the forward pass are known.

Nothing of the forward pass is computed anew but the scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Share:
    """What a pass takes, as multiples of the forward pass.

    Attributes:
        products: matrix products, and fused expert layers with what is inside them.
        core: softmax attention between its projections; the core of other mixers counts as ``passes``.
        passes: operations that only pass over rows.
        sums: sums over tensor-parallel devices.
        reads: counts that the host reads back.
    """

    products: float
    core: float
    passes: float
    sums: float
    reads: float


FORWARD: Final = Share(products=1.0, core=1.0, passes=1.0, sums=1.0, reads=1.0)
INPUT_GRADIENTS: Final = Share(products=1.0, core=2.5, passes=2.0, sums=1.0, reads=0.0)
WEIGHT_GRADIENTS: Final = Share(products=1.0, core=0.0, passes=0.0, sums=0.0, reads=0.0)

LAUNCHES: Final = 2
"""Kernels of a backward pass for each of the forward pass."""
