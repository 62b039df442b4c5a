"""Times among the parameters of policies: numbers in seconds, or text with a unit."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from moesim.units import parse


def _seconds(value: Any) -> Any:
    return parse(value, "s") if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds)]
"""A time in seconds, which may be written with a unit, as ``20 us``."""
