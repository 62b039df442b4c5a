"""Own timings beside published ones in ``moesim accuracy``.

No constant of the package was fitted to them, so every row is scored under the constants that simulations
use. The protocol says where these come from: ``leave_model_out`` where they were fitted to published
timings of the same device and format, ``leave_device_out`` where they are generic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

import moesim
from moesim.accuracy.families import FAMILY_NAMES
from moesim.accuracy.own.calibrate import devices_rows
from moesim.accuracy.own.columns import OWN_FAMILIES
from moesim.accuracy.own.models import problems
from moesim.accuracy.own.plausible import check_times
from moesim.accuracy.own.problem import Problem
from moesim.accuracy.own.reader import OwnTimings, read_timings
from moesim.accuracy.score import points
from moesim.errors import InputError
from moesim.hardware.catalogue import load_device


def committed_files() -> list[Path]:
    """Return the timings that this checkout of the repository holds, none in an installed package."""
    folder = Path(moesim.__file__).resolve().parents[1] / "benchmarks" / "gpu"
    return sorted(folder.glob("*.csv")) if folder.is_dir() else []


def own_points(
    paths: Sequence[str | Path], device: str | None = None, family: str | None = None
) -> list[pd.DataFrame]:
    """Score files of own timings under the package's constants.

    Args:
        paths: the files.
        device: catalogue name; all devices by default.
        family: one family; all by default.

    Returns:
        Scored points, one frame per file, device, format and software.

    Raises:
        InputError: a file or a device cannot be used.
    """
    wanted = None if device is None else load_device(device).name
    found: list[pd.DataFrame] = []
    for path in paths:
        timings = read_timings(path)
        found += [_scored(timings, problem) for problem in _problems(timings, wanted, family)]
    return found


def _problems(timings: OwnTimings, device: str | None, family: str | None) -> Iterator[Problem]:
    """Yield what is scored of a file."""
    families = FAMILY_NAMES if family is None else (family,)
    rows = timings.rows[timings.rows["family"].isin(list(families))]
    for timed, part in devices_rows(timings, rows, None):
        if device is not None and timed.name != device:
            continue
        check_times(part, timed, timings.file)
        try:
            yield from problems(part, timed)
        except InputError as error:
            raise error.at(timings.file) from error


def _scored(timings: OwnTimings, problem: Problem) -> pd.DataFrame:
    shape = list(OWN_FAMILIES[problem.family].shape)
    rows = problem.rows.assign(shape="own", device=problem.device)
    loads = rows["dist"].where(rows["dist"].astype(bool), "counts") if problem.family == "moe" else None
    rows = rows.assign(**{name: rows[name].astype(int) for name in shape})
    if loads is not None:
        rows, shape = rows.assign(dist=loads), [*shape, "dist"]
    protocol = "leave_model_out" if problem.own else "leave_device_out"
    predicted = problem.build(problem.rows)(problem.start)
    return points(rows, predicted, source=timings.name, protocol=protocol, case=shape)
