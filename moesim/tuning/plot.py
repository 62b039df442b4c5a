"""All trials of a search by latency and memory."""

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
    legend_below,
    time_scale,
)

if TYPE_CHECKING:
    from moesim.tuning.outcome import Outcome
    from moesim.tuning.trial import Trial

_FRONT = "#1b5e9b"
_OTHER = "#9aa5b1"


@chart
def trials_chart(outcome: Outcome) -> Figure:
    """Return the chart: trials, the front, the policy's own settings, the memory limit."""
    figure = canvas(7.5, 4.6)
    axes = figure.add_subplot()
    ran = [trial for trial in outcome.trials if trial.measured.latency_s is not None]
    factor, unit = time_scale(max((trial.measured.latency_s or 0.0 for trial in ran), default=0.0))
    scale, byte_unit = byte_scale(max((trial.measured.peak_memory_bytes or 0 for trial in ran), default=0.0))

    def places(trials: list[Trial]) -> tuple[list[float], list[float]]:
        return (
            [(trial.measured.peak_memory_bytes or 0) * scale for trial in trials],
            [(trial.measured.latency_s or 0.0) * factor for trial in trials],
        )

    axes.plot(*places([one for one in ran if one.feasible]), "o", color=_OTHER, ms=4, label="trials")
    beyond = [one for one in ran if not one.feasible]
    if beyond:
        axes.plot(*places(beyond), "x", color=ALARM, ms=5, label="beyond the memory limit")
    if outcome.pareto:
        memory, latency = places(outcome.pareto)
        axes.step(memory, latency, where="post", color=_FRONT, lw=1.4)
        axes.plot(memory, latency, "o", color=_FRONT, ms=6, label="front")
    if outcome.default in ran:
        axes.plot(*places([outcome.default]), "D", color=INK, ms=6, label="own settings")
    if outcome.limit is not None:
        axes.axvline(outcome.limit * scale, color=ALARM, lw=1.0, ls=(0, (4, 3)))
    axes.set_xlabel(f"peak memory ({byte_unit})", color=MUTED)
    axes.set_ylabel(f"time per step ({unit})", color=MUTED)
    axes.grid(color=GRID, lw=0.8)
    gain = outcome.speedup
    told = "nothing feasible" if gain is None else f"best settings {gain:.2f}x as fast as its own"
    axes.set_title(f"{outcome.policy.name} in {outcome.scenario.name}: {told}")
    handles, labels = axes.get_legend_handles_labels()
    legend_below(figure, handles, labels)
    return figure
