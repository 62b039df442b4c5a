"""Results as rich renderables for a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from moesim.causes import CAUSES
from moesim.results.explain import SAID, explain_one, out_of_memory_line, output_line
from moesim.results.memory import fullest_device, holding, own_memory
from moesim.results.metrics import ratio
from moesim.results.serving_words import SERVING_HEADS, serving_lines, serving_rows
from moesim.units import format_bytes, format_time

if TYPE_CHECKING:
    from moesim.results.comparison import Comparison
    from moesim.results.result import Result

_BAR = 24
_WIDE = 96
_LONG_NAME = 16
_LABEL = 19


class ShareBar:
    """A bar whose length is a share of its width; plain signs where the terminal knows no others."""

    def __init__(self, share: float, width: int = _BAR, style: str = "cyan") -> None:
        self.share = min(1.0, max(0.0, share))
        self.width = width
        self.style = style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the bar."""
        width = min(self.width, options.max_width)
        sign = "#" if options.ascii_only else "━"
        length = round(self.share * width)
        yield Segment(sign * max(length, int(self.share > 0)), Style.parse(self.style))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Ask for the full width."""
        return Measurement(4, min(self.width, options.max_width))


def _grid(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place == 0 else "right", no_wrap=True)
    return table


def _memory_verdict(result: Result) -> Text:
    """Say whether the run fits, and how full the fullest device gets."""
    if result.out_of_memory:
        return Text(f"out of memory: {out_of_memory_line(result.out_of_memory)}", style="bold red")
    device = fullest_device(result.memory)
    if device is None:
        return Text("memory was not recorded")
    own = own_memory(result.memory)
    row = own[own["device"] == device].iloc[0]
    peak, capacity = float(row["peak_bytes"]), float(row["capacity_bytes"])
    held = ", ".join(
        f"{owner} {format_bytes(size)}"
        for owner, size in list(holding(result.memory, device).items())[:4]
        if size > 0
    )
    share = f"{100 * ratio(peak, capacity):.0f} %"
    return Text(
        f"fits in memory: device {device} is the fullest with {format_bytes(peak)} of "
        f"{format_bytes(capacity)} ({share}), holding {held}",
        style="green",
    )


def _output(result: Result) -> list[Text]:
    told = output_line(result)
    return [Text(told, style="yellow")] if told else []


def _breakdown(result: Result) -> Table:
    table = _grid("time by cause", "per step", "share", "")
    table.columns[3].justify = "left"
    for cause in CAUSES:
        seconds = result.breakdown_s[cause]
        if seconds > 0:
            share = ratio(seconds, result.latency_s["mean"])
            style = "yellow" if cause == "wait" else "cyan"
            table.add_row(
                SAID[cause], format_time(seconds), f"{100 * share:.1f} %", ShareBar(share, style=style)
            )
    table.add_row("all", format_time(result.latency_s["mean"]), "", "", style="bold")
    return table


def _figures(result: Result) -> Table:
    latency = {name: format_time(seconds) for name, seconds in result.latency_s.items()}
    rows: Mapping[str, str] = {
        "latency per step": f"{latency['mean']}  (p50 {latency['p50']}, p95 {latency['p95']}, "
        f"p99 {latency['p99']})",
        "lower bound": f"{format_time(result.bound_s)}, {100 * result.bound_fraction:.0f} % of the latency",
        "throughput": f"{result.throughput_tokens_per_s:,.0f} tokens/s",
        "imbalance": f"{result.imbalance:.2f}  (fullest device over the mean)",
        "peak memory": format_bytes(result.peak_memory_bytes),
    }
    return _named(list(rows.items()))


def _named(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, text in rows:
        table.add_row(Text(name, style="bold"), text)
    return table


def _serving(result: Result) -> list[RenderableType]:
    """Return what a run that offloads tells besides."""
    rows = serving_lines(result)
    return [Text(), _named(rows)] if rows else []


def _serving_table(results: Sequence[Result]) -> list[RenderableType]:
    """Return what runs that offload tell besides, a row each."""
    rows = serving_rows(results)
    if not rows:
        return []
    table = _grid(*SERVING_HEADS)
    _fold_long_names(table, [result.policy for result in results])
    for row in rows:
        table.add_row(*row)
    return [Text(), table]


def _fold_long_names(table: Table, names: Sequence[str]) -> None:
    """Let long names be broken; short ones must not give way on a terminal that is too narrow for all."""
    if max(map(len, names)) > _LONG_NAME:
        table.columns[0].no_wrap = False
        table.columns[0].overflow = "fold"


def _timing(results: tuple[Result, ...]) -> Text:
    wall = sum(result.wall_s or 0.0 for result in results)
    simulated = sum(float(result.steps["latency_s"].sum()) for result in results)
    count = sum(result.events for result in results)
    text = f"{count:,} events, {format_time(simulated)} simulated in {format_time(wall)}"
    return Text(text, style="dim")


def _notes(results: tuple[Result, ...]) -> list[Text]:
    """Return what is to be known about prices and placements, each remark once."""
    said = dict.fromkeys(note for result in results for note in result.notes)
    return [Text(), *(Text(f"note: {note}", style="dim") for note in said)] if said else []


def render_result(result: Result, timing: bool = False) -> Group:
    """Return a run for printing: figures, time by cause, whether it fits in memory.

    Args:
        result: the run.
        timing: tell the wall-clock time too, which differs from run to run.
    """
    head = Text.assemble((result.name, "bold"), f"  policy {result.policy}, seed {result.seed}")
    parts: list[RenderableType] = [
        head,
        Text(),
        _figures(result),
        *_serving(result),
        Text(),
        _breakdown(result),
        Text(),
        _memory_verdict(result),
        *_output(result),
        *_notes((result,)),
    ]
    return Group(*parts, *([_timing((result,))] if timing else []))


def render_comparison(comparison: Comparison, timing: bool = False, width: int = 100) -> Group:
    """Return a comparison for printing: one row per policy, then why each differs from the baseline.

    Args:
        comparison: the comparison.
        timing: tell the wall-clock time too, which differs from run to run.
        width: columns of the terminal; a narrow one goes without the 99th percentile and the memory ratio.
    """
    wide = width >= _WIDE
    p99, ratio_head = (("p99",), ("ratio",)) if wide else ((), ())
    table = _grid(
        "policy", "latency", *p99, "speed-up", "bound/lat.", "imbalance", "peak memory", *ratio_head, "memory"
    )
    fastest = max(comparison.speedup(result) for result in comparison.results)
    for result in comparison.results:
        speedup = comparison.speedup(result)
        fits = Text("fits", style="green")
        if result.out_of_memory:
            fits = Text(f"{len(result.out_of_memory)} run out", style="bold red")
        table.add_row(
            result.policy + (" (baseline)" if result is comparison.baseline else ""),
            format_time(result.latency_s["mean"]),
            *([format_time(result.latency_s["p99"])] if wide else []),
            Text(f"{speedup:.2f}x", style="bold" if speedup == fastest else ""),
            f"{100 * result.bound_fraction:.0f} %",
            f"{result.imbalance:.2f}",
            format_bytes(result.peak_memory_bytes),
            *([f"{comparison.memory_ratio(result):.2f}x"] if wide else []),
            fits,
        )
    # The baseline's name has a word behind it, for which there is some more room.
    told = f"{comparison.baseline.policy} (baseline)"[: -(_LABEL - _LONG_NAME)]
    _fold_long_names(table, [*(result.policy for result in comparison.results), told])
    why: list[Text | Padding] = []
    if comparison.baseline.out_of_memory:
        why += [Text(), _memory_verdict(comparison.baseline)]
    why += _output(comparison.baseline)
    for result in comparison.others:
        first, *rest = explain_one(comparison, result)
        why += [Text(), Text(first, style="bold")]
        why += [Padding(Text(line.strip()), (0, 0, 0, 2)) for line in rest]
    notes = _notes(comparison.results)
    tail = [Text(), _timing(comparison.results)] if timing else []
    serving = _serving_table(comparison.results)
    return Group(Text(comparison.name, style="bold"), Text(), table, *serving, *why, *notes, *tail)
