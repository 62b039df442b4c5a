"""Score the cost models against all measurements."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from moesim.accuracy.families import Family, families, family_named
from moesim.accuracy.own.score import committed_files, own_points
from moesim.accuracy.protocols import Array, leave_device_out, leave_model_out, read_off_neighbours
from moesim.accuracy.score import POINT_COLUMNS, points, summarise, worst_cases
from moesim.accuracy.whole_steps import NAME, step_points
from moesim.errors import InputError
from moesim.hardware.catalogue import catalogue_entry
from moesim.measured.moe_tables import set_aside_notes
from moesim.measured.rows import GROUP, Measured, thin, thin_curves
from moesim.measured.tables import check_device, installed, measured_devices

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GUIDED: Final = ("moe",)
"""Families whose measured prices are read along the predictions of their model."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class AccuracyReport:
    """Predicted against measured.

    Attributes:
        rows: one row per device, family, dtype, backend, source and protocol with count, median_ape,
            mean_ape, p90_ape and max_ape (fractions).
        points: one row per scored measurement: measured_s, predicted_s, error (predicted over measured
            minus 1) and the case's name.
        notes: timings that no row counts, and why.
    """

    rows: pd.DataFrame
    points: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> pd.DataFrame:
        """The three points furthest off of every row of ``rows``."""
        return worst_cases(self.points)

    def plot(self) -> Figure:
        """Draw predicted against measured, one panel per family and protocol."""
        from moesim.accuracy.plot import predicted_against_measured

        return predicted_against_measured(self.points)


def accuracy(
    device: str | None = None,
    family: str | None = None,
    progress: Progress | None = None,
    timings: Sequence[str | Path] = (),
    workers: int = 1,
) -> AccuracyReport:
    """Predict measured timings that the models' constants have not seen, and sum up the errors.

    Args:
        device: catalogue name; all devices with measurements by default.
        family: one family; all by default.
        progress: called with (families and devices done, in all).
        timings: files of own timings that take part beside those of the repository.
        workers: processes that share the work, where the system can split this one.

    Raises:
        InputError: there is no such device or family, a file of own timings cannot be used, or the tables
            are not installed (or lack the device) and there are no own timings either.
    """
    own = own_points([*timings, *committed_files()], device, family)
    steps: list[pd.DataFrame] = []
    chosen: list[Family] = []
    if family in (None, NAME):
        known = catalogue_entry(device).device.name if device is not None else None
        steps = [part for part in step_points(known) if len(part)]
    if family != NAME:
        chosen = [family_named(family)] if family is not None else list(families().values())
    try:
        devices = (check_device(device),) if device is not None else measured_devices()
    except InputError:
        if not own and not (steps and (family == NAME or installed())):
            raise
        devices = ()
    scored = [*own, *steps]
    tasks = [(one, name) for one in chosen for name in devices]
    for done, parts in enumerate(_scored(tasks, workers), 1):
        scored.extend(parts)
        if progress is not None:
            progress(done, len(tasks))
    together = pd.concat(scored, ignore_index=True) if scored else pd.DataFrame(columns=list(POINT_COLUMNS))
    notes = [note for one, name in tasks if one.name == "moe" for note in set_aside_notes(name)]
    return AccuracyReport(rows=summarise(together), points=together, notes=tuple(notes))


def _scored(tasks: Sequence[tuple[Family, str]], workers: int) -> Iterator[list[pd.DataFrame]]:
    """Yield the points of each family and device, in order."""
    if min(workers, len(tasks)) < 2 or "fork" not in get_all_start_methods():
        yield from map(_points_of, tasks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        yield from pool.map(_points_of, tasks)


def _points_of(task: tuple[Family, str]) -> list[pd.DataFrame]:
    """Return what there is of one family on one device."""
    return [part for part in score_device(*task) if len(part)]


def score_device(family: Family, device: str) -> Iterator[pd.DataFrame]:
    """Yield scored points of one family on one device, protocol by protocol."""
    case = list(family.case)
    rows = family.measured(device)
    if rows.empty:
        return
    for key, whole in rows.groupby(list(GROUP), sort=True, observed=True):
        curves = thin_curves(whole, family.fit_rows, family.curve)
        group = curves if family.name in GUIDED else thin(whole, family.fit_rows)
        unseen = each_model_left_out(family, group)
        yield points(group, unseen, source="analytic", protocol="leave_model_out", case=case)
        split = leave_device_out([*_same_group(family, device, key), group], device)
        elsewhere = unseen
        if split is not None:
            elsewhere = family.predict(*split)
            yield points(split[1], elsewhere, source="analytic", protocol="leave_device_out", case=case)
        guide = np.where(np.isfinite(unseen), unseen, elsewhere) if family.name in GUIDED else None
        read = read_off_neighbours(curves, family.curve, family.axis, guide)
        yield points(curves, read, source="measured", protocol="leave_points_out", case=case)


def each_model_left_out(family: Family, group: Measured) -> Array:
    """Predict every row with constants fitted to the other models' rows; NaN if there is but one model."""
    unseen = getattr(family, "unseen", None)
    if unseen is not None:
        return np.asarray(unseen(group), dtype=np.float64)
    result = np.full(len(group), np.nan)
    for train, test in leave_model_out(group):
        result[group.index.get_indexer(test.index)] = family.predict(train, test)
    return result


def _same_group(family: Family, device: str, key: tuple[Hashable, ...]) -> Iterator[Measured]:
    """Yield the rows of a precision and software on every other device, thinned."""
    others = [name for name in measured_devices() if name != device]
    for name in others:
        frame = family.measured(name)
        if len(frame):
            same = frame[np.logical_and.reduce([frame[k] == v for k, v in zip(GROUP, key, strict=True)])]
            yield thin(same, max(1, family.fit_rows // max(1, len(others))))
