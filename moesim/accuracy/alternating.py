"""Fit constants of a model that takes the cheapest of many choices.

Which choice is cheapest depends on the constants, and pricing all choices is dear. The fit therefore
alternates: pick the cheapest choices, fit the constants to those alone (bounded, soft-L1 on the logarithm
of predicted over measured), pick again; the best round counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Choices(Protocol):
    """Work with several ways to do it, arrays [rows, choices]."""

    def pick(self, index: npt.NDArray[np.intp]) -> Self:
        """Keep one choice per row."""


@dataclass(frozen=True)
class Fitted:
    """Constants and how well they fit.

    Attributes:
        constants: by name.
        loss: mean soft-L1 loss of the logarithmic errors (1: perfect).
    """

    constants: dict[str, float]
    loss: float


ROUNDS: Final = 5
"""Times that choices are picked anew."""


def fit(
    choices: Choices,
    seconds: Array,
    price: Callable[[Any, Mapping[str, float]], Array],
    start: Mapping[str, float],
    bounds: Mapping[str, tuple[float, float]],
    *,
    scale: float,
    rounds: int = ROUNDS,
) -> Fitted:
    """Fit the constants named in ``bounds``.

    Args:
        choices: rows with their ways to run.
        seconds: measured time per row.
        price: seconds of choices [rows, choices] or [rows] under constants.
        start: first guess of every constant.
        bounds: smallest and largest value, positive, of those that are fitted; the others stay.
        scale: logarithmic error beyond which a row counts less and less.
        rounds: how often choices are picked anew.
    """
    from scipy.optimize import least_squares  # type: ignore[import-untyped, unused-ignore]

    names = list(bounds)
    low, high = (np.log([bounds[name][side] for name in names]) for side in (0, 1))
    target = np.log(seconds)
    now = dict(start)
    best = Fitted(dict(now), np.inf)
    for turn in range(rounds + 1):
        priced = price(choices, now)
        index = np.argmin(priced, axis=1)
        error = np.log(priced[np.arange(len(index)), index]) - target
        loss = float(np.mean(np.sqrt(1.0 + (error / scale) ** 2)))
        if loss < best.loss:
            best = Fitted(dict(now), loss)
        if turn == rounds:
            break
        picked = choices.pick(index)

        def residual(point: Array, picked: Choices = picked, fixed: Mapping[str, float] = now) -> Array:
            guess = {**fixed, **dict(zip(names, np.exp(point).tolist(), strict=True))}
            return np.log(price(picked, guess)) - target

        first = np.clip(np.log([now[name] for name in names]), low + 1e-6, high - 1e-6)
        solved = least_squares(
            residual, first, bounds=(low, high), loss="soft_l1", f_scale=scale, diff_step=1e-3, max_nfev=12
        )
        now = {**now, **dict(zip(names, np.exp(solved.x).tolist(), strict=True))}
    return best
