"""DeepEP's published times on H800 beside predictions that have not seen them.

Every constant comes from measurements on H100 by others, every rate from a datasheet: of the published
tables nothing is fitted. Low-latency kernels: 128 tokens per device, hidden size 7168, top-8, fp8 dispatch
and bf16 combine (DeepEP README; before 2025-06 all copies went over the NIC). Normal kernels: 4096 tokens, at
most four nodes per token, 24 SMs; their published bandwidths are turned into times with the test's own
definition of bytes.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import pandas as pd

from moesim.accuracy.protocols import Array
from moesim.hardware import load_device
from moesim.hardware.distinct import pairs_per_token
from moesim.hardware.expert_exchange import (
    LowLatencyConstants,
    NormalConstants,
    low_latency_seconds,
    normal_seconds,
)
from moesim.hardware.network_constants import model_constants, node_links, usable_nic_rate

Direction = Literal["dispatch", "combine"]

DEVICE: Final = "H800-SXM"
HIDDEN: Final = 7168
EXPERTS: Final = 256
TOP_K: Final = 8
PER_NODE: Final = 8

_LOW_LATENCY_US: Final[dict[tuple[Direction, bool], tuple[int, ...]]] = {
    ("dispatch", False): (163, 173, 182, 186, 192, 194),
    ("combine", False): (318, 329, 350, 353, 369, 360),
    ("dispatch", True): (77, 118, 155, 173, 192, 194),
    ("combine", True): (114, 195, 273, 314, 369, 360),
}
"""Microseconds at EP 8, 16, 32, 64, 128 and 256, by direction and whether NVLink is used inside nodes."""

_NORMAL_US: Final[dict[Direction, tuple[int, ...]]] = {
    "dispatch": (1045, 1401, 1880, 2366),
    "combine": (1962, 2718, 3710, 4680),
}
"""Microseconds at EP 8, 16, 32 and 64."""


def row_bytes(direction: Direction, header: int = 0) -> float:
    """Return the bytes of a token on the way: fp8 with a scale of 4 bytes per 128, or bf16."""
    return HIDDEN * (1 + 4 / 128) + header if direction == "dispatch" else HIDDEN * 2.0


def low_latency(direction: Direction, devices: Array, nvlink: bool) -> Array:
    """Predict the low-latency kernels on numbers of devices (s)."""
    constants = LowLatencyConstants.of(model_constants(f"low_latency_{direction}", DEVICE))
    units = load_device(DEVICE).compute_units
    link, nic = node_links(DEVICE).rate, usable_nic_rate()
    row, nodes = row_bytes(direction, 16), devices / PER_NODE
    return low_latency_seconds(
        128, TOP_K, EXPERTS, row, nodes, PER_NODE, units, link, nic, constants, nvlink=nvlink
    )


def normal(direction: Direction, devices: Array) -> Array:
    """Predict the normal kernels on numbers of devices (s)."""
    constants = NormalConstants.of(model_constants(f"normal_{direction}", DEVICE))
    nodes = devices / PER_NODE
    reached = np.array([pairs_per_token(int(n), PER_NODE, EXPERTS, TOP_K, limit=4) for n in nodes])
    over, to = reached[:, 0], reached[:, 1]
    link, nic = node_links(DEVICE).rate, usable_nic_rate()
    row = row_bytes(direction)
    return normal_seconds(4096, over, to, row, nodes, PER_NODE, 24, link, nic, constants)


def comparison() -> pd.DataFrame:
    """Return kernel, direction, devices, measured_s, predicted_s and error (predicted / measured - 1)."""
    parts = []
    for (direction, nvlink), published in _LOW_LATENCY_US.items():
        devices = np.asarray(8.0 * 2.0 ** np.arange(len(published)), dtype=np.float64)
        kernel = "low latency, NVLink" if nvlink else "low latency, NIC only"
        parts.append((kernel, direction, devices, published, low_latency(direction, devices, nvlink)))
    for direction, published in _NORMAL_US.items():
        devices = np.asarray(8.0 * 2.0 ** np.arange(len(published)), dtype=np.float64)
        parts.append(("normal", direction, devices, published, normal(direction, devices)))
    frames = [
        pd.DataFrame(
            {
                "kernel": kernel,
                "direction": direction,
                "devices": devices.astype(int),
                "measured_s": np.array(published) * 1e-6,
                "predicted_s": predicted,
            }
        )
        for kernel, direction, devices, published, predicted in parts
    ]
    table = pd.concat(frames, ignore_index=True)
    return table.assign(error=table["predicted_s"] / table["measured_s"] - 1.0)
