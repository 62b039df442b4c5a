"""Constants that simulations use without own timings: where fits start and what they are compared with.

Every function returns the constants and whether they come from measurements of the very device and format;
if not, they are those of a sibling or generic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from moesim.errors import InputError
from moesim.hardware.attention_cost import AttentionConstants
from moesim.hardware.calibration import grouped_entries
from moesim.hardware.calibrations import Calibrations
from moesim.hardware.dense_constants import attention_entries, gemm_entries
from moesim.hardware.dense_gemm import GemmConstants
from moesim.hardware.grouped_work import GroupedConstants
from moesim.hardware.network_constants import NodeLinks, has_model, model_constants
from moesim.hardware.protocols import CollectiveConstants, Operation
from moesim.hardware.spec import Device

_PLAIN: Final = GroupedConstants(1.2e-5, 0.85, 0.57, 0.85, 3e-7, 2.3e-9)
"""Grouped kernels of which nothing like them was measured: about vLLM's Triton kernels in bf16."""

_SOFTWARE: Final = ("vllm", "trtllm", "sglang")
"""Software whose kernels of a family stand for another one's, best first."""

_LIKE: Final[Mapping[str, str]] = {"nvlink": "H100-SXM", "pcie": "RTX-PRO-6000"}
"""Kind of links -> measured system whose collectives stand for others with such links."""


def gemm_start(device: Device, kind: str) -> tuple[GemmConstants, bool]:
    """Return constants of dense GEMMs."""
    return Calibrations().gemm(device, kind), kind in gemm_entries().get(device.name, {})


def attention_start(device: Device, kind: str, phase: str, dtype: str) -> tuple[AttentionConstants, bool]:
    """Return constants of attention cores."""
    own = dtype in attention_entries()[f"{kind}_{phase}"].get(device.name, {})
    return Calibrations().attention(device, kind, phase, dtype), own


def grouped_start(device: Device, dtype: str, backend: str) -> tuple[GroupedConstants, bool]:
    """Return constants of grouped kernels: of this software, else of another one's kernels of the family."""
    own = f"{backend}/{dtype}" in grouped_entries().get(device.name, {})
    family = backend.rpartition("/")[2]
    for name in (backend, *(f"{software}/{family}" for software in _SOFTWARE)):
        try:
            return Calibrations().grouped(device, dtype, name).constants, own
        except InputError:
            continue
    return _PLAIN, False


def collective_start(
    device: Device, links: NodeLinks, operation: Operation
) -> tuple[CollectiveConstants, bool]:
    """Return constants of a collective: of the device, else of a measured one with such links."""
    own = has_model(operation, device.name)
    name = device.name if own else _LIKE.get(links.kind, "H100-SXM")
    return CollectiveConstants.of(model_constants(operation, name)), own
