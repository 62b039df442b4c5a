"""How sure a mean is: Student t intervals over steps and seeds, on the differences of paired runs.

All policies of a run see the same steps (common random numbers), so that differences between policies are
taken step by step and the noise that they share drops out.

* One seed: the samples are the steps. Neighbouring steps of a trace resemble each other; where the first
  autocorrelation r of the samples is positive, n steps count as n (1 - r) / (1 + r).
* Several seeds: the samples are the means of the seeds, which differ in everything that is drawn.
* Several traces: each is a stratum, given and not drawn. The mean is that of the strata's means, its
  variance the sum of theirs over their squared number, with the degrees of freedom of Welch and
  Satterthwaite.

Ratios of means are linearised (delta method): the samples of a / b are (a - R b) / mean(b).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Strata = Sequence[Sequence[Array]]
"""Samples by stratum (trace), then seed, then step."""

LEVEL: Final = 0.95
_ENOUGH: Final = 10
"""Steps from which on an autocorrelation can be estimated."""

METHOD: Final = "Student t on paired differences"


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval.

    Attributes:
        mean: the estimate.
        low: lower end of the interval; None where there is nothing to judge the spread by.
        high: upper end.
    """

    mean: float
    low: float | None
    high: float | None

    @property
    def interval(self) -> list[float] | None:
        """Both ends, or None."""
        return None if self.low is None or self.high is None else [self.low, self.high]

    def around(self, value: float) -> bool | None:
        """Say whether the interval contains a value; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low <= value <= self.high


def pooled(samples: Strata) -> float:
    """Return the mean of strata's means of seeds' means."""
    return float(np.mean([np.mean([seed.mean() for seed in stratum]) for stratum in samples]))


def mean_of(samples: Strata, level: float = LEVEL) -> Estimate:
    """Return the mean with its interval.

    Args:
        samples: samples by stratum, seed and step.
        level: probability with which the interval is to contain the mean.
    """
    mean = pooled(samples)
    parts = [_variance(stratum) for stratum in samples]
    known = [(variance, freedom) for variance, freedom in parts if freedom > 0]
    if len(known) < len(parts):
        return Estimate(mean, None, None)
    total = sum(variance for variance, _ in known)
    if total <= 0:
        return Estimate(mean, mean, mean)
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in known)
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, 0.5 + level / 2)) * math.sqrt(total) / len(parts)
    return Estimate(mean, mean - half, mean + half)


def ratio_of(above: Strata, below: Strata, level: float = LEVEL) -> Estimate:
    """Return the ratio of two means with its interval; samples are paired.

    Args:
        above: numerator, by stratum, seed and step.
        below: denominator, in the same shape.
        level: probability with which the interval is to contain the ratio.
    """
    top, bottom = pooled(above), pooled(below)
    if bottom == 0:
        return Estimate(1.0 if top == 0 else math.inf, None, None)
    value = top / bottom
    linear = [
        [(a - value * b) / bottom for a, b in zip(left, right, strict=True)]
        for left, right in zip(above, below, strict=True)
    ]
    found = mean_of(linear, level)
    if found.low is None or found.high is None:
        return Estimate(value, None, None)
    return Estimate(value, value + found.low, value + found.high)


def difference_of(first: Strata, second: Strata, level: float = LEVEL) -> Estimate:
    """Return the mean of paired differences ``first - second`` with its interval.

    Args:
        first: by stratum, seed and step.
        second: in the same shape.
        level: probability with which the interval is to contain the difference.
    """
    return mean_of(
        [
            [a - b for a, b in zip(left, right, strict=True)]
            for left, right in zip(first, second, strict=True)
        ],
        level,
    )


def _variance(stratum: Sequence[Array]) -> tuple[float, float]:
    """Return the variance of a stratum's mean, and its degrees of freedom (0: unknown)."""
    if len(stratum) > 1:
        means = np.asarray([seed.mean() for seed in stratum])
        return float(means.var(ddof=1)) / means.size, means.size - 1.0
    steps = stratum[0]
    if steps.size < 2:
        return 0.0, 0.0
    spread = float(steps.var(ddof=1))
    count = steps.size * (1.0 - (r := _autocorrelation(steps))) / (1.0 + r)
    count = max(count, 2.0)
    return spread / count, count - 1.0


def _autocorrelation(steps: Array) -> float:
    """Return the first autocorrelation, 0 where it is negative or cannot be told."""
    if steps.size < _ENOUGH:
        return 0.0
    centred = steps - steps.mean()
    power = float(centred @ centred)
    if power <= 1e-24 * float(steps @ steps):
        return 0.0
    return min(0.99, max(0.0, float(centred[1:] @ centred[:-1]) / power))
