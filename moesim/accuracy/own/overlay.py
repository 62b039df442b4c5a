"""Writing fitted constants as a calibration file, which simulations read in front of the package's own."""

from __future__ import annotations

import contextlib
import datetime
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from moesim import __version__
from moesim.accuracy.own.calibrate import CalibrationReport
from moesim.accuracy.own.fitting import FitResult
from moesim.errors import InputError

_HEAD = """\
# Constants of cost models, fitted to own timings by `moesim calibrate`. A scenario uses them with
#   costs: {calibration: THIS FILE}
# Times in seconds, everything else a share or count; errors are absolute, as fractions of the measured time:
# `before` under the package's constants, `after` on rows left out of the fit that predicted them.
"""


def overlay(report: CalibrationReport) -> dict[str, Any]:
    """Return the constants in the layout of the package's own data, with ``source``."""
    rows = report.timings.rows
    tree: dict[str, Any] = {
        "source": {
            "file": report.timings.name,
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            "rows": sum(len(result.problem.rows) for result in report.results),
            "measured": sorted(set(rows["date"])),
            "libraries": sorted(set(rows["library"])),
            "drivers": sorted(set(rows["driver"])),
            "moesim": __version__,
            "fits": [_fit(result) for result in report.results],
        }
    }
    for result in report.results:
        *path, last = result.problem.place or ("source", "device", result.problem.device, _name(result))
        inner = tree
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = {**_plain(result.constants), **result.problem.kept}
    return tree


def write_overlay(report: CalibrationReport, path: str | Path, *, force: bool = False) -> None:
    """Write a calibration file whole or not at all.

    Args:
        report: fitted constants.
        path: the file, replaced if it is there.
        force: write even if constants predict worse than the package's.

    Raises:
        InputError: a fit predicts rows it has not seen worse than the package's constants do.
    """
    worse = [result for result in report.results if result.worse and result.problem.place]
    if worse and not force:
        message = "not written: rows left out are predicted worse than without a calibration: " + ", ".join(
            f"{result.problem.family} {result.problem.label} ({_change(result)})" for result in worse[:4]
        )
        hint = "time more shapes, leave the family out with --family, or write anyway with --force"
        raise InputError(message, str(path), hint=hint)
    text = _HEAD + yaml.dump(overlay(report), Dumper=_Dumper, sort_keys=False, width=110)
    target = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


class _Dumper(yaml.SafeDumper):
    """Writes numbers so that YAML 1.1 and 1.2 read them as numbers, and constants on one line."""


def _number(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    text = f"{value:.5g}"
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        text = f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
    elif "." not in text:
        text += ".0"
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _mapping(dumper: yaml.SafeDumper, value: Mapping[str, Any]) -> yaml.MappingNode:
    flat = not any(isinstance(inner, (dict, list)) for inner in value.values())
    return dumper.represent_mapping("tag:yaml.org,2002:map", value.items(), flow_style=flat)


_Dumper.add_representer(float, _number)
_Dumper.add_representer(dict, _mapping)


def _fit(result: FitResult) -> dict[str, Any]:
    problem = result.problem
    entry: dict[str, Any] = {
        "family": problem.family,
        "device": problem.device,
        "of": problem.label,
        "rows": len(problem.rows),
    }
    for name, score in (("before", result.before), ("after", result.after), ("in_sample", result.within)):
        if score is not None:
            entry[f"{name}_median"], entry[f"{name}_p90"] = score.median, score.p90
    return entry


def _name(result: FitResult) -> str:
    return f"{result.problem.family} {result.problem.label}".strip()


def _plain(constants: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in constants.items()}


def _change(result: FitResult) -> str:
    before, after = (score.median if score else 0.0 for score in (result.before, result.after))
    return f"{before:.1%} before, {after:.1%} after"
