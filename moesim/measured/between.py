"""How measured times are read between two points: the one rule of all tables.

A kernel's time is a sum of powers of what it is asked to do: a launch, then so much per token, then so much
per pair of tokens. Between two neighbouring points the two powers that fit are therefore joined:

* time grows no faster than the size: ``t = a + b x`` through both points;
* it grows faster: ``t / x = a + b x`` through both points.

The rule is exact at the points, positive and without jumps between them, and it does not depend on units.
With every other point left out it comes closer than a straight line of log t over log x, and than a monotone
cubic of them (see ``docs/cost-models.md``). Where a model of the kernel is at hand, ``guided`` lets it say
how time is spread between two points, which takes a fifth off the large errors. Nothing is ever read beyond
the outermost points.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


_RISE: Final = 1e-3
"""Share by which a model has to rise between two points before it is asked how."""


class Reading(NamedTuple):
    """What tables say.

    Attributes:
        seconds: times; 0 where the tables do not reach.
        inside: where they do.
    """

    seconds: Array
    inside: Mask


def between(x: Array, x0: Array, x1: Array, t0: Array, t1: Array) -> Array:
    """Return the time at ``x`` from those at ``x0 <= x <= x1``, elementwise (s).

    A point that is hit exactly is returned as it is, whatever stands on the other side. Between two points
    the result is NaN if either was never timed.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (x - x0) / (x1 - x0)
        steep = t1 * x0 > t0 * x1
        even = (1.0 - share) * t0 + share * t1
        curved = x * ((1.0 - share) * t0 / x0 + share * t1 / x1)
    mixed = np.where(steep, curved, even)
    return np.asarray(np.where(x == x0, t0, np.where(x == x1, t1, mixed)), dtype=np.float64)


def guided(
    x: Array, x0: Array, x1: Array, t0: Array, t1: Array, model: Array, model0: Array, model1: Array
) -> Array:
    """Return the time at ``x`` where a model knows the shape between two points, elementwise (s).

    ``t = a + b model(x)`` through both points, so the model says which part of the way is done at ``x``, and
    the points what the way costs. Where the model does not rise from one to the other it says nothing, and
    ``between`` holds.

    Args:
        x: size asked for.
        x0: measured size at or below it.
        x1: measured size at or above it.
        t0: time at ``x0`` (s).
        t1: time at ``x1`` (s).
        model: what the model says at ``x``, in any unit.
        model0: what it says at ``x0``.
        model1: what it says at ``x1``.
    """
    rise = model1 - model0
    knows = rise > _RISE * model1
    share = np.clip((model - model0) / np.where(knows, rise, 1.0), 0.0, 1.0)
    told = np.where(x == x0, t0, np.where(x == x1, t1, (1.0 - share) * t0 + share * t1))
    return np.where(knows, told, between(x, x0, x1, t0, t1))


def neighbours(points: Array, x: Array) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the places of the points around ``x``; the outermost ones if it lies beyond."""
    low = np.clip(np.searchsorted(points, x, side="right") - 1, 0, len(points) - 1)
    return low, np.minimum(low + 1, len(points) - 1)


def within(points: Array, x: Array) -> Mask:
    """Tell which sizes lie between the outermost points (NaN does not)."""
    return np.asarray((x >= points[0]) & (x <= points[-1]), dtype=np.bool_)


def nothing(*shapes: npt.ArrayLike) -> Reading:
    """Return a reading that says nothing, in the common shape of some sizes."""
    shape = np.broadcast_shapes(*(np.shape(one) for one in shapes))
    return Reading(np.zeros(shape), np.zeros(shape, dtype=np.bool_))


def idle(reading: Reading, amount: npt.ArrayLike) -> Reading:
    """Let nothing to do cost nothing: where ``amount`` is 0 the reading becomes an exact zero."""
    none = np.broadcast_to(np.asarray(amount) == 0, reading.seconds.shape)
    return Reading(np.where(none, 0.0, reading.seconds), reading.inside | none)
