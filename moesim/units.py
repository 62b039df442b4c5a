"""Quantities as people write them, SI floats inside.

``parse("64 GiB", "B")`` gives bytes, ``parse("400 Gb/s", "B/s")`` bytes per second. Decimal (k, M, G,
T, P) and binary (Ki, Mi, Gi, Ti) prefixes are kept apart; ``b`` is a bit and ``B`` a byte.
"""

from __future__ import annotations

import math
import re
from typing import Final

_DECIMAL: Final = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY: Final = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_TIME: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}

_NUMBER: Final = re.compile(r"^\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*$")

_EXAMPLE: Final = {
    "B": "'64 GiB' or '80 GB'",
    "B/s": "'400 Gb/s' or '900 GB/s'",
    "FLOP/s": "'989 TFLOP/s'",
    "FLOP": "'6 GFLOP'",
    "s": "'5 us' or '1.2 ms'",
    "": "'32k' or '32768'",
}


def _table(unit: str) -> dict[str, float]:
    """Map every accepted suffix of a unit to its factor."""
    prefixes = _DECIMAL | _BINARY
    if unit == "s":
        return dict(_TIME)
    if unit == "":
        return dict(prefixes)
    if unit in ("B", "B/s"):
        tail = unit[1:]
        table = {f"{p}B{tail}": f for p, f in prefixes.items()}
        table |= {f"{p}b{tail}": f / 8 for p, f in prefixes.items()}
        table |= {f"{p}bit{tail}": f / 8 for p, f in prefixes.items()}
        if tail:
            table |= {f"{p}bps": f / 8 for p, f in prefixes.items()}
        return table
    if unit in ("FLOP", "FLOP/s"):
        tail = unit[4:]
        table = {f"{p}FLOP{tail}": f for p, f in _DECIMAL.items()}
        table |= {f"{p}OP{tail}": f for p, f in _DECIMAL.items()}
        if tail:
            table |= {f"{p}FLOPS": f for p, f in _DECIMAL.items()}
            table |= {f"{p}OPS": f for p, f in _DECIMAL.items()}
        return table
    message = f"unknown unit '{unit}'"
    raise ValueError(message)


_TABLES: Final = {unit: _table(unit) for unit in _EXAMPLE}


def parse(value: str | float, unit: str) -> float:
    """Read a quantity.

    Args:
        value: a number (taken in SI units) or a number with a suffix.
        unit: one of ``B``, ``B/s``, ``FLOP``, ``FLOP/s``, ``s`` and the empty string for plain counts.

    Returns:
        The quantity in SI units, finite and not negative.

    Raises:
        ValueError: not a number, an unknown suffix, negative, NaN or infinite.
    """
    expected = f"expected a quantity such as {_EXAMPLE[unit]}, got {value!r}"
    if isinstance(value, bool):
        raise ValueError(expected)
    if isinstance(value, (int, float)):
        try:
            number, factor = float(value), 1.0
        except OverflowError as error:
            raise ValueError(expected) from error
    else:
        match = _NUMBER.match(value)
        if match is None:
            raise ValueError(expected)
        number = float(match.group(1).replace("_", ""))
        suffix = match.group(2)
        if suffix == "":
            factor = 1.0
        elif suffix in _TABLES[unit]:
            factor = _TABLES[unit][suffix]
        else:
            raise ValueError(f"{expected}; unknown unit '{suffix}'")
    result = number * factor
    if not math.isfinite(result):
        message = f"expected a finite quantity, got {value!r}"
        raise ValueError(message)
    if result < 0:
        message = f"expected a quantity that is not negative, got {value!r}"
        raise ValueError(message)
    return result


def _scaled(value: float, steps: list[tuple[float, str]]) -> str:
    for factor, name in steps:
        if abs(value) >= factor:
            return f"{value / factor:.4g} {name}"
    factor, name = steps[-1]
    return f"{value / factor:.4g} {name}"


def format_bytes(value: float) -> str:
    """Format bytes with binary prefixes, for example ``64 GiB``."""
    return _scaled(
        value, [(2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")]
    )


def format_rate(value: float) -> str:
    """Format bytes per second with decimal prefixes, for example ``450 GB/s``."""
    return _scaled(value, [(1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")])


def format_time(value: float) -> str:
    """Format seconds, for example ``1.25 ms``."""
    if value == 0:
        return "0 s"
    return _scaled(value, [(1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")])


def format_flops(value: float) -> str:
    """Format FLOP/s with decimal prefixes, for example ``989 TFLOP/s``."""
    return _scaled(value, [(1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1.0, "FLOP/s")])
