"""Hit rates against the cache ratio, and where more cache begins to help less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

RATIOS: Final = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
"""Cache ratios of the published hit rates: cached experts over those that a token uses."""


@dataclass(frozen=True)
class Knee:
    """Where a hit-rate curve bends.

    Attributes:
        ratio: cache ratio of the point farthest above the line from the origin to the curve's end, which is
            at ratio 4, or where all experts are cached if that is less.
        height: how far above, in hit rate. A flat curve has no clear knee.
    """

    ratio: float
    height: float


def at_ratios(curve: npt.ArrayLike, per_token: int, ratios: npt.ArrayLike = RATIOS) -> FloatArray:
    """Return hit rates at cache ratios, [..., ratios].

    Args:
        curve: hit rates at 1, 2, ... cached experts, [..., experts].
        per_token: accesses of a token to one cache; a ratio is cached experts over this.
        ratios: [ratios]. Between whole numbers of experts the rate is interpolated: some caches have one
            more than others. Beyond all experts it is that of all.
    """
    rates = np.asarray(curve, dtype=np.float64)
    places = np.arange(rates.shape[-1] + 1)
    wanted = np.asarray(ratios, dtype=np.float64) * per_token
    rows = [np.interp(wanted, places, [0.0, *row]) for row in rates.reshape(-1, rates.shape[-1])]
    return np.asarray(rows).reshape(*rates.shape[:-1], len(wanted))


def find_knee(ratios: npt.ArrayLike, rates: npt.ArrayLike) -> Knee:
    """Return the knee of a curve through the origin and the given points, in rising order, up to ratio 4."""
    x, y = np.asarray(ratios, dtype=np.float64), np.asarray(rates, dtype=np.float64)
    x, y = x[x <= RATIOS[-1]], y[x <= RATIOS[-1]]
    above = y - x * (y[-1] / x[-1])
    best = int(np.argmax(above))
    return Knee(float(x[best]), float(above[best]))
