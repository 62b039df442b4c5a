"""What one fit needs: rows, a model that prices them, and where its constants start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from moesim.accuracy.protocols import Array

Price = Callable[[Mapping[str, float]], Array]
"""Constants by name -> seconds per row."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows that share constants, and their model.

    Attributes:
        family: family of the rows.
        device: name of the device in the catalogue or datasheet.
        label: number format and software, as reports show them.
        place: where the constants stand in a calibration file; empty for what no file holds.
        rows: the timings.
        build: rows -> their price.
        start: every constant as it is without own timings.
        free: constants that own timings may move.
        bounds: smallest and largest value of each free constant.
        spread: how far each may be from its start (natural logarithm, one standard deviation).
        kept: further settings that belong to the constants and are not fitted.
        predicts: False where ``start`` is a guess that nobody would predict with.
        own: whether ``start`` comes from measurements of this very device.
    """

    family: str
    device: str
    label: str
    place: tuple[str, ...]
    rows: pd.DataFrame
    build: Callable[[pd.DataFrame], Price]
    start: Mapping[str, float]
    free: tuple[str, ...]
    bounds: Mapping[str, tuple[float, float]]
    spread: Mapping[str, float]
    kept: Mapping[str, str | bool]
    predicts: bool = True
    own: bool = False

    @property
    def seconds(self) -> Array:
        """Return the measured seconds, [rows]."""
        return self.rows["seconds"].to_numpy(dtype="float64")
