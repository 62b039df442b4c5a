"""``moesim reproduce``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moesim.cli.options import json_option
from moesim.cli.output import print_json, print_rich
from moesim.cli.progress import progress_bar
from moesim.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType


@click.command(short_help="Predict published figures of a paper.")
@click.argument("paper", required=False)
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print the rows as CSV.")
def reproduce(paper: str | None, as_json: bool, as_csv: bool) -> None:
    """Predict the published figures of PAPER (all papers by default) and show them side by side."""
    from moesim.papers import load_paper, paper_names
    from moesim.papers import reproduce as run

    if as_json and as_csv:
        message = "--json and --csv exclude each other"
        raise InputError(message)
    name = "predicting"
    with progress_bar() as report:
        rows = run(paper, progress=lambda done, total: report(name, done, total))
    if as_json:
        print_json({"rows": rows.to_dict("records")})
    elif as_csv:
        click.echo(rows.to_csv(index=False), nl=False)
    else:
        for one in [paper] if paper is not None else paper_names():
            print_rich(_render(rows[rows["paper"] == one]))
            about = load_paper(one)
            for title, text in (
                ("Source", about.source),
                ("Modelled", about.modelled),
                ("Not modelled", about.not_modelled),
                ("Constants", about.constants),
            ):
                click.echo(f"{title}: {' '.join(text.split())}\n")


def _render(rows: pd.DataFrame) -> RenderableType:
    """Lay out the points of one paper, figure by figure, each with its median and worst error."""
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{rows['paper'].iloc[0]}: predicted beside published", style="bold")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, column in enumerate(("figure / point", "published", "predicted", "error", "seen")):
        table.add_column(column, justify="right" if 0 < place < 4 else "left")
    for figure, points in rows.groupby("figure", sort=False):
        sizes = points["relative_error"].abs()
        summary = f"median {sizes.median():.1%}, worst {sizes.max():.1%}"
        table.add_row()
        table.add_row(Text(f"{figure} ({points['unit'].iloc[0]})", style="bold"), "", "", "", summary)
        for point in points.itertuples():
            table.add_row(
                Text(f"  {point.point}"),
                f"{point.published:.3g}",
                f"{point.predicted:.3g}",
                f"{point.relative_error:+.1%}",
                str(point.mark),
            )
    return table
