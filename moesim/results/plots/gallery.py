"""The charts that are stored and reported for every run, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from moesim.results.comparison import Comparison
    from moesim.results.result import Result


def result_plots(result: Result) -> dict[str, Figure]:
    """Return the charts of one run; those without data are left out."""
    figures = {"breakdown": result.plot_breakdown()}
    if len(result.memory):
        figures["memory"] = result.plot_memory()
    if len(result.layers):
        figures["layers"] = result.plot_layers()
    if result.devices["copies"].sum() > 0:
        figures["load"] = result.plot_load()
    if len(result.spans):
        figures["layer_gantt"] = result.plot_layer()
    return figures


def comparison_plots(comparison: Comparison) -> dict[str, Figure]:
    """Return the charts of a comparison."""
    figures = {
        "overview": comparison.plot(),
        "breakdown": comparison.plot_breakdown(),
        "memory": comparison.plot_memory(),
        "layers": comparison.plot_layers(),
    }
    if comparison.baseline.devices["copies"].sum() > 0:
        figures["load"] = comparison.plot_load()
    return figures


TITLES = {
    "overview": "Overview",
    "breakdown": "Where the time goes",
    "memory": "What the memory holds",
    "layers": "Latency by layer",
    "load": "Load by layer and device",
    "layer_gantt": "The slowest recorded layer",
}
"""Headings of the charts in a report."""
