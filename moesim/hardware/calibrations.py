"""Fitted constants by device: a user's own first, then the package's, then generic ones.

Constants are looked up for the device itself, for its kin (the same chip behind other links or with other
memory), and last for devices in general. Constants take over the efficiencies that a device's description
states, but for a user's own of this very device: timings say more than a stated efficiency.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from moesim.errors import InputError, unknown_name
from moesim.hardware.attention_cost import AttentionConstants
from moesim.hardware.calibration import (
    FORMATS,
    GENERIC,
    Calibration,
    grouped_entries,
    grouped_source,
    kernel_for,
)
from moesim.hardware.dense_constants import attention_entries, entry_for, gemm_entries, numbers
from moesim.hardware.dense_gemm import GemmConstants
from moesim.hardware.elementwise import StreamConstants, stream_constants
from moesim.hardware.grouped_work import GroupedConstants
from moesim.hardware.network_constants import has_model, model_constants
from moesim.hardware.protocols import CollectiveConstants
from moesim.hardware.spec import Device

SECTIONS: Final = ("grouped_gemm", "gemm", "attention", "stream", "collectives")
"""Parts of a calibration; each holds constants by device (attention and collectives by kind first)."""

_BACKENDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "bf16": ("vllm/triton", "sglang/triton", "trtllm/cutlass"),
        "fp8": ("vllm/triton", "vllm/cutlass", "trtllm/cutlass"),
        "fp8_block": ("vllm/cutlass", "vllm/trtllm_gen", "sglang/triton", "vllm/triton"),
        "int4": ("vllm/marlin", "sglang/marlin"),
        "mxfp4": ("vllm/oai_triton", "vllm/trtllm_gen", "vllm/marlin"),
        "nvfp4": ("vllm/trtllm_gen", "vllm/cutlass", "trtllm/cutlass"),
        "mxfp4_fp8": ("vllm/trtllm_gen_modular", "trtllm/cutlass"),
    }
)
"""Kernels that ``auto`` takes, the first that was measured on the device: what vLLM runs there."""

_STAND_INS: Final[Mapping[str, str]] = MappingProxyType({"int8": "fp8", "fp32": "bf16"})
"""Formats whose grouped kernels nobody timed -> format whose constants serve."""


@dataclass(frozen=True)
class Calibrations:
    """Where constants are looked up.

    Attributes:
        overlay: constants that come before the package's own, laid out as the package's data:
            ``{grouped_gemm: {DEVICE: {"vllm/triton/bf16": {...}}}, gemm: {DEVICE: {bf16: {...}}}, attention:
            {gqa_decode: {DEVICE: {bf16: {...}}}}, stream: {DEVICE: {...}}, collectives: {all_to_all: {DEVICE:
            {...}}}}``.
    """

    overlay: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        """Check the names of the parts."""
        for section in self.overlay:
            if section not in (*SECTIONS, "source"):
                raise unknown_name("part of a calibration", str(section)[:60], SECTIONS)

    def gemm(self, device: Device, kind: str) -> GemmConstants:
        """Return the constants of a kind of dense GEMM."""
        entry, _ = entry_for(self._tables("gemm", gemm_entries()), _names(device), kind)
        constants = GemmConstants(**numbers(entry, GemmConstants))
        if _among(self.overlay.get("gemm", {}), device, entry):
            return constants
        mma = device.gemm_efficiency
        memory = device.memory_efficiency
        return replace(
            constants,
            mma=constants.mma if mma is None else mma,
            memory=constants.memory if memory is None else memory,
        )

    def attention(self, device: Device, kind: str, phase: str, dtype: str = "bf16") -> AttentionConstants:
        """Return the constants of an attention core (``gqa`` or ``mla``; ``prefill`` or ``decode``)."""
        name = f"{kind}_{phase}"
        mine = self.overlay.get("attention", {}).get(name, {})
        entry, _ = entry_for((mine, attention_entries()[name]), _names(device), dtype)
        constants = AttentionConstants(**numbers(entry, AttentionConstants))
        if _among(mine, device, entry):
            return constants
        compute, memory = self._stated(device)
        return replace(constants, mma=constants.mma * compute, memory=min(constants.memory * memory, 1.2))

    def network(self, model: str, device: str) -> Mapping[str, float] | None:
        """Return the constants of a network model on a device, or None if nothing was measured.

        Args:
            model: ``all_reduce``, ``low_latency_dispatch`` ...: see ``moesim.hardware.network_constants``.
            device: name of the device.
        """
        own = self.overlay.get("collectives", {}).get(model, {}).get(device)
        if own is not None:
            return {name: float(value) for name, value in numbers(own, CollectiveConstants).items()}
        return model_constants(model, device) if has_model(model, device) else None

    def stream(self, device: Device) -> StreamConstants:
        """Return the constants of kernels that only pass over rows."""
        own = self.overlay.get("stream", {})
        mine = next((own[name] for name in _names(device) if name in own), None)
        if mine is not None:
            return StreamConstants(**numbers(mine, StreamConstants))
        constants = stream_constants(*_names(device))
        memory = device.memory_efficiency
        return constants if memory is None else replace(constants, memory=min(constants.memory, memory))

    def grouped(self, device: Device, dtype: str, backend: str = "auto") -> Calibration:
        """Return kernel and constants of a fused expert layer.

        Args:
            device: where it runs.
            dtype: format of the weights, a key of ``FORMATS``.
            backend: ``software/family``, or ``auto``.

        Raises:
            InputError: unknown format or kernels, or nothing at all is known of their combination.
        """
        if dtype not in FORMATS:
            raise unknown_name("number format", dtype[:60], FORMATS)
        stored = _STAND_INS.get(dtype, dtype)
        tables = self._tables("grouped_gemm", grouped_entries())
        compute, memory = self._stated(device)
        wanted = [backend] if backend != "auto" else list(_BACKENDS[stored])
        for name in _names(device):
            for one in wanted:
                for table in tables:
                    entry = table.get(name, {}).get(f"{one}/{stored}")
                    if entry is None:
                        continue
                    constants = GroupedConstants.from_mapping(entry, f"grouped_gemm.{name}.{one}/{stored}")
                    if not _among(self.overlay.get("grouped_gemm", {}), device, entry):
                        constants = replace(
                            constants,
                            compute=constants.compute * compute,
                            memory=constants.memory * memory,
                            passes=constants.passes * memory,
                        )
                    return Calibration(
                        kernel_for(one, stored), constants, grouped_source(), name != GENERIC, one
                    )
        known = sorted({key for table in tables for entry in table.values() for key in entry})
        if backend != "auto" and not any(key.startswith(f"{backend}/") for key in known):
            raise unknown_name("kernels", backend[:60], sorted({key.rpartition("/")[0] for key in known}))
        message = f"there are no constants of '{backend}' kernels for '{dtype}' weights"
        fits = [key.rpartition("/")[0] for key in known if key.endswith(f"/{stored}")]
        raise InputError(message, hint=f"known for {dtype}: {', '.join(dict.fromkeys(fits))}")

    def _stated(self, device: Device) -> tuple[float, float]:
        """Return how the stated efficiencies compare with those of dense bf16 GEMMs."""
        entry, _ = entry_for(self._tables("gemm", gemm_entries()), _names(device), "bf16")
        usual = GemmConstants(**numbers(entry, GemmConstants))
        compute = 1.0 if device.gemm_efficiency is None else device.gemm_efficiency / usual.mma
        memory = 1.0 if device.memory_efficiency is None else device.memory_efficiency / usual.memory
        return compute, memory

    def _tables(self, section: str, package: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
        return (self.overlay.get(section, {}), package)


def _among(table: Mapping[str, Any], device: Device, entry: Mapping[str, Any]) -> bool:
    """Tell whether constants are those that a table has for this very device."""
    return any(entry is one for one in table.get(device.name, {}).values())


def _names(device: Device) -> tuple[str, ...]:
    """Return under which names constants of a device may stand, best first."""
    return (device.name, *([device.kin] if device.kin else []), GENERIC)
