"""Calibrated constants of the grouped GEMM, and how each family of kernels cuts its work.

Constants are looked up by device, number format and kernel family; what was never measured falls back to
constants fitted over all devices (shares of datasheet rates carry over), and formats to their nearest kin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from moesim.errors import unknown_name
from moesim.hardware.catalogue import read_data
from moesim.hardware.grouped_kernels import GroupedKernel
from moesim.hardware.grouped_work import GroupedConstants

FORMATS: Final[Mapping[str, tuple[str, float]]] = MappingProxyType(
    {
        "bf16": ("bf16", 2.0),
        "fp8": ("fp8", 1.0),
        "fp8_block": ("fp8", 1.0 + 4.0 / 128**2),
        "int4": ("bf16", 0.5 + 2.0 / 128),
        "mxfp4": ("bf16", 0.5 + 1.0 / 32),
        "nvfp4": ("fp4", 0.5 + 1.0 / 16),
        "mxfp4_fp8": ("fp8", 0.5 + 1.0 / 32),
        "int8": ("int8", 1.0),
        "fp32": ("fp32", 4.0),
    }
)
"""Number format of the weights -> format of the arithmetic and bytes per weight, block scales included:
fp8_block has one fp32 scale per 128 x 128, int4 one fp16 per 128, mxfp4 one byte per 32, nvfp4 one per 16."""

GENERIC: Final = "generic"
"""Name under which constants of devices without measurements stand."""


@dataclass(frozen=True)
class Calibration:
    """Constants and where they come from.

    Attributes:
        kernel: how the kernel family cuts the work.
        constants: fitted constants.
        source: what they were fitted to and when.
        measured: False for constants that come from other devices or another format.
        backend: software and kernel family.
    """

    kernel: GroupedKernel
    constants: GroupedConstants
    source: str
    measured: bool
    backend: str = ""


@cache
def _data() -> Mapping[str, Any]:
    """Return the file of calibrations."""
    return MappingProxyType(read_data("calibration"))


@cache
def kernel_for(backend: str, dtype: str) -> GroupedKernel:
    """Return how a kernel family cuts its work.

    Args:
        backend: ``software/family`` or a family, for example ``vllm/triton`` or ``cutlass``.
        dtype: a key of ``FORMATS``.

    Raises:
        InputError: no such family or format.
    """
    _check_format(dtype)
    family = backend.rpartition("/")[2]
    table = _data()["kernels"]
    for name in (f"{backend}/{dtype}", f"{family}/{dtype}", backend, family):
        if name in table:
            return GroupedKernel(name=name, **table[name])
    raise unknown_name("family of grouped kernels", family[:60], {name.partition("/")[0] for name in table})


def grouped_entries() -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """Return constants by device and ``software/family/format``."""
    table: Mapping[str, Mapping[str, Mapping[str, float]]] = _data()["grouped_gemm"]
    return table


def grouped_source() -> str:
    """Return what the package's constants were fitted to and when."""
    return str(_data()["source"])


@cache
def tuned_experts(device: str, dtype: str) -> frozenset[tuple[int, int]]:
    """Return for which (experts on a device, width of one) SGLang ships tuned Triton configurations."""
    listed = _data()["tuned"].get(device, {}).get(dtype, {})
    return frozenset((int(count), int(width)) for count, widths in listed.items() for width in widths)


def _check_format(dtype: str) -> None:
    if dtype not in FORMATS:
        raise unknown_name("number format", dtype[:60], FORMATS)
