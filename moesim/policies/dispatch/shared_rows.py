"""The part of a placement where dispatch has a choice: experts that stand on several devices.

It depends on the placement alone, so it is worked out once and kept as long as the placement's index lives.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from moesim.policies.dispatch.min_max import Web
from moesim.policies.dispatch.placement_index import PlacementIndex, ranks_within

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SharedRows:
    """Rows of an index whose experts stand on more than one device.

    Attributes:
        rows: these rows by layer, expert, device, int64.
        by_rank: the same rows, those on an expert's first device, on its second device, and so on.
        starts: where each layer begins in ``rows``, int64 [layers + 1].
        webs: the rows of each layer as a web; None in layers without a choice.
    """

    rows: IntArray
    by_rank: tuple[IntArray, ...]
    starts: tuple[int, ...]
    webs: tuple[Web | None, ...]


def _build(index: PlacementIndex) -> SharedRows:
    rows = index.shared[np.argsort(index.key[index.shared], kind="stable")]
    keys = index.key[rows]
    rank, places = ranks_within(keys, np.ones_like(keys), index.layers * index.experts)
    rows, rank = rows[places > 1], rank[places > 1]
    by_rank = tuple(rows[rank == number] for number in range(int(rank.max(initial=-1)) + 1))
    starts = np.searchsorted(index.layer[rows], np.arange(index.layers + 1))
    webs: list[Web | None] = []
    for begin, end in pairwise(starts.tolist()):
        firsts = np.flatnonzero(rank[begin:end] == 0)
        holders = np.split(index.device[rows[begin:end]], firsts[1:])
        webs.append(Web.of(index.devices, [part.tolist() for part in holders]) if end > begin else None)
    return SharedRows(rows, by_rank, tuple(starts.tolist()), tuple(webs))


_KNOWN: weakref.WeakKeyDictionary[PlacementIndex, SharedRows] = weakref.WeakKeyDictionary()


def shared_rows(index: PlacementIndex) -> SharedRows:
    """Return where dispatch has a choice, working it out the first time."""
    found = _KNOWN.get(index)
    if found is None:
        found = _KNOWN[index] = _build(index)
    return found
