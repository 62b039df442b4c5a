"""Where the time of a mean step goes: one bar per policy, stacked by cause."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from moesim.causes import CAUSES
from moesim.results.explain import SAID
from moesim.results.metrics import ratio
from moesim.results.plots.style import CAUSE_COLOURS, INK, MUTED, canvas, chart, legend_below, time_scale
from moesim.results.result import Result
from moesim.units import format_time


def draw_breakdown(
    axes: Axes, results: Sequence[Result], baseline: Result | None
) -> list[tuple[Artist, str]]:
    """Draw the bars.

    Args:
        axes: where to draw.
        results: one bar each, from the top.
        baseline: where given, bars tell their speed-up over it.

    Returns:
        Legend entries: handle and label of each cause that takes time, then of the lower bound.
    """
    longest = max(result.latency_s["mean"] for result in results)
    factor, unit = time_scale(longest)
    seen: dict[str, Artist] = {}
    for row, result in enumerate(results):
        start = 0.0
        for cause in CAUSES:
            width = result.breakdown_s[cause] * factor
            if width > 0:
                axes.barh(
                    row, width, left=start, height=0.62, color=CAUSE_COLOURS[cause], edgecolor="white", lw=0.5
                )
                seen[cause] = Patch(color=CAUSE_COLOURS[cause])
            start += width
        bound = result.bound_s * factor
        axes.plot([bound, bound], [row - 0.4, row + 0.4], color=INK, lw=1.4)
        label = format_time(result.latency_s["mean"]).replace(" us", " µs")
        if baseline is not None and result is not baseline:
            label += f"  ({ratio(baseline.latency_s['mean'], result.latency_s['mean']):.2f}x as fast)"
        axes.annotate(label, (start, row), (5, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(range(len(results)), [result.policy for result in results], color=INK)
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.set_xlim(0, max(longest * factor, 1e-12) * (1.28 if baseline is not None else 1.16))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"time per step ({unit})", color=MUTED)
    entries = [(seen[cause], cause.replace("_", " ")) for cause in CAUSES if cause in seen]
    return [*entries, (Line2D([], [], color=INK, lw=1.4), "lower bound")]


def breakdown_title(results: Sequence[Result]) -> str:
    """Say what the chart shows: the largest cause of the slowest policy."""
    slowest = max(results, key=lambda result: result.latency_s["mean"])
    cause = max(slowest.breakdown_s, key=lambda name: slowest.breakdown_s[name])
    share = ratio(slowest.breakdown_s[cause], slowest.latency_s["mean"])
    return f"Time of a mean step by cause: {100 * share:.0f} % is {SAID[cause]} with {slowest.policy}"


@chart
def breakdown(results: Sequence[Result], baseline: Result | None = None) -> Figure:
    """Return the chart of one or several policies."""
    figure = canvas(8.0, 1.7 + 0.5 * len(results))
    axes = figure.add_subplot()
    entries = draw_breakdown(axes, results, baseline)
    axes.set_title(breakdown_title(results))
    legend_below(figure, [handle for handle, _ in entries], [label for _, label in entries])
    return figure
