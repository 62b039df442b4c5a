"""Calibrations that users keep in files: read and checked key by key."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from moesim import yamlio
from moesim.errors import InputError, unknown_name
from moesim.hardware.attention_choices import PACKINGS
from moesim.hardware.attention_cost import AttentionConstants
from moesim.hardware.calibrations import SECTIONS, Calibrations
from moesim.hardware.dense_gemm import GemmConstants
from moesim.hardware.elementwise import StreamConstants
from moesim.hardware.grouped_work import GroupedConstants
from moesim.hardware.protocols import OPERATIONS, CollectiveConstants
from moesim.yamlio import Document

PROVENANCE: Final = ("fitted_to", "rows", "median_error", "date")
"""Keys beside the constants that say where they come from."""

_CONSTANTS: Final[Mapping[str, type]] = MappingProxyType(
    {
        "grouped_gemm": GroupedConstants,
        "gemm": GemmConstants,
        "attention": AttentionConstants,
        "stream": StreamConstants,
        "collectives": CollectiveConstants,
    }
)
_KINDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "attention": ("gqa_prefill", "gqa_decode", "mla_prefill", "mla_decode"),
        "collectives": OPERATIONS,
    }
)
_ALL_NEEDED: Final = ("grouped_gemm", "stream", "collectives")
_OPTIONAL: Final = ("crowding",)

Path_ = tuple[str, ...]


def read_calibration(path: str | Path) -> Calibrations:
    """Read a calibration, as ``moesim calibrate`` writes it.

    Raises:
        InputError: there is no such file, or it cannot be read, or a part, kind or constant in it is
            unknown, missing or not a number that it can be; names line and column.
    """
    if not Path(path).is_file():
        message = f"there is no calibration '{path}'"
        raise InputError(message, hint="'moesim calibrate' writes one")
    document = yamlio.load(path)
    data = document.data
    if not isinstance(data, dict) or not data:
        raise document.error((), f"a calibration is a mapping of {', '.join(SECTIONS)}")
    for section in data:
        if section not in (*SECTIONS, "source"):
            wrong = unknown_name("part of a calibration", str(section)[:60], SECTIONS)
            raise document.error((str(section),), wrong.message, wrong.hint, key=True)
        if section != "source":
            for where, entry in _entries(document, section, data[section]):
                _check(document, section, where, entry)
    return Calibrations(MappingProxyType({key: data[key] for key in data}))


def _entries(document: Document, section: str, tables: Any) -> Iterator[tuple[Path_, Mapping[str, Any]]]:
    """Yield places and constants of a part."""
    kinds = _KINDS.get(section, ())
    levels = (1 if section in ("collectives", "stream") else 2) + bool(kinds)

    def walk(value: Any, where: Path_, left: int) -> Iterator[tuple[Path_, Mapping[str, Any]]]:
        if not isinstance(value, dict):
            raise document.error(where, f"'{'.'.join(where)}' must be a mapping, got {str(value)[:60]!r}")
        if left == 0:
            yield where, value
            return
        for key, below in value.items():
            if kinds and len(where) == 1 and key not in kinds:
                wrong = unknown_name(f"kind of {section}", str(key)[:60], kinds)
                raise document.error((*where, key), wrong.message, wrong.hint, key=True)
            yield from walk(below, (*where, str(key)), left - 1)

    yield from walk(tables, (section,), levels)


def _check(document: Document, section: str, where: Path_, entry: Mapping[str, Any]) -> None:
    """Check the constants of one entry."""
    known = [field.name for field in fields(_CONSTANTS[section])]
    for key, value in entry.items():
        if key in PROVENANCE:
            continue
        if key not in known:
            wrong = unknown_name("constant", str(key)[:60], known)
            raise document.error((*where, key), wrong.message, wrong.hint, key=True)
        fault = _fault(section, key, value)
        if fault:
            raise document.error((*where, key), f"'{key}' must be {fault}, got {value!r}")
    missing = [name for name in known if name not in entry and name not in _OPTIONAL]
    if section in _ALL_NEEDED and missing:
        raise document.error(where, f"'{'.'.join(where)}' lacks {', '.join(missing)}")


def _fault(section: str, key: str, value: Any) -> str:
    """Return what a constant should be, or nothing if it is."""
    if key == "packing":
        return "" if value in PACKINGS else f"one of {', '.join(PACKINGS)}"
    if key == "absorbed":
        return "" if isinstance(value, bool) else "true or false"
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    zero_allowed = key.endswith("_s") or key in ("passes", "softmax", "ends", "through")
    zero_allowed = zero_allowed or key.endswith("_waste")
    if section == "grouped_gemm" or not zero_allowed:
        return "" if number and value > 0 else "a number above 0"
    return "" if number and value >= 0 else "a number from 0 up"
