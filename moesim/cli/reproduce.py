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

    from moesim.papers.paper import Paper


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
            print_rich(_render(load_paper(one), rows[rows["paper"] == one]))


def _render(paper: Paper, rows: pd.DataFrame) -> RenderableType:
    """Lay out the points of a paper, figure by figure with median and worst error, and what they rest on."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(f"{paper.paper}: {paper.title}", style="bold"), Text()]
    width = max(len("point"), *(len(point) for point in rows["point"]))
    for figure, points in rows.groupby("figure", sort=False):
        sizes = points["relative_error"].abs()
        told = f"error: median {sizes.median():.1%}, worst {sizes.max():.1%}"
        parts.append(Text.assemble((str(figure), "bold"), f"  {told}"))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("point", min_width=width)
        for column in (f"published [{points['unit'].iloc[0]}]", "predicted", "error"):
            table.add_column(Text(column), justify="right")
        table.add_column("seen")
        for point in points.itertuples():
            table.add_row(
                Text(str(point.point)),
                f"{point.published:.3g}",
                f"{point.predicted:.3g}",
                f"{point.relative_error:+.1%}",
                str(point.mark),
            )
        parts += [Padding(table, (0, 0, 1, 2))]
    for title, text in (
        ("Source", paper.source),
        ("Modelled", paper.modelled),
        ("Not modelled", paper.not_modelled),
        ("Constants", paper.constants),
    ):
        parts += [Text.assemble((f"{title}: ", "bold"), " ".join(text.split())), Text()]
    return Group(*parts)
