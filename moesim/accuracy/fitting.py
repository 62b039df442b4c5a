"""Fitting physical constants to timings: bounded, on logarithms, forgiving of outliers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bounded:
    """A constant with its guess and physical limits, all positive."""

    name: str
    guess: float
    low: float
    high: float


def fit_constants(
    predict: Callable[[Array], Array],
    seconds: Array,
    constants: Sequence[Bounded],
    scale: float = 0.05,
    slopes: Callable[[Array], Array] | None = None,
) -> Array:
    """Find the constants under which predictions are closest to timings.

    Minimises a soft-L1 loss of log(predicted / measured), so that errors count relatively and rows that
    no constants explain do not drag the rest along.

    Args:
        predict: seconds per row from the constants, in order.
        seconds: measured, positive.
        constants: what to find.
        scale: relative error from which on rows count linearly.
        slopes: by how many percent each row's prediction follows one percent of each constant,
            [rows, constants]; by default differences of ``predict``.
    """
    from scipy.optimize import least_squares  # type: ignore[import-untyped, unused-ignore]

    target = np.log(seconds)
    low, high, guess = (
        np.log([getattr(constant, name) for constant in constants]) for name in ("low", "high", "guess")
    )

    def residual(logs: Array) -> Array:
        return np.asarray(np.log(predict(np.exp(logs))) - target, dtype=np.float64)

    def jacobian(logs: Array) -> Array:
        assert slopes is not None
        return slopes(np.exp(logs))

    found = least_squares(
        residual,
        guess,
        jac="2-point" if slopes is None else jacobian,
        bounds=(low, high),
        loss="soft_l1",
        f_scale=scale,
        max_nfev=60,
    )
    return np.asarray(np.exp(found.x), dtype=np.float64)
