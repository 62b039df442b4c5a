"""What every stream of every device does during one layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from moesim.causes import CAUSES
from moesim.errors import InputError
from moesim.results.plots.style import GRID, INK, SPAN_COLOURS, canvas, chart, legend_below, time_scale
from moesim.results.result import Result
from moesim.units import format_time

_STREAM_ORDER = {"compute": 0, "network": 1, "host": 2, "cpu": 3, "copy in": 4, "copy out": 5}

_AHEAD = "prefetch"


def first_step(result: Result) -> int:
    """Return the first recorded step; where experts are offloaded the first that decodes, if any does."""
    recorded = result.spans["step"]
    passes = result.tables["iterations"]
    decoding = passes.loc[(passes["phase"] == "decode") & passes["step"].isin(recorded), "step"]
    return int(decoding.min()) if len(decoding) else int(recorded.min())


def choose(result: Result, layer: int | None, step: int | None, layers: int = 1) -> pd.DataFrame:
    """Return the spans of neighbouring layers of one step.

    Args:
        result: the run.
        layer: transformer layer, the first one; None takes the slowest recorded one.
        step: step; None takes the first recorded one, or the first that decodes.
        layers: how many.

    Raises:
        InputError: nothing was recorded for that layer and step.
    """
    spans = result.spans
    if spans.empty:
        message = f"no spans were recorded for policy '{result.policy}'"
        raise InputError(message, hint="ask for spans of at least one step")
    step = first_step(result) if step is None else step
    spans = spans[spans["step"] == step]
    if layer is None and len(spans):
        ends = spans[spans["cause"] != _AHEAD].groupby("layer")
        lasts = ends["end_s"].max() - ends["start_s"].min()
        layer = int(lasts.index.to_numpy()[int(lasts.to_numpy().argmax())])
    first = 0 if layer is None else layer
    chosen = spans[spans["layer"].between(first, first + layers - 1)]
    if chosen.empty:
        message = f"no spans were recorded for step {step}, layer {layer}"
        steps = sorted(result.spans["step"].unique().tolist())
        raise InputError(message, hint=f"recorded steps: {steps[:12]}")
    return chosen


def _lanes(spans: pd.DataFrame, most: int) -> tuple[list[tuple[int, str]], int]:
    """Return (device, stream) pairs to draw, and how many devices are left out.

    Where not all fit, the devices that wait least (they set the pace) and those that wait most share
    the room.
    """
    waits = spans["end_s"] - spans["start_s"]
    waits = waits.where(spans["cause"] == "wait", 0.0)
    idle = waits.groupby(spans["device"]).sum().sort_values(kind="stable")
    devices: list[int] = idle.index.to_numpy(dtype=np.int64).tolist()
    if len(devices) > most:
        half = most - most // 2
        devices = devices[:half] + devices[len(devices) - (most - half) :]
    pairs = dict.fromkeys(zip(spans["device"].tolist(), spans["stream"].tolist(), strict=True))
    kept = [(device, stream) for device, stream in pairs if device in devices]
    return sorted(kept, key=lambda lane: (lane[0], _STREAM_ORDER.get(lane[1], 9))), len(idle) - len(devices)


def _beside(result: Result, spans: pd.DataFrame) -> pd.DataFrame:
    """Return the spans of other layers that run between those of a layer.

    There are some where micro-batches take turns, and where copies for other layers run beside.
    """
    mine = set(spans["layer"])
    order = spans.sort_values("start_s", kind="stable")
    lanes = order.groupby(["device", "stream"])
    first, last = lanes["start_s"].min().rename("first_s"), lanes["end_s"].max().rename("last_s")
    same = result.spans[result.spans["step"] == int(spans["step"].iloc[0])]
    others = same[~same["layer"].isin(mine)].join(first, on=["device", "stream"])
    others = others.join(last, on=["device", "stream"])
    beside = others[(others["start_s"] >= others["first_s"]) & (others["end_s"] <= others["last_s"])]
    begin, end = _window(spans)
    copies = same[(same["stream"] == "copy in") & ~same["layer"].isin(mine)]
    copies = copies[(copies["end_s"] > begin) & (copies["start_s"] < end)]
    return pd.concat([beside[beside["stream"] != "copy in"][same.columns], copies])


def _window(spans: pd.DataFrame) -> tuple[float, float]:
    """Return the time to draw (s): of copies that began long before their layer, the last part only."""
    own = spans[spans["cause"] != _AHEAD]
    begin, end = float(own["start_s"].min()), float(own["end_s"].max())
    return max(float(spans["start_s"].min()), 2 * begin - end), end


def _layers_said(spans: pd.DataFrame) -> str:
    first, last = int(spans["layer"].min()), int(spans["layer"].max())
    return f"Layer {first}" if first == last else f"Layers {first} to {last}"


@chart
def gantt(
    result: Result, layer: int | None = None, step: int | None = None, devices: int = 8, layers: int = 1
) -> Figure:
    """Return the chart; see ``Result.plot_layer``."""
    spans = choose(result, layer, step, layers)
    lanes, hidden = _lanes(spans, max(1, devices))
    begin, end = _window(spans)
    factor, unit = time_scale(end - begin)
    figure = canvas(8.0, 1.6 + 0.2 * len(lanes))
    axes = figure.add_subplot()
    beside = _beside(result, spans)
    for row, lane in enumerate(lanes):
        for drawn, alpha in ((spans, 1.0), (beside, 0.25)):
            mine = drawn[(drawn["device"] == lane[0]) & (drawn["stream"] == lane[1])]
            axes.broken_barh(
                [
                    ((start - begin) * factor, (stop - start) * factor)
                    for start, stop in zip(mine["start_s"], mine["end_s"], strict=True)
                ],
                (row - 0.4, 0.8),
                facecolors=[SPAN_COLOURS.get(cause, INK) for cause in mine["cause"]],
                edgecolor="white",
                alpha=alpha,
                lw=0.4,
            )
        device = lane[0]
        if row and lanes[row - 1][0] != device:
            axes.axhline(row - 0.5, color=GRID, lw=0.8, zorder=0)
    axes.set_yticks(range(len(lanes)), [f"{device} {stream}" for device, stream in lanes], fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.set_xlim(0, (end - begin) * factor or 1.0)
    ahead = begin < float(spans.loc[spans["cause"] != _AHEAD, "start_s"].min())
    axes.set_xlabel(f"time ({unit})" if ahead else f"time since the layer's start ({unit})")
    at = int(spans["step"].iloc[0])
    lasts = format_time(end - begin).replace(" us", " µs")
    left_out = f", {hidden} devices not shown" if hidden else ""
    pale = ", pale: other layers" if len(beside) else ""
    axes.set_title(f"{_layers_said(spans)} of step {at} with {result.policy}: {lasts}{pale}{left_out}")
    seen = {*spans["cause"], *beside["cause"]}
    causes = [cause for cause in (*CAUSES, _AHEAD) if cause in seen]
    patches = [Patch(color=SPAN_COLOURS[cause]) for cause in causes]
    legend_below(figure, patches, [cause.replace("_", " ") for cause in causes], 7)
    return figure
