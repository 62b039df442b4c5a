"""Options that several commands share, and how progress and JSON reach the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

F = TypeVar("F", bound=Callable[..., Any])

Report = Callable[[str, int, int], None]


def scenario_options(function: F) -> F:
    """Add what every command on a scenario takes."""
    for option in reversed(
        [
            click.argument("scenario", type=click.Path()),
            click.option(
                "--set",
                "overrides",
                multiple=True,
                metavar="KEY=VALUE",
                help="Change a value of the scenario, for example workload.steps=2. Repeatable.",
            ),
            click.option("--seed", type=click.IntRange(min=0), help="Seed of all random streams."),
            click.option(
                "--out", type=click.Path(), metavar="DIR", help="Write tables, plots, timeline and report."
            ),
            json_option,
            click.option(
                "--timing/--no-timing", default=True, help="Tell wall-clock times (default) or not."
            ),
        ]
    ):
        function = option(function)
    return function


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else."
)


def print_json(value: object) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def print_rich(renderable: RenderableType) -> None:
    """Print a table to stdout, in colour where a person looks."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 110
    Console(file=sys.stdout, width=width, highlight=False).print(renderable)


@contextmanager
def progress_bar() -> Iterator[Report]:
    """Show progress on stderr while a person watches; stay silent otherwise."""
    if not sys.stderr.isatty():
        yield lambda name, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    tasks: dict[str, Any] = {}
    with bar:

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done)

        yield report
