"""Types of parameters that people write with a unit, such as ``45 us`` or ``25 GB/s``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator

from moesim.units import parse


def _in(unit: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        return parse(value, unit) if isinstance(value, str) else value

    return read


Seconds = Annotated[float, BeforeValidator(_in("s"))]
"""Seconds, or a text with a unit of time."""

BytesPerSecond = Annotated[float, BeforeValidator(_in("B/s"))]
"""Bytes per second, or a text with a unit of bandwidth."""

FlopsPerSecond = Annotated[float, BeforeValidator(_in("FLOP/s"))]
"""Operations per second, or a text with a unit of arithmetic."""
