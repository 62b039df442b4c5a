"""What became of the lookups of experts in device memory: one bar per policy that offloads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from moesim.results.metrics import ratio
from moesim.results.plots.style import INK, MUTED, SPAN_COLOURS, canvas, chart, legend_below
from moesim.results.result import Result

_KINDS: Final = (
    ("there", SPAN_COLOURS["experts"]),
    ("there in low precision", "#9ecae9"),
    ("on the way", SPAN_COLOURS["prefetch"]),
    ("loaded", SPAN_COLOURS["expert_load"]),
    ("on the CPU", SPAN_COLOURS["cpu_experts"]),
    ("skipped", SPAN_COLOURS["wait"]),
)
"""Answers to a lookup, in the order of the bars, and their colours."""


def lookup_shares(result: Result) -> dict[str, float]:
    """Return the share of a run's lookups by what became of them; they add up to 1.

    What the CPU computes although it is there, or on the way, counts as computed by the CPU.
    """
    counts = result.tables["caches"].sum(numeric_only=True)
    loaded, skipped = float(counts["loads"] + counts["low_loads"]), float(counts["skipped"])
    low, late, accesses = float(counts["low_hits"]), float(counts["late"]), float(counts["accesses"])
    cpu = float(counts["cpu"])
    # A whole-layer policy loads more than was looked up.
    loaded = min(loaded, max(0.0, accesses - float(counts["hits"]) - late - skipped))
    high = max(0.0, accesses - low - late - loaded - skipped - cpu)
    amounts = (high, low, late, loaded, cpu, skipped)
    return {name: ratio(amount, sum(amounts)) for (name, _), amount in zip(_KINDS, amounts, strict=True)}


def draw_lookups(axes: Axes, results: Sequence[Result]) -> list[tuple[Artist, str]]:
    """Draw the bars, from the top; returns legend entries: handle and label."""
    seen: dict[str, Artist] = {}
    for row, result in enumerate(results):
        start = 0.0
        shares = lookup_shares(result)
        for name, colour in _KINDS:
            width = 100 * shares[name]
            if width > 0:
                axes.barh(row, width, left=start, height=0.62, color=colour, edgecolor="white", lw=0.5)
                seen[name] = Patch(color=colour)
            start += width
    axes.set_yticks(range(len(results)), [result.policy for result in results], color=INK)
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("lookups of experts (%)", color=MUTED)
    return [(seen[name], name) for name, _ in _KINDS if name in seen]


@chart
def lookups(results: Sequence[Result]) -> Figure:
    """Return the chart of one or several policies that offload."""
    figure = canvas(8.0, 1.7 + 0.4 * len(results))
    axes = figure.add_subplot()
    entries = draw_lookups(axes, results)
    axes.set_title("What became of the experts that layers asked for")
    legend_below(figure, [handle for handle, _ in entries], [label for _, label in entries])
    return figure
