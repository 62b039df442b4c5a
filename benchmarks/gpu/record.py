"""The file of timings: written row by row, so that a run can be ended and taken up again. No torch."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

COLUMNS = (
    *("family", "device", "dtype", "backend", "m", "n", "k", "hidden", "inter", "topk", "experts", "ep"),
    *("tokens", "counts", "gated", "bytes", "pinned", "kernels", "graph", "latency_us", "spread", "repeats"),
    *("cache", "smoke", "driver", "library", "date", "cuda", "clock_mhz", "memory_clock_mhz"),
    *("power_limit_w", "comment"),
)
"""Columns in the order of the file; docs/measurements.md says what each holds."""

KEYS = tuple(
    name
    for name in COLUMNS
    if name
    not in (
        "latency_us",
        "spread",
        "repeats",
        "date",
        "clock_mhz",
        "memory_clock_mhz",
        "power_limit_w",
        "comment",
    )
)
"""Columns that say what was timed and with what; a row with the same values is not taken again."""


class WrongFileError(Exception):
    """The file holds something else than timings of this script."""


class Record:
    """A file of timings that grows.

    Args:
        path: the file; what it holds is kept.

    Raises:
        WrongFileError: it has other columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: set[tuple[str, ...]] = set()
        if not path.exists() or not path.stat().st_size:
            self._append(COLUMNS)
            return
        text = path.read_text(encoding="utf-8")
        if not text.endswith("\n"):  # a run was ended while it wrote
            text = text[: text.rfind("\n") + 1]
            os.truncate(path, len(text.encode("utf-8")))
        rows = list(csv.DictReader(io.StringIO(text)))
        if not text.startswith(",".join(COLUMNS)):
            message = f"{path} has other columns than this script writes; give another --out"
            raise WrongFileError(message)
        self.done = {tuple(row[name] for name in KEYS) for row in rows}

    def has(self, row: dict[str, str]) -> bool:
        """Tell whether a row was taken before."""
        return tuple(row.get(name, "") for name in KEYS) in self.done

    def add(self, row: dict[str, str]) -> None:
        """Append a row and make sure that it is on disk."""
        unknown = set(row) - set(COLUMNS)
        if unknown:
            message = f"no columns for {', '.join(sorted(unknown))}"
            raise ValueError(message)
        self._append([row.get(name, "") for name in COLUMNS])
        self.done.add(tuple(row.get(name, "") for name in KEYS))

    def _append(self, cells: tuple[str, ...] | list[str]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        with self.path.open("a", encoding="utf-8", newline="") as stream:
            stream.write(text.getvalue())
            stream.flush()
            os.fsync(stream.fileno())
