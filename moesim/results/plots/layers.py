"""Latency of each layer by policy, above the lower bound."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moesim.results.plots.style import (
    GRID,
    MUTED,
    canvas,
    chart,
    legend_below,
    policy_colours,
    time_scale,
    whole_ticks,
)
from moesim.results.result import Result


def draw_layers(axes: Axes, results: Sequence[Result]) -> list[tuple[Artist, str]]:
    """Draw a line per policy, and the lower bound as a shaded floor.

    Returns:
        Legend entries: handle and label.
    """
    means = [result.layers.groupby("layer", sort=True)[["latency_s", "bound_s"]].mean() for result in results]
    factor, unit = time_scale(
        max((float(mean["latency_s"].max()) for mean in means if len(mean)), default=0.0)
    )
    colours = policy_colours([result.policy for result in results])
    entries: list[tuple[Artist, str]] = []
    for result, mean in zip(results, means, strict=True):
        (line,) = axes.plot(
            mean.index,
            mean["latency_s"] * factor,
            color=colours[result.policy],
            lw=1.8,
            marker="o" if len(mean) <= 40 else "",
            ms=4,
            clip_on=False,
            zorder=3,
        )
        entries.append((line, result.policy))
    floor = means[0]["bound_s"].to_numpy() * factor
    if len(floor) > 1:
        area: Artist = axes.fill_between(means[0].index, floor, color=GRID, lw=0, zorder=1)
    else:
        area = axes.axhline(float(floor[0]), color=GRID, lw=3, zorder=1)
    axes.set_ylim(0, None)
    axes.set_xlabel("layer")
    axes.set_ylabel(f"latency ({unit})", color=MUTED)
    axes.grid(axis="y", color=GRID, lw=0.8)
    whole_ticks(axes, "x")
    return [*entries, (area, f"lower bound ({results[0].policy})")]


@chart
def layer_latency(results: Sequence[Result]) -> Figure:
    """Return the chart of one or several policies."""
    figure = canvas(8.0, 3.4)
    axes = figure.add_subplot()
    entries = draw_layers(axes, results)
    axes.set_title("Latency of each layer, mean over steps")
    legend_below(figure, [handle for handle, _ in entries], [label for _, label in entries])
    return figure
