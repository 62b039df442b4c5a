"""Measured dense GEMMs and attention cores as grids, one per table that can be asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from moesim.measured.grid import Grid

if TYPE_CHECKING:
    from moesim.measured.rows import Measured

SOFTWARE: Final = ("vllm", "trtllm", "sglang")
"""Whose timings win where several took the same: SGLang's come last, they differ most between runs."""

HOST_BOUND: Final = 2e-5
"""Where even the quickest 5 % of calls take longer (s), the host's calls were timed, not kernels."""


@cache
def gemm_grid(device: str, kind: str) -> Grid | None:
    """Return the times of one kind of dense GEMM over rows, n and k; None if nobody took any.

    The first of ``SOFTWARE`` wins whose timings are not bound by the host; if all are, the quickest.
    """
    from moesim.measured.gemm_tables import gemm_rows

    rows = gemm_rows(device)
    rows = rows[rows["dtype"] == kind] if len(rows) else rows
    if rows.empty:
        return None
    floors = rows.groupby("backend", observed=True)["seconds"].quantile(0.05)
    software = _preferred(
        [str(name) for name in floors.index[floors <= HOST_BOUND]] or [str(floors.idxmin())]
    )
    return _grid(rows[rows["backend"] == software], ("m", "n", "k"))


@cache
def attention_grids(device: str, kind: str, phase: str, dtype: str) -> dict[tuple[int, int], Grid]:
    """Return times over batch, heads, KV heads and context by (head width, window).

    A window of 0 is none. Each pair's times are those of the first of ``SOFTWARE`` that took them; where it
    has several kernels, the quickest counts. Prefill was timed without earlier tokens only.
    """
    from moesim.measured.attention_tables import attention_rows

    rows = attention_rows(device, phase)
    if rows.empty:
        return {}
    rows = rows[(rows["kind"] == kind) & (rows["dtype"] == dtype)]
    found: dict[tuple[int, int], Grid] = {}
    for (width, window), same in rows.groupby(["width", "window"], observed=True):
        software = _preferred(str(name) for name in same["backend"].unique())
        chosen = same[same["backend"] == software]
        found[int(str(width)), int(str(window))] = _grid(chosen, ("batch", "heads", "kv_heads", "tokens"))
    return found


def _preferred(names: Iterable[str]) -> str:
    """Return the name that stands first in ``SOFTWARE``; unknown ones come last, by name."""
    return min(names, key=lambda name: (SOFTWARE.index(name) if name in SOFTWARE else len(SOFTWARE), name))


def _grid(rows: Measured, axes: Sequence[str]) -> Grid:
    return Grid.of([rows[name].to_numpy(dtype=np.float64) for name in axes], rows["seconds"].to_numpy())
