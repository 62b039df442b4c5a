"""Fitting a problem's constants, and scoring them on rows that the fit has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from moesim.accuracy import prior_fit
from moesim.accuracy.own.problem import Price, Problem
from moesim.accuracy.protocols import Array
from moesim.measured.rows import thin

FOLDS: Final = 5
"""Parts into which rows are cut; each is predicted by constants fitted to the others."""

FIT_ROWS: Final = 400
"""Rows that one fit takes; more do not move ten constants."""

NOISE: Final = 0.1
"""Relative error of one row that weighs as much as a constant one standard deviation from its start: about
what the models are off with any constants. Constants that few rows do not tell thus stay where they were."""

_FAR: Final = 0.3
"""Logarithm of measured over predicted from which on a fit also starts from scaled constants."""

_EDGE: Final = 1e-3
_BLUR: Final = 0.7
"""Share of its standard deviation before the fit from which on the rows have told nothing of a constant."""

_TWINS: Final = 0.97
"""Correlation of two constants' errors from which on only their joint effect is known."""


@dataclass(frozen=True, eq=False)
class Score:
    """Absolute percentage errors, as fractions."""

    median: float
    p90: float

    @classmethod
    def of(cls, predicted: Array, seconds: Array) -> Score:
        """Score predictions."""
        sizes = np.abs(predicted / seconds - 1.0)
        return cls(float(np.median(sizes)), float(np.percentile(sizes, 90.0)))


@dataclass(frozen=True, eq=False)
class FitResult:
    """A fitted problem.

    Attributes:
        problem: what was fitted.
        constants: every constant by name.
        before: error under the package's constants; None where the package predicts no such time.
        after: error on rows left out of the fit that predicted them; None with fewer than two rows.
        within: error on the fitted rows themselves.
        warnings: what a reader should know of the constants.
    """

    problem: Problem
    constants: dict[str, float]
    before: Score | None
    after: Score | None
    within: Score
    warnings: tuple[str, ...]

    @property
    def worse(self) -> bool:
        """Tell whether the fit predicts rows it has not seen worse than the package's constants do."""
        return self.before is not None and self.after is not None and self.after.median > self.before.median


def solve(problem: Problem) -> FitResult:
    """Fit a problem's constants and score them by cross-validation."""
    rows = problem.rows
    price = problem.build(rows)
    constants = fitted(problem, rows)
    guessed = Score.of(price(problem.start), problem.seconds)
    return FitResult(
        problem=problem,
        constants=constants,
        before=guessed if problem.predicts else None,
        after=cross_validated(problem),
        within=Score.of(price(constants), problem.seconds),
        warnings=tuple(_warnings(problem, price, constants)),
    )


def fitted(problem: Problem, rows: pd.DataFrame) -> dict[str, float]:
    """Return all constants, the free ones fitted to rows and pulled towards where they started."""
    chosen, free = thin(rows, FIT_ROWS), problem.free
    price = problem.build(chosen)
    start = {name: float(np.clip(problem.start[name], *problem.bounds[name])) for name in free}
    vector = prior_fit.fit(
        lambda logs: price({**problem.start, **dict(zip(free, np.exp(logs), strict=True))}),
        chosen["seconds"].to_numpy(dtype=float),
        prior_fit.Prior(start, {name: problem.spread[name] for name in free}),
        pull=NOISE / np.sqrt(len(chosen)),
        starts=_starts(price, start, problem, chosen["seconds"].to_numpy(dtype=float)),
        bounds=problem.bounds,
    )
    return {**problem.start, **{name: float(np.exp(v)) for name, v in zip(free, vector, strict=True)}}


def _starts(
    price: Price, start: dict[str, float], problem: Problem, seconds: Array
) -> list[dict[str, float]]:
    """Return where fits start: the constants as they are, and those of a device as fast as this one is."""
    factor = float(np.median(seconds / price(problem.start)))
    if abs(np.log(factor)) < _FAR:
        return [{}]
    scaled = {name: value * factor ** (1 if name.endswith("_s") else -1) for name, value in start.items()}
    rates = {name: value for name, value in scaled.items() if name not in ("norm", "whole")}
    return [{}, {name: float(np.clip(value, *problem.bounds[name])) for name, value in rates.items()}]


def folds_of(rows: pd.DataFrame) -> Array:
    """Return which part every row belongs to, by a hash of what was timed; parts are of equal size."""
    parts = min(FOLDS, len(rows))
    told = rows.drop(columns=["seconds", "line", "date"])
    ranks = pd.util.hash_pandas_object(told.astype(str), index=False).to_numpy()
    order = np.argsort(np.argsort(ranks, kind="stable"), kind="stable")
    return np.asarray(order % parts, dtype=np.float64)


def cross_validated(problem: Problem) -> Score | None:
    """Return the error on rows that were left out of the fit which predicts them."""
    rows = problem.rows
    if len(rows) < 2:
        return None
    part = folds_of(rows)
    predicted = np.empty(len(rows))
    for number in np.unique(part):
        held = part == number
        constants = fitted(problem, rows[~held].reset_index(drop=True))
        predicted[held] = problem.build(rows[held].reset_index(drop=True))(constants)
    return Score.of(predicted, problem.seconds)


def _warnings(problem: Problem, price: Price, constants: dict[str, float]) -> list[str]:
    """Say which constants stand at a bound, and which the rows do not tell."""
    found = []
    free = problem.free
    for name in free:
        low, high = problem.bounds[name]
        if min(abs(np.log(constants[name] / low)), abs(np.log(constants[name] / high))) < _EDGE:
            found.append(f"{name} stands at the bound of what is physical ({constants[name]:.3g})")
    slopes = _slopes(price, constants, free)
    spread = np.array([problem.spread[name] for name in free])
    covariance = np.linalg.inv(slopes.T @ slopes / NOISE**2 + np.diag(spread**-2.0))
    deviation = np.sqrt(np.diag(covariance))
    blurred = [name for name, wide in zip(free, deviation / spread > _BLUR, strict=True) if wide]
    if blurred:
        found.append(f"the rows hardly tell {', '.join(blurred)}; kept near the constants without them")
    related = covariance / np.outer(deviation, deviation)
    twins = np.argwhere(np.triu(np.abs(related) > _TWINS, k=1))
    found += [f"the rows cannot tell {free[one]} from {free[other]}" for one, other in twins]
    return found


def _slopes(price: Price, constants: dict[str, float], free: tuple[str, ...]) -> Array:
    """Return how the logarithm of every row's time follows that of each free constant, [rows, constants]."""
    step = 1e-3
    columns = []
    for name in free:
        up, down = ({**constants, name: constants[name] * np.exp(sign * step)} for sign in (1.0, -1.0))
        columns.append((np.log(price(up)) - np.log(price(down))) / (2.0 * step))
    return np.stack(columns, axis=1)
