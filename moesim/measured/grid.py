"""Times over a grid of sizes, some of which perhaps nobody took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.measured.between import Array, Mask, Reading, between, neighbours, nothing, within


@dataclass(frozen=True, eq=False)
class Grid:
    """Times over sizes.

    Attributes:
        points: measured sizes along each axis, rising.
        seconds: one time per combination, NaN where there is none.
    """

    points: tuple[Array, ...]
    seconds: Array

    @classmethod
    def of(cls, columns: Sequence[npt.ArrayLike], seconds: npt.ArrayLike) -> Grid:
        """Make a grid of rows; of several rows with the same sizes the quickest counts.

        Args:
            columns: sizes of the rows, one array per axis.
            seconds: their times.
        """
        found = [np.unique(np.asarray(column, dtype=np.float64), return_inverse=True) for column in columns]
        table = np.full([len(points) for points, _ in found], np.inf)
        np.minimum.at(
            table, tuple(place.ravel() for _, place in found), np.asarray(seconds, dtype=np.float64)
        )
        return cls(tuple(points for points, _ in found), np.where(np.isinf(table), np.nan, table))

    def read(self, *sizes: npt.ArrayLike) -> Reading:
        """Read times off, along one axis after the other.

        Args:
            sizes: one per axis; numbers or arrays that broadcast together. Numbers are cheaper.
        """
        asked = [np.asarray(size, dtype=np.float64) for size in sizes]
        table, left = self.seconds, list(zip(self.points, asked, strict=True))
        for axis in reversed(range(len(left))):
            points, size = left[axis]
            if size.ndim:
                continue
            if not within(points, size):
                return nothing(*asked)
            low, high = neighbours(points, size)
            planes = (np.take(table, place, axis=axis) for place in (low, high))
            table = between(size, points[low], points[high], *planes)
            del left[axis]
        seconds, inside = _pointwise(table, left)
        return Reading(np.where(inside, seconds, 0.0), inside)


def _pointwise(table: Array, axes: list[tuple[Array, Array]]) -> tuple[Array, Mask]:
    """Read a table at arrays of sizes, one per remaining axis."""
    seconds = _corner(table, axes, ())
    inside = np.isfinite(seconds)
    for points, size in axes:
        inside = inside & within(points, size)
    return seconds, np.asarray(inside, dtype=np.bool_)


def _corner(table: Array, axes: list[tuple[Array, Array]], chosen: tuple[npt.NDArray[np.intp], ...]) -> Array:
    """Join the two sides of the axis after those chosen, each joined along the axes behind it."""
    if len(chosen) == len(axes):
        return np.asarray(table[chosen], dtype=np.float64)
    points, size = axes[len(chosen)]
    low, high = neighbours(points, size)
    sides = (_corner(table, axes, (*chosen, place)) for place in (low, high))
    return between(size, points[low], points[high], *sides)
