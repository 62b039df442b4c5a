"""Number formats of stored weights and their size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from moesim.errors import unknown_name

STORED_BYTES: Mapping[str, float] = MappingProxyType(
    {
        "fp32": 4.0,
        "bf16": 2.0,
        "fp16": 2.0,
        "fp8": 1.0,
        "int8": 1.0,
        # OCP microscaling FP4: 32 four-bit elements share one eight-bit scale, 4.25 bits in all. The scales
        # of the other block formats are below 1 % (fp8: one fp32 per 128 x 128) and left out.
        "fp4": 4.25 / 8,
        "int4": 0.5,
    }
)
"""Bytes per stored weight, block scales of FP4 included."""


def element_bytes(dtype: str) -> float:
    """Return the bytes of one stored element.

    Raises:
        InputError: the format is not known.
    """
    if dtype not in STORED_BYTES:
        raise unknown_name("number format", dtype, STORED_BYTES)
    return STORED_BYTES[dtype]


def stored_bytes(count: int, dtype: str) -> int:
    """Return the whole bytes that ``count`` elements take."""
    return math.ceil(count * element_bytes(dtype))
