"""Fitted constants of dense GEMMs and attention from the catalogue (data/dense.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
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


def gemm_constants(device: str, dtype: str) -> GemmConstants:
    """Return the constants of a device (catalogue name) and kind of GEMM, or generic ones."""
    return GemmConstants(**_numbers(_find(_data()["gemm"], device, dtype), GemmConstants))


def attention_constants(device: str, kind: str, phase: str, dtype: str = "bf16") -> AttentionConstants:
    """Return the constants of a device (catalogue name), kind, phase and format, or generic ones."""
    entry = _find(_data()["attention"][f"{kind}_{phase}"], device, dtype)
    return AttentionConstants(**_numbers(entry, AttentionConstants))


def _find(table: Mapping[str, Mapping[str, Any]], device: str, dtype: str) -> Mapping[str, Any]:
    """Look a format up for the device, then for devices in general, then the format nearest to it."""
    for word in (dtype, *_CLOSEST.get(dtype, ()), "bf16"):
        for name in (device, GENERIC):
            found: Mapping[str, Any] | None = table.get(name, {}).get(word)
            if found is not None:
                return found
    return {}


def _numbers(entry: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Keep the constants of an entry and leave out where they come from."""
    return {f.name: entry[f.name] for f in fields(kind) if f.name in entry}
