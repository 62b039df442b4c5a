"""The legs of the kernels of expert parallelism, and the constants that price them.

Each function takes what the busiest device does and what links carry, of balanced traffic
(``moesim.hardware.expert_exchange``) as of any other (``moesim.hardware.exchanges``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.hardware.network_constants import Constants

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LowLatencyConstants(Constants):
    """Low-latency kernels.

    Attributes:
        start_s: launch, flags and first message (s).
        doubling_s: latency per doubling of the nodes (s).
        expert_s: latency per expert of a device (s).
        token_s: work of a block per token (s).
        nvlink: time over NVLink in units of bytes / datasheet rate.
        overlap: how much of transfer and latency hide each other (0: they add up).
    """

    start_s: float
    doubling_s: float
    expert_s: float
    token_s: float
    nvlink: float
    overlap: float


@dataclass(frozen=True)
class NormalConstants(Constants):
    """Normal (high-throughput) kernels.

    Attributes:
        start_s: launch, flags and first chunk (s).
        doubling_s: latency per doubling of the nodes (s).
        row_s: latency per KiB of one token's row, which a warp copies piece by piece (s).
        pair_s: work of an SM per (token, device) pair (s).
        drain_s: fill and drain of the pipeline between nodes (s).
        ramp_s: length of the transfer over which that builds up (s).
        token_rate: rate at which an SM reads a token's row once (bytes/s).
        pair_rate: rate at which an SM writes it to one destination (bytes/s).
        relay: an SM's work per (token, node) pair in units of that per (token, device) pair.
        nvlink: time over NVLink in units of bytes / datasheet rate.
        contention: how much less legs disturb each other than if they took turns (0: they add up).
    """

    start_s: float
    doubling_s: float
    row_s: float
    pair_s: float
    drain_s: float
    ramp_s: float
    token_rate: float
    pair_rate: float
    relay: float
    nvlink: float
    contention: float


@dataclass(frozen=True)
class RackConstants(Constants):
    """NVLink all-to-all kernels of a rack.

    Attributes:
        start_s: launch and flags (s).
        doubling_s: latency per doubling of the devices (s).
        token_rate: rate of the local work on tokens (bytes/s).
        nvlink: time over NVLink in units of bytes / datasheet rate.
        spread: devices at which that time doubles.
    """

    start_s: float
    doubling_s: float
    token_rate: float
    nvlink: float
    spread: float


def low_latency_time(
    tokens: FloatArray,
    experts: FloatArray,
    devices: FloatArray,
    nodes: FloatArray,
    sms: FloatArray,
    inside: FloatArray,
    outside: FloatArray,
    constants: LowLatencyConstants,
) -> FloatArray:
    """Return the time of low-latency kernels, elementwise (s).

    Args:
        tokens: tokens of a device.
        experts: experts in all.
        devices: devices.
        nodes: nodes.
        sms: SMs of a device.
        inside: time of a device's NVLink at its datasheet rate (s).
        outside: time of its NIC (s).
        constants: of the kernel.
    """
    latency = constants.start_s + constants.doubling_s * np.log2(nodes)
    latency = latency + constants.expert_s * experts / devices
    blocks = np.ceil(experts / np.ceil(experts / sms))
    leg = np.maximum(inside * constants.nvlink, outside) + tokens / blocks * constants.token_s
    return norm((latency, leg), 1.0 + constants.overlap)


def normal_copying(
    size: FloatArray,
    pairs: FloatArray,
    relayed: FloatArray,
    row: FloatArray,
    sms: FloatArray,
    constants: NormalConstants,
) -> FloatArray:
    """Return how long the SMs of a device copy, elementwise (s).

    Args:
        size: bytes of the tokens of a device.
        pairs: (token, device) pairs that it writes, its own included.
        relayed: (token, node) pairs that it sends or hands on, its own node's included; 0 on one node.
        row: bytes of a token.
        sms: SMs that the kernel is given.
        constants: of the kernel.
    """
    moved = row * (pairs + relayed * constants.relay)
    work = size / constants.token_rate + moved / constants.pair_rate + pairs * constants.pair_s
    return np.asarray(work / sms)


def normal_time(
    copying: FloatArray,
    inside: FloatArray,
    outside: FloatArray,
    row: FloatArray,
    nodes: FloatArray,
    constants: NormalConstants,
) -> FloatArray:
    """Return the time of normal kernels, elementwise (s).

    Args:
        copying: time of the SMs (s).
        inside: time of a device's NVLink at its datasheet rate (s).
        outside: time of its NIC (s).
        row: bytes of a token.
        nodes: nodes.
        constants: of the kernel.
    """
    leg = norm((copying, inside * constants.nvlink, outside), 1.0 + constants.contention)
    latency = constants.start_s + constants.doubling_s * np.log2(nodes) + constants.row_s * row / 1024
    fill = leg + constants.ramp_s
    drain = constants.drain_s * np.divide(leg, fill, out=np.zeros_like(leg), where=fill > 0)
    return np.asarray(latency + leg + np.where(nodes > 1, drain, 0.0))


def rack_time(
    size: FloatArray, inside: FloatArray, outside: FloatArray, devices: FloatArray, constants: RackConstants
) -> FloatArray:
    """Return the time of a rack's kernels, elementwise (s).

    Args:
        size: bytes of the tokens of a device.
        inside: time of its NVLink at its datasheet rate (s).
        outside: time of links between racks (s).
        devices: devices of a rack.
        constants: of the kernel.
    """
    slower = 1.0 + (devices / constants.spread) ** 2
    wire = np.maximum(inside * constants.nvlink * slower, outside)
    latency = constants.start_s + constants.doubling_s * np.log2(devices)
    return np.asarray(latency + wire + size / constants.token_rate)


def norm(parts: tuple[FloatArray, ...], power: float) -> FloatArray:
    """Return (sum of part**power)**(1/power), scaled so that nothing overflows."""
    parts = tuple(np.broadcast_arrays(*parts))
    largest = np.maximum.reduce(parts)
    scale = np.where(largest > 0, largest, 1.0)
    total = sum(((part / scale) ** power for part in parts), np.zeros_like(largest))
    return np.asarray(largest * np.asarray(total) ** (1.0 / power))
