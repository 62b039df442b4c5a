"""Draw the picture of the README: ``python docs/img/make.py`` writes docs/img/demo.png.

It comes from ``moesim compare-policies scenarios/demo.yaml``; nothing in it is drawn by hand.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import moesim
from moesim.results.plots.breakdown import draw_breakdown
from moesim.results.plots.memory import policy_stack
from moesim.results.plots.overview import draw_imbalance
from moesim.results.plots.style import canvas, chart, policy_colours, render
from moesim.units import format_bytes

HERE = Path(__file__).resolve().parent
SCENARIO = HERE.parents[1] / "scenarios" / "demo.yaml"


@chart
def picture(comparison: moesim.Comparison) -> Figure:
    """Return time by cause above, load and memory below."""
    results = comparison.results
    figure = canvas(9.0, 5.6)
    grid = figure.add_gridspec(2, 2, height_ratios=[1.0, 1.0], width_ratios=[1.0, 1.15])
    time, load, memory = (figure.add_subplot(grid[place]) for place in ((0, slice(None)), (1, 0), (1, 1)))
    entries = draw_breakdown(time, results, comparison.baseline)
    time.set_title("Where the time of a step goes")
    _legend(time, entries)
    draw_imbalance(load, comparison)
    load.set_title("Load of the devices of a layer")
    colours = policy_colours([result.policy for result in results])
    for result in results:
        load.plot([], [], color=colours[result.policy], lw=1.8, marker="o", ms=4, label=result.policy)
    load.legend(loc="lower left", ncols=len(results))
    entries = [entry for entry in policy_stack(memory, results) if entry[1] != "capacity"]
    capacity = results[0].memory["capacity_bytes"].max()
    peak = max(result.peak_memory_bytes for result in results)
    if peak < 0.5 * capacity:  # else the capacity line would leave the bars flat
        memory.set_ylim(0, 1.15 * peak / 2**30)
    memory.set_title(f"What the fullest device holds, of {format_bytes(capacity)}")
    _legend(memory, entries)
    return figure


def _legend(axes: Axes, entries: list[tuple[Artist, str]]) -> None:
    axes.legend(
        [handle for handle, _ in entries],
        [label for _, label in entries],
        loc="lower left",
        bbox_to_anchor=(1.01, 0.0),
        fontsize=7.5,
        handlelength=1.0,
        handleheight=1.0,
        labelspacing=0.25,
        borderaxespad=0.0,
    )


def main() -> None:
    """Run the demo and write the picture."""
    figure = picture(moesim.compare(moesim.load_scenario(SCENARIO)))
    (HERE / "demo.png").write_bytes(render(figure, "png"))


if __name__ == "__main__":
    main()
