"""Calibrating the cost models with own timings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pandas as pd

from moesim.accuracy.own.columns import OWN_FAMILIES
from moesim.accuracy.own.datasheet import Timed, timed_devices
from moesim.accuracy.own.fitting import FitResult, Score, solve
from moesim.accuracy.own.models import problems
from moesim.accuracy.own.plain_models import plain_problems
from moesim.accuracy.own.plausible import check_times
from moesim.accuracy.own.problem import Problem
from moesim.accuracy.own.reader import OwnTimings, read_timings
from moesim.errors import InputError, unknown_name

INSTALL: Final = "pip install 'moesim[calibrate]'"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """What own timings say of the cost models.

    Attributes:
        timings: the file.
        results: one fit per device, family, number format and software.
        notes: what a reader should know of the file.
    """

    timings: OwnTimings
    results: tuple[FitResult, ...]
    notes: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return one plain mapping per fit, for JSON."""
        return [
            {
                "device": result.problem.device,
                "family": result.problem.family,
                "label": result.problem.label,
                "count": len(result.problem.rows),
                "before": _errors(result.before),
                "after": _errors(result.after),
                "in_sample": _errors(result.within),
                "before_measured_on_device": result.problem.own,
                "fitted": list(result.problem.free),
                "constants": result.constants,
                "warnings": list(result.warnings),
            }
            for result in self.results
        ]


def calibrate(
    path: str | Path,
    device: str | None = None,
    families: Sequence[str] = (),
    progress: Progress | None = None,
) -> CalibrationReport:
    """Fit the constants of the cost models to a file of own timings.

    Args:
        path: the file, see docs/measurements.md.
        device: catalogue name or datasheet file; by default every device that the rows name.
        families: families to fit, all by default.
        progress: called with (fits done, in all).

    Raises:
        InputError: the file, the device or a family cannot be used, there are too few rows for a fit, or
            SciPy is missing.
    """
    if find_spec("scipy") is None:
        message = "fitting constants needs scipy"
        raise InputError(message, hint=INSTALL)
    for name in families:
        if name not in OWN_FAMILIES:
            raise unknown_name("family of timings", name[:60], OWN_FAMILIES)
    timings = read_timings(path)
    rows = timings.rows[timings.rows["family"].isin(list(families))] if families else timings.rows
    if rows.empty:
        message = f"holds no rows of {', '.join(families)}"
        raise InputError(message, timings.file, hint=f"it has {', '.join(timings.rows['family'].unique())}")
    found: list[Problem] = []
    for timed, part in devices_rows(timings, rows, device):
        found += _checked(timings, part, timed)
    results = []
    for done, problem in enumerate(found):
        if progress is not None:
            progress(done, len(found))
        results.append(solve(problem))
    return CalibrationReport(timings, tuple(results), tuple(_notes(rows)))


def devices_rows(
    timings: OwnTimings, rows: pd.DataFrame, device: str | None
) -> list[tuple[Timed, pd.DataFrame]]:
    """Return rows by device.

    Raises:
        InputError: a device is not known; names the first row of it.
    """
    try:
        known = timed_devices(rows["device"].tolist(), device)
    except InputError as error:
        raise error.at(timings.file) from error
    places: dict[str, Timed] = {timed.name: timed for timed in known.values()}
    return [
        (timed, rows[rows["device"].map(lambda word, name=name: word in known and known[word].name == name)])
        for name, timed in places.items()
    ]


def _checked(timings: OwnTimings, rows: pd.DataFrame, timed: Timed) -> list[Problem]:
    """Return the problems of one device, after its times and the numbers of rows are checked."""
    check_times(rows, timed, timings.file)
    try:
        found = [*problems(rows, timed), *plain_problems(rows, timed)]
    except InputError as error:
        raise error.at(timings.file) from error
    for problem in found:
        least = OWN_FAMILIES[problem.family].minimum
        if len(problem.rows) < least:
            what = f"{problem.family} {problem.label}".strip()
            message = f"has {len(problem.rows)} rows of {what} on {timed.name}; a fit needs at least {least}"
            hint = "time more shapes, or choose other families with --family"
            raise InputError(message, timings.file, int(problem.rows["line"].iloc[0]), hint=hint)
    return found


def _notes(rows: pd.DataFrame) -> list[str]:
    """Return what a reader should know of a file."""
    notes = []
    if (rows["smoke"] == "yes").any():
        notes.append("rows of a smoke run say whether the tools work, not how fast a device is")
    versions = rows[["driver", "library"]].drop_duplicates()
    if len(versions) > 1:
        notes.append(f"rows of {len(versions)} versions of driver or libraries are fitted together")
    return notes


def _errors(score: Score | None) -> dict[str, float] | None:
    return None if score is None else {"median_ape": score.median, "p90_ape": score.p90}
