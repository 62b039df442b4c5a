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

from moesim.measured.rows import Measured

Array = npt.NDArray[np.float64]


def leave_model_out(group: Measured) -> Iterator[tuple[Measured, Measured]]:
    """Yield (train, test) per shape name; nothing if there are fewer than two."""
    shapes = group["shape"].unique()
    if len(shapes) < 2:
        return
    for shape in sorted(shapes):
        held = (group["shape"] == shape).to_numpy()
        yield group[~held], group[held]


def leave_device_out(groups: Sequence[Measured], device: str) -> tuple[Measured, Measured] | None:
    """Return (train, test) of one precision and software over devices, or None without other devices."""
    others = [group for group in groups if len(group) and group["device"].iloc[0] != device]
    own = [group for group in groups if len(group) and group["device"].iloc[0] == device]
    if not others or not own:
        return None
    return pd.concat(others, ignore_index=True), own[0]


def read_off_neighbours(
    group: Measured, curve: Sequence[str], axis: str, baseline: Array | None = None
) -> Array:
    """Predict every inner point of every measured curve from the rest of its curve, log-log.

    With a baseline, what is interpolated is how far measurements are from it: the baseline knows the steps
    between two points (whole blocks, waves), the neighbours know its error.

    Args:
        group: rows of one device, precision and software.
        curve: columns that are constant along a curve.
        axis: column that varies along it, positive.
        baseline: seconds per row predicted without any row of its shape; NaN where there is none.

    Returns:
        Seconds per row; NaN where a point has no neighbour on both sides.
    """
    result = np.full(len(group), np.nan)
    axis_log = np.log(group[axis].to_numpy(dtype=float))
    base_log = np.log(np.ones(len(group)) if baseline is None else np.nan_to_num(baseline, nan=1.0))
    time_log = np.log(group["seconds"].to_numpy(dtype=float)) - base_log
    for places in group.groupby(list(curve), sort=False, observed=True).indices.values():
        order = places[np.argsort(axis_log[places], kind="stable")]
        result[order] = _each_left_out(axis_log[order], time_log[order])
    return np.asarray(np.exp(result + base_log), dtype=np.float64)


def _each_left_out(x: Array, y: Array) -> Array:
    """Interpolate every inner point of one curve between its neighbours; NaN at the ends."""
    left = np.full(len(x), np.nan)
    if len(x) < 3:
        return left
    span = x[2:] - x[:-2]
    share = np.divide(x[1:-1] - x[:-2], span, out=np.full(len(span), np.nan), where=span > 0)
    left[1:-1] = y[:-2] + share * (y[2:] - y[:-2])
    return left
