"""What reaches stdout: JSON, tables, results."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from moesim.cli.progress import Report, stoppable_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType
    from rich.table import Table

    from moesim.results import Comparison, Ranking, Result

_WIDTH = 100
"""Columns where no terminal says otherwise, so that files hold the same bytes everywhere."""


def print_json(value: object) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def print_rich(renderable: RenderableType) -> None:
    """Print a renderable, in colour where a person looks."""
    from rich.console import Console

    console = Console(file=sys.stdout, width=_width(), highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as captured:
        console.print(renderable)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH


def print_rows(title: str, rows: Sequence[dict[str, Any]], as_json: bool, hide: Sequence[str] = ()) -> None:
    """Print rows as JSON under a key, or as a table.

    Args:
        title: the key, and what the table counts.
        rows: mappings with the same keys.
        as_json: print JSON.
        hide: keys that only JSON shows, because they are long.
    """
    if as_json:
        print_json({title: list(rows)})
        return
    if rows:
        print_rich(table_of([{key: row[key] for key in row if key not in hide} for row in rows]))
    click.echo(f"\n{len(rows)} {title}" if rows else f"no {title}")


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """Lay out rows with the same keys, numbers to the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for key in rows[0]:
        values = [row[key] for row in rows]
        number = any(isinstance(value, (int, float)) for value in values)
        head = key.removesuffix("_b").replace("_", " ") + (" (B)" if key.endswith("_b") else "")
        # On a narrow terminal heads of two words and long texts take more lines; nothing is cut off.
        short = " " not in head and max(len(text_of(value)) for value in values) <= 24
        table.add_column(
            head, justify="right" if number else "left", overflow="fold", no_wrap=short or key == "name"
        )
    for row in rows:
        table.add_row(*(Text(text_of(value)) for value in row.values()))
    return table


def text_of(value: object) -> str:
    """Show a value on one line."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(text_of(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {text_of(item)}" for key, item in value.items())
    return str(value)


def deliver(
    run: Callable[[Report], Result | Comparison | Ranking], out: str | None, as_json: bool, timing: bool
) -> None:
    """Run, write to a directory and print; Ctrl-C leaves what is done, with exit status 130.

    What was computed is printed even if it cannot be written.

    Args:
        run: makes the result, given a function to report progress to.
        out: directory to write to, if any.
        as_json: print JSON.
        timing: tell the wall-clock time.
    """
    from moesim.experiment import Interrupted

    told = None
    with stoppable_progress() as report:
        try:
            done = run(report)
        except Interrupted as stop:
            done, told = stop.done, stop.told
    try:
        if out is not None:
            done.save(out, timing=timing)
    finally:
        _print_run(done, as_json, timing)
    if out is not None:
        click.echo(f"wrote {out}; start with report.html", err=True)
    if told is not None:
        click.echo(f"moesim: interrupted; {told}", err=True)
        click.get_current_context().exit(130)


def _print_run(run: Result | Comparison | Ranking, as_json: bool, timing: bool) -> None:
    from moesim.results import Ranking, Result
    from moesim.results.render import render_comparison, render_result
    from moesim.results.render_ranking import render_ranking
    from moesim.units import format_time

    if as_json:
        print_json(run.summary(timing=timing) if isinstance(run, Result) else run.to_dict())
    elif isinstance(run, Ranking):
        print_rich(render_ranking(run))
    else:
        print_rich(render_result(run) if isinstance(run, Result) else render_comparison(run, width=_width()))
    if timing:
        results = (run,) if isinstance(run, Result) else run.results
        wall = sum(result.wall_s or 0.0 for result in results)
        simulated = sum(float(result.steps["latency_s"].sum()) for result in results)
        events = sum(result.events for result in results)
        click.echo(
            f"{events:,} events, {format_time(simulated)} simulated in {format_time(wall)}",
            err=True,
        )
