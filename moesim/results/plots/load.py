"""Device load heat map: token copies by layer and device, relative to the mean of the layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from moesim.results.plots.style import canvas, chart, whole_ticks
from moesim.results.result import Result


def relative_load(result: Result) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return mean copies over the mean of the layer, [layers, devices], and the layers' numbers.

    Layers without a copy (dense ones) are left out.
    """
    sums = result.devices.groupby(["layer", "device"], sort=True)["copies"].mean().unstack("device")
    sums = sums[sums.sum(axis=1) > 0]
    copies = np.nan_to_num(sums.to_numpy(dtype=np.float64))
    mean = copies.mean(axis=1, keepdims=True)
    return copies / mean, sums.index.to_numpy(dtype=np.int64)


def scale(loads: Sequence[npt.NDArray[np.float64]]) -> TwoSlopeNorm:
    """Return one colour scale for all maps: 1 in the middle, 0 at one end, the largest at the other."""
    return TwoSlopeNorm(
        1.0, 0.0, max(1.5, max((float(load.max()) for load in loads if load.size), default=0))
    )


def draw_map(axes: Axes, result: Result, norm: TwoSlopeNorm) -> AxesImage:
    """Draw one policy's map and title it with its worst device."""
    load, numbers = relative_load(result)
    image = axes.imshow(load, norm=norm, cmap="RdBu_r", aspect="auto", interpolation="nearest")
    axes.set_title(f"{result.policy}: at worst {load.max(initial=1.0):.2f}x the mean")
    axes.set_xlabel("device")
    axes.set_ylabel("layer")
    whole_ticks(axes, "both")
    shown = [int(tick) for tick in axes.get_yticks() if 0 <= tick < len(numbers)]
    axes.set_yticks(shown, [str(numbers[tick]) for tick in shown])
    axes.set_xlim(-0.5, load.shape[1] - 0.5)
    axes.set_ylim(load.shape[0] - 0.5, -0.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


@chart
def load_map(results: Sequence[Result]) -> Figure:
    """Return heat maps of one or several policies side by side on one colour scale."""
    norm = scale([relative_load(result)[0] for result in results])
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure = canvas(3.4 * columns + 1.6, 3.1 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    images = [draw_map(axes, result, norm) for axes, result in zip(grid.flat, results, strict=False)]
    for axes in list(grid.flat)[len(results) :]:
        axes.set_visible(False)
    bar = figure.colorbar(images[0], ax=grid, shrink=0.9, pad=0.02)
    bar.set_label("token copies / mean of the layer")
    bar.outline.set_visible(False)
    return figure
