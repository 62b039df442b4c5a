"""How long the kernels of expert parallelism take to send tokens to their experts and back.

Three designs that are in use (DeepEP's low-latency and normal kernels, and the NVLink kernels of rack-scale
systems). Every device starts with ``tokens`` tokens of ``top_k`` experts each, spread evenly.

Low latency. One message per copy, no relay. Of R devices a share (R - 1)/R of copies leaves its own; those
bound for the node go over NVLink if ``nvlink`` (else all over the NIC), the others over the NIC; the slower
leg counts. Blocks of threads share the tokens; the kernel starts one block per expert or, with more experts
than SMs, per few experts, so a handful of experts keeps most SMs idle. Latency grows with each doubling of
the nodes and, for the counters that are polled, with the experts per device. Transfer partly hides behind
latency (a norm of power ``1 + overlap``).

Normal. A token crosses to each node once, to the device of the same index, and is handed on over NVLink to
each device once. Three legs compete (a norm of power ``1 + contention``): copying by the SMs that the
kernel is given, NVLink, NIC. Latency and, between nodes, the fill and drain of the pipeline come on top.

Rack scale. A token goes to each device once, all over NVLink, after local work on every token; large
groups spread over more buffers and lose rate with the square of their size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
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


def low_latency_seconds(
    tokens: npt.ArrayLike,
    top_k: npt.ArrayLike,
    experts: npt.ArrayLike,
    row_bytes: npt.ArrayLike,
    nodes: npt.ArrayLike,
    per_node: npt.ArrayLike,
    sms: npt.ArrayLike,
    rate: npt.ArrayLike,
    nic_rate: npt.ArrayLike,
    constants: LowLatencyConstants,
    nvlink: bool = True,
) -> FloatArray:
    """Return the time of low-latency dispatch or combine, elementwise (s).

    Args:
        tokens: tokens of each device.
        top_k: experts per token.
        experts: experts in all.
        row_bytes: bytes of a message.
        nodes: nodes.
        per_node: devices of a node.
        sms: SMs of a device.
        rate: NVLink's datasheet rate of a device, one direction (bytes/s).
        nic_rate: usable rate of a device's NIC (bytes/s).
        constants: of the kernel.
        nvlink: copies inside a node go over NVLink.

    Raises:
        InputError: a rate that is not above zero or a negative number.
    """
    count, k, row, total, n, g, units, link, nic = _arrays(
        tokens, top_k, row_bytes, experts, nodes, per_node, sms, rate, nic_rate, positive=6
    )
    devices = n * g
    copies = count * k
    inside = copies * row * (g - 1) / devices if nvlink else np.zeros_like(copies)
    leaving = copies * row * (devices - 1) / devices
    latency = constants.start_s + constants.doubling_s * np.log2(n) + constants.expert_s * total / devices
    leg = np.maximum(inside / link * constants.nvlink, (leaving - inside) / nic)
    blocks = np.ceil(total / np.ceil(total / units))
    leg = leg + count / blocks * constants.token_s
    busy = _norm((latency, leg), 1.0 + constants.overlap)
    return np.where(copies * row > 0, busy, 0.0)


def normal_seconds(
    tokens: npt.ArrayLike,
    node_pairs: npt.ArrayLike,
    device_pairs: npt.ArrayLike,
    row_bytes: npt.ArrayLike,
    nodes: npt.ArrayLike,
    per_node: npt.ArrayLike,
    sms: npt.ArrayLike,
    rate: npt.ArrayLike,
    nic_rate: npt.ArrayLike,
    constants: NormalConstants,
) -> FloatArray:
    """Return the time of normal dispatch or combine, elementwise (s); see ``low_latency_seconds``.

    Args:
        tokens: tokens of each device.
        node_pairs: nodes per token, its own included (``moesim.hardware.distinct``).
        device_pairs: devices per token, its own included.
        row_bytes: bytes of a token on the way.
        nodes: nodes.
        per_node: devices of a node.
        sms: SMs that the kernel is given.
        rate: NVLink's datasheet rate of a device, one direction (bytes/s).
        nic_rate: usable rate of a device's NIC (bytes/s).
        constants: of the kernel.

    Raises:
        InputError: a rate or number of SMs that is not above zero, or a negative number.
    """
    count, over, to, row, n, g, link, nic, units = _arrays(
        tokens, node_pairs, device_pairs, row_bytes, nodes, per_node, rate, nic_rate, sms, positive=5
    )
    several = n > 1
    size = count * row
    relayed = np.where(several, over, 0.0) * constants.relay
    copying = size / constants.token_rate + size * (to + relayed) / constants.pair_rate
    copying = (copying + count * to * constants.pair_s) / units
    wire = size * to * (g - 1) / g / link * constants.nvlink
    crossing = np.where(several, size * over * (n - 1) / n / nic, 0.0)
    leg = _norm((copying, wire, crossing), 1.0 + constants.contention)
    latency = constants.start_s + constants.doubling_s * np.log2(n) + constants.row_s * row / 1024
    fill = leg + constants.ramp_s
    drain = constants.drain_s * np.divide(leg, fill, out=np.zeros_like(leg), where=fill > 0)
    return np.where(size > 0, latency + leg + np.where(several, drain, 0.0), 0.0)


def rack_seconds(
    tokens: npt.ArrayLike,
    device_pairs: npt.ArrayLike,
    row_bytes: npt.ArrayLike,
    devices: npt.ArrayLike,
    rate: npt.ArrayLike,
    constants: RackConstants,
) -> FloatArray:
    """Return the time of a rack's dispatch or combine, elementwise (s); arguments as in the others.

    Raises:
        InputError: a rate that is not above zero or a negative number.
    """
    count, to, row, n, link = _arrays(tokens, device_pairs, row_bytes, devices, rate, positive=2)
    size = count * row
    slower = 1.0 + (n / constants.spread) ** 2
    wire = size * to * (n - 1) / n / link * constants.nvlink * slower
    local = size / constants.token_rate
    latency = constants.start_s + constants.doubling_s * np.log2(n)
    return np.where(size > 0, latency + wire + local, 0.0)


def _arrays(*values: npt.ArrayLike, positive: int) -> tuple[FloatArray, ...]:
    """Broadcast and check: all are finite and not negative, the last ``positive`` of them above zero."""
    arrays = np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in values))
    for place, array in enumerate(arrays):
        if not (np.isfinite(array).all() and (array >= 0).all()):
            message = "an exchange of tokens needs finite numbers that are not negative"
            raise InputError(message)
        if place >= len(arrays) - positive and not (array > 0).all():
            message = "an exchange of tokens needs devices, SMs and links of a rate above zero"
            raise InputError(message)
    return tuple(np.asarray(array) for array in arrays)


def _norm(parts: tuple[FloatArray, ...], power: float) -> FloatArray:
    """Return (sum of part**power)**(1/power), scaled so that nothing overflows."""
    largest = np.maximum.reduce(parts)
    scale = np.where(largest > 0, largest, 1.0)
    total = sum(((part / scale) ** power for part in parts), np.zeros_like(largest))
    return np.asarray(largest * np.asarray(total) ** (1.0 / power))
