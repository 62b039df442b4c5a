"""``moesim accuracy``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from moesim.cli.options import json_option
from moesim.cli.output import print_json, print_rich
from moesim.cli.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType
    from rich.table import Table

    from moesim.accuracy import AccuracyReport


@click.command(short_help="Score cost models on measured timings.")
@click.option("--device", metavar="NAME", help="Only this device (default: all with measurements).")
@click.option("--family", metavar="NAME", help="Only this family, for example moe or all_to_all.")
@click.option(
    "--timings",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Score own timings too, see docs/measurements.md. Repeatable.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Write tables and a plot.")
@json_option
def accuracy(
    device: str | None, family: str | None, timings: tuple[Path, ...], out: Path | None, as_json: bool
) -> None:
    """Compare the cost models with published measurements that their constants have not seen."""
    import os

    from moesim.accuracy import accuracy as run

    with progress_bar() as report:
        result = run(
            device,
            family,
            progress=lambda done, total: report("predicting", done, total),
            timings=timings,
            workers=os.cpu_count() or 1,
        )
    if out is not None:
        _write(result, out)
    if as_json:
        print_json({"rows": result.rows.to_dict("records"), "notes": list(result.notes)})
        return
    print_rich(_table(result.rows))
    print_rich(_worst(result.worst))
    for note in result.notes:
        print_rich(note)


def _write(result: AccuracyReport, out: Path) -> None:
    """Write summary, worst cases and the plot."""
    from moesim.results.plots.style import render

    out.mkdir(parents=True, exist_ok=True)
    result.rows.to_csv(out / "accuracy.csv", index=False)
    result.worst.to_csv(out / "accuracy_worst.csv", index=False)
    if len(result.points):
        (out / "accuracy.png").write_bytes(render(result.plot(), "png"))


def _plain(title: str) -> Table:
    from rich.table import Table

    return Table(
        title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold"
    )


def _table(rows: pd.DataFrame) -> RenderableType:
    """Lay out the summary."""
    table = _plain("Predicted against measured (absolute percentage error)")
    for name in ("device", "family", "dtype", "software", "left out"):
        table.add_column(name, no_wrap=name != "software", overflow="fold")
    for name in ("count", "median", "mean", "p90", "worst"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows.to_dict("records"):
        table.add_row(
            *(str(row[name]) for name in ("device", "family", "dtype", "backend")),
            # Points are left out of tables (source measured), the others of fits (source analytic).
            str(row["protocol"]).removeprefix("leave_").removesuffix("_out"),
            str(row["count"]),
            *(f"{row[name]:.1%}" for name in ("median_ape", "mean_ape", "p90_ape", "max_ape")),
        )
    return table


def _worst(worst: pd.DataFrame) -> RenderableType:
    """Lay out the worst analytic predictions of the whole run."""
    table = _plain("Furthest off")
    for name in ("device", "dtype", "software", "case"):
        table.add_column(name, no_wrap=name == "device", overflow="fold")
    for name in ("measured", "predicted", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    order = worst["error"].abs().sort_values(ascending=False).index[:10]
    for row in worst.loc[order].to_dict("records"):
        table.add_row(
            str(row["device"]),
            str(row["dtype"]),
            str(row["backend"]),
            f"{row['family']} {row['shape']} {row['case']}",
            f"{row['measured_s'] * 1e6:.4g} µs",
            f"{row['predicted_s'] * 1e6:.4g} µs",
            f"{row['error']:+.0%}",
        )
    return table
