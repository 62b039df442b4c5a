"""Who is left out: splits that never score a row which the constants have seen.

``leave_model_out``   constants of a device and precision come from all other models' rows;
``leave_device_out``  constants come from other devices only, as shares of their datasheets' peaks;
``leave_points_out``  a point of a measured curve is read off its two neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from moesim.measured.between import between, guided
from moesim.measured.rows import Measured

Array = npt.NDArray[np.float64]


def leave_model_out(group: Measured) -> Iterator[tuple[Measured, Measured]]:
    """Yield (train, test) per shape name; nothing if there are fewer than two."""
    for held in models(group):
        yield group[~held], group[held]


def models(group: Measured) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield which rows are those of one shape name, name by name; nothing if there are fewer than two."""
    shapes = group["shape"].to_numpy()
    names = sorted(set(shapes))
    if len(names) > 1:
        for name in names:
            yield shapes == name


def leave_device_out(groups: Sequence[Measured], device: str) -> tuple[Measured, Measured] | None:
    """Return (train, test) of one precision and software over devices, or None without other devices."""
    others = [group for group in groups if len(group) and group["device"].iloc[0] != device]
    own = [group for group in groups if len(group) and group["device"].iloc[0] == device]
    if not others or not own:
        return None
    return pd.concat(others, ignore_index=True), own[0]


def read_off_neighbours(
    group: Measured, curve: Sequence[str], axis: str, guide: Array | None = None
) -> Array:
    """Predict every inner point of every measured curve as if it, and every other one, were not there.

    A point is read between its two neighbours by the rule of all measured prices, so dropping every other
    point of a curve, once the odd and once the even ones, gives these very numbers.

    Args:
        group: rows of one device, precision and software.
        curve: columns that are constant along a curve.
        axis: column that varies along it, positive.
        guide: seconds per row that a model predicts which has seen no row of its shape; where given, points
            are joined along it. NaN where there is no prediction.

    Returns:
        Seconds per row; NaN where a point has no neighbour on both sides.
    """
    result = np.full(len(group), np.nan)
    size = group[axis].to_numpy(dtype=np.float64)
    seconds = group["seconds"].to_numpy(dtype=np.float64)
    for found in group.groupby(list(curve), sort=False, observed=True).indices.values():
        places = np.asarray(found, dtype=np.intp)
        order = places[np.argsort(size[places], kind="stable")]
        left, here, right = order[:-2], order[1:-1], order[2:]
        around = (size[here], size[left], size[right], seconds[left], seconds[right])
        read = between(*around)
        if guide is not None and np.isfinite(guide[order]).all():
            read = guided(*around, guide[here], guide[left], guide[right])
        result[here] = np.where((size[left] < size[here]) & (size[here] < size[right]), read, np.nan)
    return result
