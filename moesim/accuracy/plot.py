"""Predicted against measured, as a picture."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from moesim.measured.rows import thin
from moesim.results.plots.style import GRID, INK, MUTED, POLICY_COLOURS, canvas, chart

_SHOWN: Final = 3000
"""Points drawn per panel; more would only cover each other."""


@chart
def predicted_against_measured(points: pd.DataFrame) -> Figure:
    """Draw one panel per family, source and protocol; the diagonal is right, the band 20 % off.

    Args:
        points: ``AccuracyReport.points``.
    """
    panels = list(points.groupby(["family", "source", "protocol"], sort=False, observed=True))
    columns = min(3, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure = canvas(4.2 * columns, 3.9 * rows)
    for place, (key, group) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, place + 1)
        shown = thin(group, _SHOWN)
        for index, (device, part) in enumerate(shown.groupby("device", sort=True, observed=True)):
            axes.scatter(
                part["measured_s"] * 1e6,
                part["predicted_s"] * 1e6,
                s=5.0,
                alpha=0.5,
                linewidths=0.0,
                color=POLICY_COLOURS[index % len(POLICY_COLOURS)],
                label=str(device),
            )
        both = shown[["measured_s", "predicted_s"]].to_numpy(dtype=float) * 1e6
        ends = np.array([both.min() * 0.8, both.max() * 1.25])
        axes.fill_between(ends, ends * 0.8, ends * 1.2, color=GRID, linewidth=0.0, zorder=0)
        axes.plot(ends, ends, color=INK, linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        family, source, protocol = (str(part).replace("_", " ") for part in key)
        median = float(group["error"].abs().median())
        axes.set_title(f"{family}: {source}, {protocol}")
        axes.text(0.03, 0.96, f"median error {median:.1%}", transform=axes.transAxes, va="top", color=MUTED)
        axes.set_xlabel("measured [µs]")
        axes.set_ylabel("predicted [µs]")
        axes.legend(loc="lower right", markerscale=2.5)
    return figure
