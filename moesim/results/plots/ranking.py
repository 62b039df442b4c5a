"""Policies by speed-up with intervals, and the memory that each takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from moesim.results.plots.style import (
    ALARM,
    GRID,
    INK,
    MUTED,
    byte_scale,
    canvas,
    chart,
    policy_colours,
    time_scale,
)

if TYPE_CHECKING:
    from moesim.results.ranking import Ranking


@chart
def ranking_chart(ranking: Ranking) -> Figure:
    """Return latencies with their intervals and the lower bound, best first, beside peak memory."""
    ranked = ranking.ranked
    colours = policy_colours([one.name for one in ranking.standings])
    figure = canvas(10.0, 1.5 + 0.42 * len(ranked))
    grid = figure.add_gridspec(1, 2, width_ratios=[2.4, 1.0])
    time = figure.add_subplot(grid[0])
    memory = figure.add_subplot(grid[1], sharey=time)
    factor, unit = time_scale(max(one.latency.mean for one in ranked))
    scale, byte_unit = byte_scale(max(one.peak_memory_bytes for one in ranked))
    for row, one in enumerate(ranked):
        colour = colours[one.name]
        mean = one.latency.mean * factor
        if one.latency.low is not None and one.latency.high is not None:
            ends = [one.latency.low * factor, one.latency.high * factor]
            time.plot(ends, [row, row], color=colour, lw=3.0, solid_capstyle="butt", alpha=0.55)
        time.plot([mean], [row], "o", color=colour, ms=6)
        bound = one.bound_s * factor
        time.plot([bound, bound], [row - 0.3, row + 0.3], color=INK, lw=1.4)
        label = "baseline" if one.name == ranking.baseline else f"{one.speedup.mean:.2f}x"
        time.annotate(label, (mean, row), (8, 6), textcoords="offset points", fontsize=8.5)
        memory.barh(
            row, one.peak_memory_bytes * scale, height=0.5, color=colour if one.fits else ALARM, alpha=0.85
        )
    time.set_yticks(range(len(ranked)), [f"{one.rank}. {one.name}" for one in ranked], color=INK)
    time.set_ylim(len(ranked) - 0.4, -0.6)
    time.set_xlim(0, None)
    time.margins(x=0.12)
    time.grid(axis="x", color=GRID, lw=0.8)
    time.tick_params(axis="y", length=0)
    time.set_xlabel(f"time per step ({unit}); the black line is the lower bound", color=MUTED)
    time.set_title(f"{ranking.name}: {ranked[0].name} is the fastest")
    memory.tick_params(axis="y", length=0, labelleft=False)
    memory.set_xlabel(f"peak memory ({byte_unit})", color=MUTED)
    memory.set_title("Memory of the fullest device")
    return figure
