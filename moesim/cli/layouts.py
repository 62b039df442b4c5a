"""``moesim compare-layouts``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moesim.cli.options import json_option
from moesim.cli.output import print_json, print_rich
from moesim.cli.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType


@click.command("compare-layouts", short_help="Rank mixes of data, tensor and expert parallelism.")
@click.argument("scenario", type=click.Path())
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the scenario. Repeatable.",
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed of all random streams.")
@click.option("--policy", metavar="NAME", help="Policy to run; the scenario's first by default.")
@json_option
def compare_layouts(
    scenario: str, overrides: tuple[str, ...], seed: int | None, policy: str | None, as_json: bool
) -> None:
    """Run SCENARIO under every mix of tensor-parallel attention and experts, and rank them.

    Mixes that cannot run are listed with the reason.
    """
    from moesim.layouts import compare_layouts as run

    with progress_bar() as report:
        frame = run(scenario, overrides, seed, policy, report)
    if as_json:
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        print_json({"layouts": rows})
        return
    print_rich(_table(frame))


def _table(frame: pd.DataFrame) -> RenderableType:
    from rich.table import Table

    from moesim.units import format_bytes, format_time

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("attention", "experts", "ranks", "latency", "tokens/s", "peak memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("exchange", ""):
        table.add_column(name)
    for row in frame.to_dict("records"):
        shapes = (f"TP{row['attention_tp']}", f"TP{row['expert_tp']}", f"EP{row['ranks']}")
        if row["reason"]:
            table.add_row(*shapes, "", "", "", str(row["exchange"]), str(row["reason"]))
            continue
        table.add_row(
            *shapes,
            format_time(float(row["latency_s"])),
            f"{row['tokens_per_s']:,.0f}",
            format_bytes(float(row["peak_memory_bytes"])),
            str(row["exchange"]),
            "" if row["fits"] else "out of memory",
        )
    return table
