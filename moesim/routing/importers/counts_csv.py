"""Import expert counts from CSV: columns ``layer``, ``expert``, ``count`` and optionally ``step``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

import numpy as np

from moesim.errors import InputError
from moesim.routing.importers.expert_counts import write_counts
from moesim.routing.importers.reading import read_text

_COLUMNS: Final = ("step", "layer", "expert", "count")
_MAX_CELLS: Final = 1 << 28  # int64 counts of at most 2 GiB


def import_counts_csv(
    source: Path,
    target: Path,
    *,
    top_k: int,
    experts: int,
    model: str = "",
    provenance: str = "",
    licence: str | None = None,
    overwrite: bool = False,
) -> None:
    """Import counts; what is not in the file is zero, and layers are those that are named.

    Args:
        source: CSV file with a header line.
        target: trace to write.
        top_k: experts per token.
        experts: routed experts per layer.
        model: name of the model.
        provenance: where the data came from.
        licence: licence of the data.
        overwrite: replace a trace that exists.

    Raises:
        InputError: naming line and column.
    """
    name = str(source)
    rows = _read(source)
    steps = sorted({row[1] for row in rows})
    layers = sorted({row[2] for row in rows})
    if len(steps) * len(layers) * experts > _MAX_CELLS:
        message = f"{len(steps)} steps of {len(layers)} layers and {experts} experts are too many for CSV"
        raise InputError(message, name, hint="use .npz")
    step_row = {step: index for index, step in enumerate(steps)}
    layer_row = {layer: index for index, layer in enumerate(layers)}
    counts = np.full((len(steps), len(layers), experts), -1, dtype=np.int64)
    for line, step, layer, expert, count in rows:
        if expert >= experts:
            message = f"expert {expert} is outside 0..{experts - 1}"
            raise InputError(message, name, line)
        cell = (step_row[step], layer_row[layer], expert)
        if counts[cell] >= 0:
            message = f"step {step}, layer {layer}, expert {expert} is counted a second time"
            raise InputError(message, name, line)
        counts[cell] = count
    write_counts(
        target,
        np.maximum(counts, 0),
        top_k=top_k,
        experts=experts,
        layers=layers,
        first_layer=0,
        model=model,
        provenance=provenance or f"imported from {source.name}",
        licence=licence,
        overwrite=overwrite,
        name=name,
    )


def _read(source: Path) -> list[tuple[int, int, int, int, int]]:
    """Read rows of (line, step, layer, expert, count)."""
    name = str(source)
    lines = read_text(source).splitlines()
    reader = csv.reader(lines, strict=True)
    try:
        header = [word.strip().lower() for word in next(reader, [])]
        if set(header) not in ({*_COLUMNS}, {*_COLUMNS[1:]}) or len(set(header)) != len(header):
            message = f"the header must name the columns {', '.join(_COLUMNS)} (step may be left out)"
            raise InputError(message, name, 1, hint=f"found: {', '.join(header)[:100] or 'nothing'}")
        place = {word: index for index, word in enumerate(header)}
        rows = []
        for cells in reader:
            if not cells:
                continue
            line = reader.line_num
            if len(cells) != len(header):
                message = f"{len(cells)} fields where the header has {len(header)}"
                raise InputError(message, name, line)
            numbers = {word: _number(cells[index], name, line, index + 1) for word, index in place.items()}
            rows.append((line, numbers.get("step", 0), numbers["layer"], numbers["expert"], numbers["count"]))
    except csv.Error as error:
        message = f"this is not valid CSV: {error}"
        raise InputError(message, name, reader.line_num) from error
    if not rows:
        message = "there is not a single count"
        raise InputError(message, name)
    return rows


def _number(text: str, name: str, line: int, column: int) -> int:
    word = text.strip()
    if not (word.isascii() and word.isdecimal() and len(word) < 16):
        message = f"'{word[:40]}' is not a whole number, zero or more"
        raise InputError(message, name, line, column)
    return int(word)
