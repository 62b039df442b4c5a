"""Constants as the package has them before own timings: where fits start and what they are compared with.

Every function returns the constants and whether they come from measurements of the very device and format;
if not, they are generic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from moesim.hardware.attention_cost import AttentionConstants
from moesim.hardware.calibration import GENERIC
from moesim.hardware.catalogue import read_data
from moesim.hardware.dense_constants import attention_constants, gemm_constants
from moesim.hardware.dense_gemm import GemmConstants
from moesim.hardware.grouped_gemm import GroupedConstants
from moesim.hardware.network_constants import NodeLinks
from moesim.hardware.protocols import CollectiveConstants, Operation
from moesim.hardware.spec import Device

_PLAIN: Final = GroupedConstants(1.2e-5, 0.85, 0.57, 0.85, 3e-7, 2.3e-9)
"""Grouped kernels of which nothing like them was measured: about vLLM's Triton kernels in bf16."""

_LIKE: Final[Mapping[str, str]] = {"nvlink": "H100-SXM", "pcie": "RTX-PRO-6000"}
"""Kind of links -> measured system whose collectives stand for others with such links."""


def gemm_start(device: Device, kind: str) -> tuple[GemmConstants, bool]:
    """Return constants of dense GEMMs."""
    own = kind in read_data("dense")["gemm"].get(device.name, {})
    return gemm_constants(device.name, kind), own


def attention_start(device: Device, kind: str, phase: str, dtype: str) -> tuple[AttentionConstants, bool]:
    """Return constants of attention cores."""
    own = dtype in read_data("dense")["attention"][f"{kind}_{phase}"].get(device.name, {})
    return attention_constants(device.name, kind, phase, dtype), own


def grouped_start(device: Device, dtype: str, backend: str) -> tuple[GroupedConstants, bool]:
    """Return constants of grouped kernels: of this software, else of another one's kernels of the family."""
    tables: Mapping[str, Any] = read_data("calibration")["grouped_gemm"]
    family = backend.rpartition("/")[2]
    name = f"{backend}/{dtype}"
    if name in tables.get(device.name, {}):
        return GroupedConstants.from_mapping(tables[device.name][name]), True
    generic: Mapping[str, Any] = tables[GENERIC]
    order = (name, *(f"{software}/{family}/{dtype}" for software in ("vllm", "trtllm", "sglang")))
    found = next((generic[one] for one in order if one in generic), None)
    return (_PLAIN if found is None else GroupedConstants.from_mapping(found)), False


def collective_start(
    device: Device, links: NodeLinks, operation: Operation
) -> tuple[CollectiveConstants, bool]:
    """Return constants of a collective: of the device, else of a measured one with such links."""
    tables: Mapping[str, Any] = read_data("collectives")["constants"][operation]
    own = device.name in tables
    entry = tables[device.name if own else _LIKE.get(links.kind, "H100-SXM")]
    # YAML 1.1 takes 1e-05 for a word.
    return CollectiveConstants.of({name: float(value) for name, value in entry.items()}), own
