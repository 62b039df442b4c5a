"""Time until the slowest device of a layer is done, by stage."""

from __future__ import annotations

from moesim.results.result import Result


def experts_tail_s(result: Result) -> float:
    """Return the time of the slowest device's experts, mean over MoE layers and steps (s)."""
    devices = result.tables["devices"]
    slowest = devices.groupby(["step", "layer"])["experts_s"].max()
    return float(slowest[slowest > 0].mean())


def exchange_tail_s(result: Result) -> float:
    """Return the time until the last device has dispatched and combined, mean over layers and steps (s)."""
    lasts = result.layers["dispatch_busy_s"] + result.layers["combine_busy_s"]
    return float(lasts[lasts > 0].mean())
