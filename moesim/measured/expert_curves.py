"""Measured expert layers: time of one fused call over the rows of a device, for one kind of expert.

A timing stands for one load: ``balanced``, or the fullest device under a power law. What it says about
another load is for an analytic model to add: ``ExpertCurves.counts`` gives rows per expert that the timing
stands for, so that a step's time is ``seconds(rows) * analytic(its counts) / analytic(counts(rows))``.

In the tables all tokens of the group enter the call; pairs of experts elsewhere are skipped inside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from moesim.measured.between import Array, Reading, between, guided, idle, neighbours, within
from moesim.measured.dense_grids import SOFTWARE
from moesim.measured.grid import Grid

if TYPE_CHECKING:
    from moesim.measured.rows import Measured

Model = Callable[[Array, int], Array]
"""Analytic seconds of calls with so many rows, [points], for so many experts on the device."""

LOADS: Final = ("balanced", "power_law_1.01", "power_law_1.2")
"""Loads in the order in which they are taken as the level: DeepSeek-V3 has no usable balanced timings."""

_LEFT_ASIDE: Final = "trtllm-wideep"
"""Timings of a layer with redundant experts, whose loads depend on a placement."""


@dataclass(frozen=True, eq=False)
class ExpertCurves:
    """Times of one expert layer of one software under one load.

    Attributes:
        backends: software and kernel family by experts per device.
        load: one of ``LOADS``.
        curves: seconds over rows of the device, by experts per device.
        shares: share of the rows on each expert, fullest first, by experts per device, one line per point
            of its curve; None if rows are dealt evenly.
    """

    backends: dict[int, str]
    load: str
    curves: dict[int, Grid]
    shares: dict[int, Array] | None

    @cached_property
    def _sizes(self) -> Array:
        return np.array(sorted(self.curves), dtype=np.float64)

    def seconds(self, rows: npt.ArrayLike, experts_here: int, model: Model | None = None) -> Reading:
        """Read the time of one call under the load of these curves.

        Numbers of experts that were not measured are read between those that were, at the same rows.

        Args:
            rows: rows of the device, [...].
            experts_here: experts of the device.
            model: analytic seconds of a call with ``counts(rows, experts)``; it says how time is spread
                between two points (``between.guided``). Its scale does not matter.
        """
        x = np.asarray(rows, dtype=np.float64)
        low, high = self._around(experts_here)
        first = self._read(low, x, model)
        if low == high:
            fits = within(self._sizes, np.asarray(experts_here, dtype=np.float64))
            return idle(Reading(np.where(fits, first.seconds, 0.0), first.inside & fits), x)
        second = self._read(high, x, model)
        inside = first.inside & second.inside
        size, below, above = (np.asarray(number, dtype=np.float64) for number in (experts_here, low, high))
        seconds = between(size, below, above, first.seconds, second.seconds)
        return idle(Reading(np.where(inside, seconds, 0.0), inside), x)

    def _read(self, experts_here: int, x: Array, model: Model | None) -> Reading:
        """Read one measured curve."""
        curve = self.curves[experts_here]
        if model is None:
            return curve.read(x)
        (points,) = curve.points
        low, high = neighbours(points, x)
        told = model(np.concatenate([points, x.ravel()]), experts_here)
        there, here = told[: len(points)], told[len(points) :].reshape(x.shape)
        times = curve.seconds[low], curve.seconds[high]
        seconds = guided(x, points[low], points[high], *times, here, there[low], there[high])
        inside = within(points, x)
        return Reading(np.where(inside, seconds, 0.0), inside)

    def counts(self, rows: npt.ArrayLike, experts_here: int) -> npt.NDArray[np.int64]:
        """Return whole rows per expert that the times stand for, fullest first, [..., experts_here].

        Args:
            rows: rows of the device, [...]; rounded.
            experts_here: experts of the device.
        """
        x = np.rint(np.asarray(rows, dtype=np.float64))
        if self.shares is None:
            share = np.full((*x.shape, experts_here), 1.0 / experts_here)
        else:
            low, high = self._around(experts_here)
            size = low if experts_here - low <= high - experts_here else high
            points = self.curves[size].points[0]
            known = self.shares[size][neighbours(points, x)[0]]
            share = _stretched(known, experts_here)
        exact = share * x[..., np.newaxis]
        floor = np.floor(exact + 1e-9)
        missing = x - floor.sum(axis=-1)
        rank = np.argsort(np.argsort(floor - exact, axis=-1, kind="stable"), axis=-1, kind="stable")
        return np.asarray(floor + (rank < missing[..., np.newaxis]), dtype=np.int64)

    def reach(self, experts_here: int) -> str:
        """Say what is covered, for notes."""
        if not within(self._sizes, np.asarray(experts_here, dtype=np.float64)):
            return f"experts per device {self._sizes[0]:g}..{self._sizes[-1]:g}"
        points = [self.curves[size].points[0] for size in self._around(experts_here)]
        return f"rows {max(p[0] for p in points):g}..{min(p[-1] for p in points):g}"

    def _around(self, experts_here: int) -> tuple[int, int]:
        """Return the measured numbers of experts per device around one; twice the same if it was measured."""
        asked = np.asarray(experts_here, dtype=np.float64)
        low, high = (int(place) for place in neighbours(self._sizes, asked))
        if self._sizes[low] >= experts_here or not within(self._sizes, asked):
            high = low
        return int(self._sizes[low]), int(self._sizes[high])


@cache
def expert_curves(
    device: str,
    hidden: int,
    intermediate: int,
    top_k: int,
    experts: int,
    dtype: str,
    gated: bool = True,
    backend: str | None = None,
    load: str | None = None,
) -> ExpertCurves | None:
    """Return the times of one kind of expert layer; None if nobody took any.

    Args:
        device: catalogue name.
        hidden: width of a token.
        intermediate: width between the GEMMs on the device, after any tensor parallelism.
        top_k: experts per token.
        experts: routed experts of the layer.
        dtype: format of the weights, a key of ``hardware.calibration.FORMATS``.
        gated: whether the first GEMM has two halves.
        backend: software such as ``vllm``, or software and kernel family such as ``vllm/triton``; by default
            the first of ``SOFTWARE`` that measured the layer. Of several kernels of one software the one
            whose call is quickest on average counts, for each number of experts per device.
        load: one of ``LOADS``; by default the first that was measured.
    """
    from moesim.measured.moe_tables import moe_rows

    rows = moe_rows(device)
    if rows.empty:
        return None
    # Numbers first: texts of the few rows that are left cost little.
    for name, value in {"hidden": hidden, "top_k": top_k, "experts": experts}.items():
        rows = rows[rows[name].to_numpy() == value]
    rows = rows[rows["intermediate"].to_numpy() == intermediate * rows["tp"].to_numpy()]
    rows = rows[(rows["dtype"] == dtype) & (rows["gated"] == gated)]
    software = rows["backend"].astype(str).str.partition("/")[0] if len(rows) else rows["backend"]
    names = [backend.partition("/")[0]] if backend is not None else list(SOFTWARE)
    for name in names:
        mine = rows[(software == name).to_numpy()]
        if backend is not None and "/" in backend:
            mine = mine[mine["backend"].astype(str).str.removesuffix("_tuned") == backend]
        for wanted in LOADS if load is None else (load,):
            found = mine[mine["distribution"] == wanted]
            if len(found):
                return _curves(found, wanted)
    return None


def _curves(rows: Measured, load: str) -> ExpertCurves:
    """Make the curves of one software and load."""
    backends: dict[int, str] = {}
    curves: dict[int, Grid] = {}
    shares: dict[int, Array] = {}
    for ep, same in rows.groupby("ep"):
        same = same[same["tp"] == same["tp"].min()]
        backend = str(same.groupby("backend", observed=True)["seconds"].mean().idxmin())
        curve = same[same["backend"] == backend].sort_values("tokens")
        size = int(curve["slots"].iloc[0]) // int(str(ep))
        backends[size] = backend
        curves[size], shares[size] = _curve(curve, load)
    return ExpertCurves(backends, load, curves, None if load == "balanced" else shares)


def _curve(rows: Measured, load: str) -> tuple[Grid, Array]:
    """Return seconds over the rows that the device under test computes, and how experts share them."""
    from moesim.measured.moe_loads import loads_here

    here, shares = [], []
    for tokens, top_k, experts, slots, ep in rows[["tokens", "top_k", "experts", "slots", "ep"]].itertuples(
        index=False, name=None
    ):
        drawn, _ = loads_here(int(tokens), int(top_k), int(experts), int(slots), int(ep), load)
        here.append(drawn.sum(axis=1).mean())
        shares.append(np.sort(drawn, axis=1)[:, ::-1].mean(axis=0))
    points, first, place = np.unique(np.array(here), return_index=True, return_inverse=True)
    # Calls with few tokens may give the device the same number of rows: their times are averaged.
    seconds = np.bincount(place, rows["seconds"].to_numpy()) / np.bincount(place)
    share = np.array(shares)[first]
    used = points > 0
    return Grid((points[used],), seconds[used]), share[used] / points[used, np.newaxis]


def _stretched(shares: Array, experts: int) -> Array:
    """Turn shares of rows on so many experts, fullest first, into those on another number, [..., experts]."""
    known = shares.shape[-1]
    if known == experts:
        return shares
    edges = np.concatenate([np.zeros((*shares.shape[:-1], 1)), np.cumsum(shares, axis=-1)], axis=-1)
    place = np.arange(experts + 1) * known / experts
    low = np.minimum(place.astype(np.intp), known - 1)
    total = edges[..., low] + (place - low) * (edges[..., low + 1] - edges[..., low])
    return np.asarray(np.diff(total, axis=-1), dtype=np.float64)
