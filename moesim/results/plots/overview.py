"""One picture of a comparison: time, memory, layers and load by policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moesim.results.plots.breakdown import draw_breakdown
from moesim.results.plots.layers import draw_layers
from moesim.results.plots.load import relative_load
from moesim.results.plots.lookups import draw_lookups
from moesim.results.plots.memory import policy_stack
from moesim.results.plots.style import GRID, INK, MUTED, canvas, chart, policy_colours, whole_ticks

if TYPE_CHECKING:
    from moesim.results.comparison import Comparison


def draw_imbalance(axes: Axes, comparison: Comparison) -> None:
    """Draw each policy's load of the devices of a layer, fullest first, mean over layers; 1 is even."""
    colours = policy_colours([result.policy for result in comparison.results])
    for result in comparison.results:
        load = relative_load(result)[0]
        if not load.size:
            continue
        ranked = -np.sort(-load, axis=1)
        places = np.arange(1, load.shape[1] + 1)
        axes.fill_between(
            places, ranked.min(axis=0), ranked.max(axis=0), color=colours[result.policy], alpha=0.15, lw=0
        )
        marker = "o" if len(places) <= 32 else ""
        axes.plot(places, ranked.mean(axis=0), color=colours[result.policy], lw=1.8, marker=marker, ms=4)
    axes.axhline(1.0, color=INK, lw=0.8, ls=(0, (4, 3)))
    axes.set_ylim(0, None)
    most = max(1, *(relative_load(result)[0].shape[1] for result in comparison.results))
    axes.set_xlim(0.5, most + 0.5)
    axes.set_xlabel("devices of a layer, fullest first")
    axes.set_ylabel("token copies / mean", color=MUTED)
    axes.grid(axis="y", color=GRID, lw=0.8)
    whole_ticks(axes, "x")


@chart
def overview(comparison: Comparison) -> Figure:
    """Return the four charts."""
    results = comparison.results
    figure = canvas(12.0, 4.6 + 0.45 * len(results) + 1.2)
    upper = 1.1 + 0.32 * len(results)
    grid = figure.add_gridspec(2, 2, height_ratios=[upper, 2.6], width_ratios=[1.5, 1.0])
    time, memory, layers, load = (figure.add_subplot(grid[place]) for place in np.ndindex(2, 2))
    for axes, entries, title, columns in (
        (time, draw_breakdown(time, results, comparison.baseline), "Time of a mean step by cause", 4),
        (memory, policy_stack(memory, results), "Memory of the fullest device", 2),
        (layers, draw_layers(layers, results), "Latency of each layer", 4),
    ):
        axes.set_title(title)
        handles, labels = [entry[0] for entry in entries], [entry[1] for entry in entries]
        axes.legend(
            handles,
            labels,
            loc="upper left",
            bbox_to_anchor=(0.0, -0.24 if axes is not layers else -0.2),
            ncols=min(columns, len(labels)),
            handlelength=1.0,
            handleheight=1.0,
            borderaxespad=0.0,
        )
    offloading = [result for result in results if len(result.tables["caches"])]
    if offloading:
        load.set_title("What caches answered")
        answers = draw_lookups(load, offloading)
        load.legend(
            [answer[0] for answer in answers],
            [answer[1] for answer in answers],
            loc="upper left",
            bbox_to_anchor=(0.0, -0.2),
            ncols=2,
            handlelength=1.0,
            handleheight=1.0,
            borderaxespad=0.0,
        )
    else:
        draw_imbalance(load, comparison)
        load.set_title("Load of the devices of a layer")
    figure.suptitle(
        f"{comparison.name}: {', '.join(result.policy for result in results)}",
        x=0.012,
        ha="left",
        fontsize=13,
        fontweight="bold",
    )
    return figure
