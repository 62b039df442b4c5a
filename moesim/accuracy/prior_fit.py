"""Fit positive constants to measured times, pulled weakly towards what is plausible.

Errors are logarithmic, so a fast call counts as much as a slow one, and large errors count less than
their square (a failed or disturbed run must not bend the rest). A prior keeps constants that the rows
cannot tell apart where physics would put them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moesim.accuracy.protocols import Array


@dataclass(frozen=True)
class Prior:
    """Where constants are expected: middle and spread (natural logarithm) by name, in the model's order."""

    middle: Mapping[str, float]
    spread: Mapping[str, float]

    def vectors(self) -> tuple[Array, Array]:
        """Return logarithms of the middle and spreads."""
        names = list(self.middle)
        centre = np.log([self.middle[name] for name in names])
        return np.asarray(centre), np.array([self.spread[name] for name in names])


def fit(
    model: Callable[[Array], Array],
    seconds: Array,
    prior: Prior,
    *,
    pull: float,
    loss: Literal["soft_l1", "cauchy"] = "soft_l1",
    starts: Sequence[Mapping[str, float]] = ({},),
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> Array:
    """Return logarithms of the constants that explain times best.

    Args:
        model: logarithms of constants -> seconds per row.
        seconds: measured.
        prior: expected constants.
        pull: weight of one standard deviation of the prior beside the logarithmic error of a row; it
            grows with the root of the number of rows, so that its share stays the same.
        loss: how errors beyond 5 % are discounted.
        starts: values that replace the prior's middle as starting points; the best result is kept.
        bounds: smallest and largest value by name; any positive one by default.
    """
    from scipy.optimize import least_squares  # type: ignore[import-untyped, unused-ignore]

    centre, spread = prior.vectors()
    names = list(prior.middle)
    target = np.log(seconds)
    weight = pull * np.sqrt(len(seconds))

    def residual(vector: Array) -> Array:
        return np.concatenate([np.log(model(vector)) - target, weight * (vector - centre) / spread])

    low, high = _limits(names, bounds)
    best, lowest = centre, np.inf
    for start in starts:
        first = centre.copy()
        for name, value in start.items():
            first[names.index(name)] = np.log(value)
        first = np.clip(first, low + 1e-9, high - 1e-9)
        found = least_squares(residual, first, bounds=(low, high), loss=loss, f_scale=0.05, max_nfev=200)
        if found.cost < lowest:
            best, lowest = np.asarray(found.x), float(found.cost)
    return best


def _limits(names: Sequence[str], bounds: Mapping[str, tuple[float, float]] | None) -> tuple[Array, Array]:
    """Return the logarithms of bounds, infinite where there are none."""
    if bounds is None:
        return np.full(len(names), -np.inf), np.full(len(names), np.inf)
    low, high = (np.log([bounds[name][side] for name in names]) for side in (0, 1))
    return np.asarray(low), np.asarray(high)
