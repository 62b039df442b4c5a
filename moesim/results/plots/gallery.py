"""The charts that are stored and reported for every run, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from moesim.results.comparison import Comparison
    from moesim.results.result import Result


OWN_PLOTS = ("memory", "layer_gantt")
"""Charts that tell more of one policy than the comparison's own charts do."""


def result_plots(result: Result, names: Sequence[str] | None = None) -> dict[str, Figure]:
    """Return the charts of one run; those without data are left out.

    Args:
        result: the run.
        names: the charts wanted; by default all.
    """
    charts: dict[str, tuple[bool, Callable[[], Figure]]] = {
        "breakdown": (True, result.plot_breakdown),
        "memory": (len(result.memory) > 0, result.plot_memory),
        "layers": (len(result.layers) > 0, result.plot_layers),
        "lookups": (len(result.tables["caches"]) > 0, result.plot_lookups),
        "load": (_has_load(result), result.plot_load),
        "layer_gantt": (len(result.spans) > 0, result.plot_layer),
    }
    return {
        name: draw() for name, (has_data, draw) in charts.items() if has_data and name in (names or charts)
    }


def comparison_plots(comparison: Comparison) -> dict[str, Figure]:
    """Return the charts of a comparison."""
    figures = {
        "overview": comparison.plot(),
        "breakdown": comparison.plot_breakdown(),
        "memory": comparison.plot_memory(),
        "layers": comparison.plot_layers(),
    }
    if any(len(result.tables["caches"]) for result in comparison.results):
        figures["lookups"] = comparison.plot_lookups()
    if _has_load(comparison.baseline):
        figures["load"] = comparison.plot_load()
    return figures


def _has_load(result: Result) -> bool:
    """Say whether a map of loads tells anything; of one device that offloads it does not."""
    alone = len(result.tables["caches"]) > 0 and result.devices["device"].nunique() == 1
    return bool(result.devices["copies"].sum() > 0) and not alone


TITLES = {
    "overview": "Overview",
    "breakdown": "Where the time goes",
    "memory": "What the memory holds",
    "layers": "Latency by layer",
    "lookups": "What caches answered",
    "load": "Load by layer and device",
    "layer_gantt": "The slowest recorded layer",
}
"""Headings of the charts in a report."""
