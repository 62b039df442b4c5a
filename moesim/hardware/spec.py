"""What a machine is made of: memory tiers, devices and links, as printed on their datasheets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from moesim.errors import InputError

DTYPE_BYTES: Mapping[str, float] = MappingProxyType(
    {"fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5, "int4": 0.5}
)
"""Bytes per element of each number format (scales of block formats are not counted)."""


@dataclass(frozen=True)
class MemoryTier:
    """One kind of memory.

    Attributes:
        name: ``HBM``, ``DRAM``, ``NVMe`` ...
        capacity: bytes.
        bandwidth: bytes/s of the memory itself.
    """

    name: str
    capacity: int
    bandwidth: float


@dataclass(frozen=True)
class Device:
    """One accelerator with the few constants its cost model needs.

    Attributes:
        name: catalogue name.
        vendor: maker.
        peak_flops: dense peak FLOP/s by number format.
        memory: the device's own memory.
        compute_units: SMs, CUs or AI cores over which tiles are spread.
        gemm_efficiency: share of peak that a large GEMM reaches (0..1]; None: as calibrated
            (``moesim.hardware.calibrations``).
        memory_efficiency: share of the memory's bandwidth that streaming kernels reach (0..1]; None: as
            calibrated.
        launch_s: time the host needs to launch one kernel without graphs (s).
        host_sync_s: time of one scalar read back to the host, the kernel that makes it included (s).
        power_w: board power (W), if known.
        kin: measured device of the catalogue with the same chip, whose calibrated constants serve.
        sources: where the numbers come from.
    """

    name: str
    vendor: str
    peak_flops: Mapping[str, float] = field(hash=False)
    memory: MemoryTier
    compute_units: int
    gemm_efficiency: float | None = None
    memory_efficiency: float | None = None
    launch_s: float = 4e-6
    host_sync_s: float = 20e-6
    power_w: float | None = None
    kin: str | None = None
    sources: tuple[str, ...] = field(default_factory=tuple)

    def flops(self, dtype: str) -> float:
        """Return dense peak FLOP/s for a format.

        A format the device cannot multiply runs at the rate of the next wider one it has, after
        conversion on the fly.

        Raises:
            InputError: neither the format nor a wider one is known for the device.
        """
        for name in (dtype, *_WIDER.get(dtype, ())):
            if name in self.peak_flops:
                return self.peak_flops[name]
        message = f"device '{self.name}' has no rate for '{dtype}'"
        raise InputError(message, hint=f"known: {', '.join(sorted(self.peak_flops))}")


_WIDER: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "fp4": ("bf16", "fp16", "fp32"),
        "int4": ("bf16", "fp16", "fp32"),
        "fp8": ("bf16", "fp16", "fp32"),
        "int8": ("bf16", "fp16", "fp32"),
        "bf16": ("fp16", "tf32", "fp32"),
        "fp16": ("bf16", "tf32", "fp32"),
        "tf32": ("fp32",),
    }
)
"""Formats that stand in for one a device cannot multiply, best first."""
