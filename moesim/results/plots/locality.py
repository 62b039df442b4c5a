"""Hit rate against cache size, beside a published model."""

from __future__ import annotations

from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from moesim.results.plots.style import GRID, INK, MUTED, canvas, chart
from moesim.routing.locality import RATIOS, LocalityProfile, PublishedModel

_COLOURS: Final = {"belady": "#4f8a3c", "sch": "#c2185b", "lru": "#1b5e9b", "lfu": "#f0a202"}
_SAID: Final = {"belady": "Belady", "lru": "LRU", "lfu": "LFU"}


@chart
def locality_chart(profile: LocalityProfile, name: str, beside: PublishedModel | None = None) -> Figure:
    """Return the chart of LRU, LFU, Belady and the segment cache.

    Args:
        profile: the trace, drawn in full lines with a ring at each knee.
        name: what the trace is called.
        beside: a published model, drawn in dashes.
    """
    figure = canvas(7.6, 5.2)
    axes = figure.add_subplot()
    policies = ("belady", profile.segment, "lfu", "lru")
    end = min(RATIOS[-1], profile.experts / profile.top_k)
    for policy in policies:
        _draw(axes, profile, policy, end)
    if beside is not None:
        for policy in policies:
            _draw_published(axes, beside, policy)
    axes.set_xlim(0, RATIOS[-1])
    axes.set_ylim(0, 100)
    axes.set_yticks(range(0, 101, 20), [f"{tick} %" for tick in range(0, 101, 20)])
    axes.grid(color=GRID, lw=0.8)
    where = "one cache per layer" if profile.scope == "layer" else "one cache for all layers"
    axes.set_xlabel(f"cache ratio: cached experts over experts that a token uses ({where})")
    axes.set_ylabel("accesses found in the cache")
    knee = profile.knee(profile.segment)
    axes.set_title(f"Beyond {knee.ratio:.3g} times what a token uses, more cache helps less (segment cache)")
    _legend(figure, profile, name, beside)
    return figure


def _draw(axes: Axes, profile: LocalityProfile, policy: str, end: float) -> None:
    ratios = np.arange(0, profile.per_token * end + 1e-9) / profile.per_token
    ratios = np.union1d(ratios, [end])
    axes.plot(ratios, 100 * profile.rates(policy, ratios), color=_colour(policy), lw=1.8, zorder=3)
    knee = profile.knee(policy)
    height = 100 * profile.rates(policy, [knee.ratio])
    axes.plot(
        [knee.ratio], height, "o", ms=6, mfc="white", mec=_colour(policy), mew=1.6, zorder=4, clip_on=False
    )


def _draw_published(axes: Axes, model: PublishedModel, policy: str) -> None:
    curve = {0.0: 0.0, **model.curve(policy)}
    if len(curve) > 1:
        rates = [100 * rate for rate in curve.values()]
        axes.plot(list(curve), rates, color=_colour(policy), lw=1.1, ls=(0, (4, 2.5)), alpha=0.8, zorder=2)


def _legend(figure: Figure, profile: LocalityProfile, name: str, beside: PublishedModel | None) -> None:
    segment = profile.segment
    labels = {policy: _SAID[policy] for policy in ("belady", "lfu", "lru")}
    labels[segment] = f"segment cache, {segment[3:]} tokens ahead"
    order = ("belady", segment, "lfu", "lru")
    handles = [Line2D([], [], color=_colour(policy), lw=1.8) for policy in order]
    texts = [labels[policy] for policy in order]
    handles.append(Line2D([], [], color=MUTED, marker="o", ls="", ms=6, mfc="white", mew=1.6))
    texts.append("knee")
    if beside is not None:
        handles.append(Line2D([], [], color=INK, lw=1.8))
        handles.append(Line2D([], [], color=INK, lw=1.1, ls=(0, (4, 2.5))))
        short = name if len(name) <= 40 else f"{name[:39]}…"
        texts.append(short.replace("$", r"\$"))  # a name is no formula
        texts.append(f"{beside.name} as published, one cache for all layers")
    figure.legend(handles, texts, loc="outside lower left", ncols=3, handlelength=2.2, columnspacing=1.6)


def _colour(policy: str) -> str:
    return _COLOURS["sch" if policy.startswith("sch") else policy]
