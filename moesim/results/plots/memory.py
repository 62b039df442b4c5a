"""Memory at the peak, stacked by owner, against the capacity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from moesim.results.memory import fullest_device, own_memory
from moesim.results.plots.style import (
    ALARM,
    GRID,
    INK,
    OWNER_COLOURS,
    byte_scale,
    canvas,
    chart,
    legend_below,
    owner_colours,
    whole_ticks,
)
from moesim.results.result import Result
from moesim.units import format_bytes

_WORTH_SHOWING = 1e-3
_NAMES_IN_A_ROW = 36
"""Letters of the policies' names that fit side by side below half a page."""
IN_SIGHT = 4.0
"""How many times the fullest device's bytes a capacity may be to be drawn to scale."""


def _ordered(owners: Sequence[str]) -> list[str]:
    """Return owners in the order of the palette, then unknown ones by name."""
    known = list(OWNER_COLOURS)
    return sorted(owners, key=lambda owner: (known.index(owner) if owner in known else len(known), owner))


def _by_owner(memory: pd.DataFrame) -> pd.DataFrame:
    """Return bytes by device (rows) and owner (columns, standing ones first); slivers are ``other``."""
    held = own_memory(memory).pivot_table(
        index="device", columns="owner", values="bytes", aggfunc="sum", fill_value=0.0
    )
    sums = held.sum()
    small = [owner for owner in sums.index if sums[owner] <= _WORTH_SHOWING * sums.sum()]
    kept = held[_ordered([str(owner) for owner in sums.index if owner not in small])].astype(float)
    rest = held[small].sum(axis=1)
    return kept.assign(other=rest) if float(rest.sum()) > 0 else kept


def draw_stack(
    axes: Axes, held: pd.DataFrame, capacity: Sequence[float], width: float
) -> list[tuple[Artist, str]]:
    """Draw one stacked bar per row of ``held`` with a capacity mark above each.

    Args:
        axes: where to draw.
        held: bytes, one bar per row and one owner per column.
        capacity: bytes, one per row.
        width: width of a bar, 1 leaves no gap.

    Returns:
        Legend entries: handle and label.
    """
    limits = np.asarray(capacity, dtype=np.float64)
    totals = held.sum(axis=1).to_numpy()
    fullest, roomiest = float(totals.max(initial=0.0)), float(limits.max(initial=0.0))
    # A capacity far above would press what stands in memory flat; then a word replaces the line.
    in_sight = roomiest <= IN_SIGHT * fullest or fullest == 0
    factor, unit = byte_scale(max(fullest, roomiest) if in_sight else fullest)
    colours = owner_colours([str(owner) for owner in held.columns])
    places, base = np.arange(len(held)), np.zeros(len(held))
    entries: list[tuple[Artist, str]] = []
    for owner in held.columns:
        height = held[owner].to_numpy() * factor
        colour = colours[str(owner)]
        axes.bar(places, height, width, bottom=base, color=colour, edgecolor="white", lw=0.3 * (width < 1))
        entries.append((Patch(color=colour), str(owner)))
        base = base + height
    if not in_sight:
        least = format_bytes(float(limits.min()))
        axes.text(0.99, 0.97, f"capacity {least}", transform=axes.transAxes, ha="right", va="top", fontsize=9)
    elif len(set(limits.tolist())) == 1:
        axes.hlines(limits[0] * factor, -0.5, len(held) - 0.5, color=INK, lw=1.6)
    else:
        axes.hlines(limits * factor, places - 0.5, places + 0.5, color=INK, lw=1.6)
    if in_sight:
        entries.append((Line2D([], [], color=INK, lw=1.6), "capacity"))
    over = totals > limits
    for place in places[over] if over.sum() <= 8 else ():
        axes.annotate(
            "out of\nmemory",
            (place, base[place]),
            (0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=ALARM,
        )
    highest = roomiest if in_sight else fullest
    axes.set_ylim(0, max(base.max(initial=0.0), highest * factor, 1e-12) * 1.14)
    axes.set_xlim(-0.6, len(held) - 0.4)
    axes.set_ylabel(f"memory at the peak ({unit})")
    axes.grid(axis="y", color=GRID, lw=0.8)
    return entries


def policy_stack(axes: Axes, results: Sequence[Result]) -> list[tuple[Artist, str]]:
    """Draw the fullest device of each policy; returns legend entries."""
    rows, limits = [], []
    for result in results:
        device = fullest_device(result.memory)
        own = own_memory(result.memory)
        mine = own[own["device"] == device]
        rows.append(_by_owner(mine).iloc[0] if len(mine) else pd.Series(dtype=float))
        limits.append(float(mine["capacity_bytes"].max()) if len(mine) else 0.0)
    held = pd.DataFrame(rows).fillna(0.0)
    entries = draw_stack(axes, held[_ordered([str(owner) for owner in held.columns])], limits, 0.62)
    names = [result.policy for result in results]
    room = _NAMES_IN_A_ROW * (1 if axes.get_position().width < 0.5 else 2)
    crowded = sum(map(len, names)) > room
    turned: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(len(results)), names, color=INK, **turned)
    axes.tick_params(axis="x", length=0)
    return entries


@chart
def memory_by_policy(results: Sequence[Result]) -> Figure:
    """Return the chart of each policy's fullest device."""
    figure = canvas(max(8.0, 1.1 * len(results) + 3.0), 3.8)
    axes = figure.add_subplot()
    entries = policy_stack(axes, results)
    axes.set_title("Memory of each policy's fullest device, by owner")
    legend_below(figure, [handle for handle, _ in entries], [label for _, label in entries])
    return figure


@chart
def memory_by_device(result: Result) -> Figure:
    """Return the chart of all devices of one policy."""
    held = _by_owner(result.memory)
    own = own_memory(result.memory).drop_duplicates("device").set_index("device")
    capacity = own["capacity_bytes"].reindex(held.index).tolist()
    figure = canvas(8.0, 3.8)
    axes = figure.add_subplot()
    entries = draw_stack(axes, held, capacity, 0.82 if len(held) <= 64 else 1.0)
    over = int((own["peak_bytes"] > own["capacity_bytes"]).sum())
    verdict = f"{over} of {len(held)} run out" if over else "all fit"
    axes.set_title(f"Memory of each device with {result.policy}, by owner: {verdict}")
    axes.set_xlabel("device")
    whole_ticks(axes, "x")
    legend_below(figure, [handle for handle, _ in entries], [label for _, label in entries])
    return figure
