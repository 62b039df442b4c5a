"""Parameters as a person asks for them: ``alpha``, ``dispatch.alpha=0.8:2`` or ``m=16:4096:log``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moesim.errors import InputError


@dataclass(frozen=True)
class Asked:
    """A parameter that is to be searched.

    Attributes:
        name: as written.
        span: low end, high end and whether by logarithm; None where the usual range is meant.
    """

    name: str
    span: tuple[float, float, bool] | None


def read_asked(text: str) -> Asked:
    """Read one parameter with its range.

    Raises:
        InputError: not of that form.
    """
    name, equals, span = (part.strip() for part in text.partition("="))
    if not name:
        message = "a parameter needs a name"
        raise InputError(message, "--parameters")
    if not equals:
        return Asked(name, None)
    parts = [part.strip() for part in span.split(":")]
    try:
        low, high = float(parts[0]), float(parts[1])
        right = len(parts) == 2 or parts[2:] == ["log"]
    except (ValueError, IndexError):
        right = False
    if not right or not (math.isfinite(low) and math.isfinite(high) and low < high):
        message = f"'{text}' is not a parameter with a range"
        raise InputError(message, "--parameters", hint=f"write {name}=LOW:HIGH or {name}=LOW:HIGH:log")
    return Asked(name, (low, high, len(parts) == 3))
