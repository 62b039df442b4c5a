"""One look for all charts: palette, typography, axes in units that people read.

Figures are built with the ``Figure`` class alone, never with pyplot: no global list of figures grows
and threads do not meet. Matplotlib keeps its defaults in one global table, so building and rendering
take a lock while they look at ours.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK: Final = "#1f2933"
MUTED: Final = "#616e7c"
GRID: Final = "#e4e7eb"
ALARM: Final = "#c1121f"

CAUSE_COLOURS: Final = {
    "attention": "#9ecae9",
    "all_reduce": "#d9792b",
    "dense": "#5fa2ce",
    "gate": "#c7e0a4",
    "permute": "#8fbf6a",
    "launch": "#c9a8de",
    "planning": "#8a63a8",
    "dispatch": "#f0a202",
    "weight_move": "#c2185b",
    "experts": "#1b5e9b",
    "expert_load": "#b8470b",
    "cpu_experts": "#7fb8a4",
    "combine": "#f6d06f",
    "unpermute": "#4f8a3c",
    "wait": "#cbd2d9",
    "migration": "#7a1f3d",
}
"""Work on tokens is blue and green, the network yellow and red, planning purple, waiting grey; neighbours
in the fixed order differ in lightness, which every kind of colour vision sees."""

SPAN_COLOURS: Final = CAUSE_COLOURS | {"prefetch": "#e8a87c"}
"""Colours of spans: those of causes, and of what goes on beside a step's own time."""

OWNER_COLOURS: Final = {
    "experts": "#1b5e9b",
    "expert cache": "#1b5e9b",
    "staging buffers": "#f0a202",
    "expert replicas": "#5fa2ce",
    "model weights": "#9ecae9",
    "KV cache": "#4f8a3c",
    "tokens": "#c7e0a4",
    "inputs of other devices": "#8fbf6a",
    "send buffers": "#f6d06f",
    "receive buffers": "#f0a202",
    "expert activations": "#b35c1e",
    "moved weights": "#c2185b",
    "migrating experts": "#7a1f3d",
    "gradients": "#8a63a8",
    "kept activations": "#c9a8de",
    "reserve": "#cbd2d9",
}
_SPARE: Final = ("#e15759", "#56b4e9", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#7b8794")

POLICY_COLOURS: Final = (
    "#616e7c",
    "#f0a202",
    "#1b5e9b",
    "#c2185b",
    "#4f8a3c",
    "#8a63a8",
    "#56b4e9",
    "#b35c1e",
)

_STYLE: Final[Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#9aa5b1",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "moesim",
}
_LOCK: Final = threading.RLock()

P = ParamSpec("P")


class Chart(Figure):
    """A figure that a notebook shows without any backend being chosen."""

    def _repr_png_(self) -> bytes:
        return render(self, "png")


@contextmanager
def styled() -> Iterator[None]:
    """Use our look inside the block, in one thread at a time."""
    with _LOCK, mpl.rc_context(_STYLE):
        yield


def chart(build: Callable[P, Figure]) -> Callable[P, Figure]:
    """Wrap a function that builds a figure, so that it does so in our look."""

    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with styled():
            return build(*args, **kwargs)

    wrapped.__name__, wrapped.__doc__ = build.__name__, build.__doc__
    return wrapped


def canvas(width: float, height: float) -> Chart:
    """Return an empty figure of a size in inches that lays itself out."""
    return Chart(figsize=(width, height), layout="constrained")


def render(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    """Return a figure as an SVG or PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with styled():
        if kind == "svg":
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "moesim"})
        else:
            figure.savefig(buffer, format="png", dpi=150, metadata={"Software": "moesim"})
    return buffer.getvalue()


def owner_colours(owners: Sequence[str]) -> dict[str, str]:
    """Return a colour per owner: the fixed one where there is one, else spare ones in order."""
    unknown = [owner for owner in owners if owner not in OWNER_COLOURS]
    spare = {owner: _SPARE[place % len(_SPARE)] for place, owner in enumerate(unknown)}
    return {owner: OWNER_COLOURS.get(owner) or spare[owner] for owner in owners}


def policy_colours(policies: Sequence[str]) -> dict[str, str]:
    """Return a colour per policy by its place in the comparison."""
    return {name: POLICY_COLOURS[place % len(POLICY_COLOURS)] for place, name in enumerate(policies)}


def time_scale(largest_s: float) -> tuple[float, str]:
    """Return the factor from seconds to a unit in which the largest value reads well, and its name."""
    for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if largest_s * factor >= 1.0:
            return factor, name
    return (1e9, "ns") if largest_s > 0 else (1.0, "s")


def byte_scale(largest: float) -> tuple[float, str]:
    """Return the factor from bytes to a binary unit in which the largest value reads well, and its name."""
    for power, name in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if largest >= 2.0**power:
            return 2.0**-power, name
    return 1.0, "B"


def whole_ticks(axes: Axes, which: Literal["x", "y", "both"]) -> None:
    """Put ticks at whole numbers only."""
    for name in "xy" if which == "both" else which:
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int = 6) -> None:
    """Put the legend of a figure below its charts, where it covers nothing."""
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=min(columns, max(1, len(labels))),
        handlelength=1.0,
        handleheight=1.0,
        columnspacing=1.4,
    )
