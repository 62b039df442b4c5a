"""Fitted constants of dense GEMMs and attention from the catalogue (data/dense.yaml)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from moesim.hardware.attention_cost import AttentionConstants
from moesim.hardware.catalogue import read_data
from moesim.hardware.dense_gemm import GemmConstants

GENERIC: Final = "generic"
"""Entry for devices without published timings: constants fitted to all measured devices together."""

_CLOSEST: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "fp8": ("fp8_block",),
        "fp8_block": ("fp8",),
        "fp16": ("bf16",),
        "int8_wo": ("bf16",),
        "int4": ("int8_wo", "bf16"),
        "fp4": ("fp8_block", "fp8"),
    }
)
"""Kinds whose constants stand in for one that nobody timed, best first; rates stay those of the kind."""


@cache
def _data() -> Mapping[str, Any]:
    return MappingProxyType(read_data("dense"))


def cache_bytes(device: str) -> float:
    """Return the L2 of a catalogued device in bytes; 0 if it is not known."""
    return float(_data()["caches"].get(device, 0.0))


def gemm_entries() -> Mapping[str, Mapping[str, Any]]:
    """Return constants of dense GEMMs by device and kind."""
    table: Mapping[str, Mapping[str, Any]] = _data()["gemm"]
    return table


def attention_entries() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Return constants of attention cores by kind and phase, device and format."""
    table: Mapping[str, Mapping[str, Mapping[str, Any]]] = _data()["attention"]
    return table


def gemm_constants(device: str, dtype: str) -> GemmConstants:
    """Return the package's constants of a device (catalogue name) and kind of GEMM, or generic ones."""
    return GemmConstants(**numbers(entry_for((gemm_entries(),), (device, GENERIC), dtype)[0], GemmConstants))


def attention_constants(device: str, kind: str, phase: str, dtype: str = "bf16") -> AttentionConstants:
    """Return the package's constants of a device, kind, phase and format, or generic ones."""
    entry, _ = entry_for((attention_entries()[f"{kind}_{phase}"],), (device, GENERIC), dtype)
    return AttentionConstants(**numbers(entry, AttentionConstants))


def entry_for(
    tables: Sequence[Mapping[str, Mapping[str, Any]]], names: Sequence[str], dtype: str
) -> tuple[Mapping[str, Any], bool]:
    """Look a format up in tables by device, then the format nearest to it.

    Args:
        tables: constants by device and format, the first one preferred.
        names: names of the device and of what may stand in for it, best first.
        dtype: format or kind of GEMM.

    Returns:
        The entry (empty if there is none at all), and whether it is one of the last, generic name.
    """
    for word in (dtype, *_CLOSEST.get(dtype, ()), "bf16"):
        for name in names:
            for table in tables:
                found = table.get(name, {}).get(word)
                if found is not None:
                    return found, name == names[-1]
    return {}, True


def numbers(entry: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Keep the constants of an entry and leave out where they come from."""
    return {f.name: entry[f.name] for f in fields(kind) if f.name in entry}
