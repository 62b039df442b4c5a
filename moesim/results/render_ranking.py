"""A ranking as rich renderables for a terminal of 100 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from moesim.results.explain_ranking import explain_standing, seconds, times, what_intervals_are
from moesim.units import format_bytes

if TYPE_CHECKING:
    from moesim.results.ranking import Ranking, Standing

_LONG_NAME = 18


def render_ranking(ranking: Ranking) -> Group:
    """Return a ranking for printing: one row per policy, best first, then why, then what did not fit."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    long = max(len(one.name) for one in ranking.standings) > _LONG_NAME
    for head in ("", "policy", "latency", "speed-up", "above bound", "peak memory", "memory"):
        name = head == "policy"
        table.add_column(
            head, justify="left" if name else "right", no_wrap=not (name and long), overflow="fold"
        )
    for one in ranking.ranked:
        above = one.latency.mean / one.bound_s - 1 if one.bound_s else 0.0
        table.add_row(
            f"{one.rank}{'=' if one.tied else '.'}",
            Text(one.name + ("" if one.exact else "*"), style="bold" if one.rank == 1 else ""),
            seconds(one.latency),
            "baseline" if one.name == ranking.baseline else times(one.speedup),
            f"{100 * above:+.0f} %",
            format_bytes(one.peak_memory_bytes),
            _verdict(one),
        )
    parts: list[RenderableType] = [Text(ranking.name, style="bold"), Text(), table, Text()]
    said = what_intervals_are(ranking)
    if any(one.tied for one in ranking.standings):
        said += "; '=': cannot be told apart from the rank above"
    if not all(one.exact for one in ranking.standings):
        said += "; '*': changes the model's output"
    parts.append(Text(said, style="dim"))
    for one in ranking.ranked:
        if one.name != ranking.baseline or not one.fits:
            first, *rest = explain_standing(ranking, one)
            parts += [Text(), Text(first, style="bold")]
            parts += [Padding(Text(line.strip()), (0, 0, 0, 2)) for line in rest]
    if ranking.unfit:
        parts += [Text(), Text("do not fit this scenario", style="bold")]
        parts += [Padding(Text(f"{one.name}: {one.reason}"), (0, 0, 0, 2)) for one in ranking.unfit]
    notes = dict.fromkeys(note for result in ranking.results for note in result.notes)
    if notes:
        parts += [Text(), *(Text(f"note: {note}", style="dim") for note in notes)]
    return Group(*parts)


def _verdict(one: Standing) -> Text:
    return Text("fits", style="green") if one.fits else Text("runs out", style="bold red")
