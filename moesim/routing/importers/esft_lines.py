"""Parse one line of an ESFT text log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError


@dataclass(frozen=True)
class Line:
    """One parsed line of one layer: ids and weights, [tokens, top_k]."""

    ids: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]


def parse_line(text: str, path: Path, line: int, experts: int, top_k: int) -> Line:
    """Parse one line into ids and weights, [tokens, top_k]."""
    left, gap, right = text.strip("\t ").partition("\t\t")
    first = left.split("\t") if "\t" in left else left.split()
    if gap:
        id_words, weight_words, start = first, right.strip("\t ").split("\t"), len(first) + 1
    elif len(first) > 1 and not first[1].isdecimal():
        id_words, weight_words, start = first[::2], first[1::2], 0
    else:
        half = len(first) // 2
        id_words, weight_words, start = first[:half], first[half:], half
    if len(id_words) != len(weight_words) or len(id_words) % top_k or not id_words:
        message = (
            f"{len(id_words)} ids and {len(weight_words)} weights are not {top_k} of each for every token"
        )
        raise InputError(message, str(path), line, hint="is top_k right, and the file whole?")
    try:
        ids = np.array(id_words, dtype=np.int64)
        weights = np.array(weight_words, dtype=np.float64)
    except (ValueError, OverflowError) as error:
        raise _bad_field(id_words, weight_words, start, path, line) from error
    wrong = np.flatnonzero((ids < 0) | (ids >= experts))
    if wrong.size:
        field = int(wrong[0])
        message = f"field {field + 1}: expert id {int(ids[field])} is outside 0..{experts - 1}"
        raise InputError(message, str(path), line)
    bad = np.flatnonzero(~(weights >= 0) | np.isinf(weights))
    if bad.size:
        message = f"weight {int(bad[0]) + 1}: {weights[bad[0]]} is not a gate weight"
        raise InputError(message, str(path), line)
    return Line(ids.reshape(-1, top_k), weights.reshape(-1, top_k))


def _bad_field(id_words: list[str], weight_words: list[str], start: int, path: Path, line: int) -> InputError:
    """Name the first field that is not a number."""
    for index, word in enumerate(id_words):
        if not word.strip().isdecimal():
            return InputError(f"field {index + 1}: '{word[:40]}' is not an expert id", str(path), line)
    for index, word in enumerate(weight_words):
        try:
            float(word)
        except ValueError:
            field = f"field {start + index + 1}" if start else f"weight {index + 1}"
            return InputError(f"{field}: '{word[:40]}' is not a gate weight", str(path), line)
    return InputError("a number on this line is too large", str(path), line)
