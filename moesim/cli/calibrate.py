"""``moesim calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moesim.cli.options import json_option
from moesim.cli.output import print_json, print_rich
from moesim.cli.progress import progress_bar

if TYPE_CHECKING:
    from rich.console import RenderableType

    from moesim.accuracy.own.calibrate import CalibrationReport


@click.command(short_help="Fit cost models to own timings.")
@click.argument("timings", type=click.Path(path_type=Path))
@click.option("--device", metavar="NAME|FILE", help="Device of the rows: catalogue name or datasheet YAML.")
@click.option("--family", "families", multiple=True, metavar="NAME", help="Only this family. Repeatable.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the constants as YAML.")
@click.option("--force", is_flag=True, help="Write even constants that predict worse than before.")
@json_option
def calibrate(
    timings: Path, device: str | None, families: tuple[str, ...], out: Path | None, force: bool, as_json: bool
) -> None:
    """Fit the constants of the cost models to a CSV of own timings.

    Says how far predictions are off before, and after on rows that were left out of the fit.
    """
    from moesim.accuracy.own.calibrate import calibrate as run

    if out is not None:
        _check_target(out)
    with progress_bar() as report:
        result = run(timings, device, families, progress=lambda done, total: report("fitting", done, total))
    if out is not None:
        from moesim.accuracy.own.overlay import write_overlay

        write_overlay(result, out, force=force)
    if as_json:
        written = None if out is None else str(out)
        print_json({"timings": result.timings.file, "rows": result.rows(), "written": written})
        return
    rows = result.rows()
    print_rich(_errors(rows))
    print_rich(_constants(rows))
    _tell(result, rows)
    if out is not None:
        click.echo(f"\nwrote {out}")


def _check_target(out: Path) -> None:
    """Refuse before the fits what cannot be written.

    Raises:
        InputError: the path is a folder, or its folder is missing.
    """
    from moesim.errors import InputError

    if out.is_dir() or not out.absolute().parent.is_dir():
        message = "is a folder" if out.is_dir() else "its folder does not exist"
        raise InputError(f"cannot write the calibration: {message}", str(out))


def _errors(rows: list[dict[str, Any]]) -> RenderableType:
    """Lay out errors before and after."""
    from rich.table import Table

    table = Table(
        title="Error before, after (on rows left out of the fit) and in sample: median / 90th percentile",
        title_justify="left",
    )
    for name in ("device", "family", "of"):
        table.add_column(name)
    for name in ("rows", "before", "after", "in sample"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["device"],
            row["family"],
            row["label"],
            str(row["count"]),
            *(_score(row[name]) for name in ("before", "after", "in_sample")),
        )
    return table


def _score(errors: dict[str, float] | None) -> str:
    return "-" if errors is None else f"{errors['median_ape']:.1%} / {errors['p90_ape']:.1%}"


def _constants(rows: list[dict[str, Any]]) -> RenderableType:
    """Lay out the fitted constants."""
    from rich.table import Table

    table = Table(title="Fitted constants (times in seconds)", title_justify="left")
    for name in ("family", "of", "constants"):
        table.add_column(name, overflow="fold")
    for row in rows:
        values = ", ".join(f"{name} {row['constants'][name]:.3g}" for name in row["fitted"])
        table.add_row(row["family"], row["label"], values)
    return table


def _tell(result: CalibrationReport, rows: list[dict[str, Any]]) -> None:
    """Print warnings and notes."""
    lines = [f"{row['family']} {row['label']}: {warning}" for row in rows for warning in row["warnings"]]
    for line in (*lines, *result.notes):
        click.echo(f"note: {line}")
