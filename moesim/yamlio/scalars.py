"""What an unquoted word means, by the core schema of YAML 1.2 (section 10.3.2 of its specification)."""

from __future__ import annotations

import math
import re
from typing import Final

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE: Final = frozenset({"true", "True", "TRUE"})
_FALSE: Final = frozenset({"false", "False", "FALSE"})
_INTEGER: Final = re.compile(r"[-+]?[0-9]+")
_OTHER_BASE: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_LARGEST: Final = 2**63 - 1
_DIGITS: Final = 100


def resolve(text: str) -> str | int | float | bool | None:
    """Return the value of an unquoted scalar.

    Raises:
        ValueError: a number that is not finite, or an integer that does not fit 64 bits.
    """
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if not text[0].isdigit() and text[0] not in "+-.":
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text, 10)
    if _OTHER_BASE.fullmatch(text):
        return _integer(text, 0)
    if _NOT_FINITE.fullmatch(text):
        message = f"expected a finite number, got {text}"
        raise ValueError(message)
    if _FLOAT.fullmatch(text):
        return _float(text)
    return text


def _integer(text: str, base: int) -> int:
    value = int(text, base) if len(text) <= _DIGITS else _LARGEST + 1
    if abs(value) > _LARGEST:
        shown = text if len(text) <= 30 else f"a number of {len(text)} digits"
        message = f"expected a number below 2^63, got {shown}"
        raise ValueError(message)
    return value


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        shown = text if len(text) <= 30 else f"a number of {len(text)} digits"
        message = f"expected a finite number, got {shown}"
        raise ValueError(message)
    return value
