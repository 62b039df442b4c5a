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

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.hardware.exchange_kernels import (
    LowLatencyConstants,
    NormalConstants,
    RackConstants,
    low_latency_time,
    normal_copying,
    normal_time,
    rack_time,
)

FloatArray = npt.NDArray[np.float64]

__all__ = [
    "LowLatencyConstants",
    "NormalConstants",
    "RackConstants",
    "low_latency_seconds",
    "normal_seconds",
    "rack_seconds",
]


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
    wire, crossing = inside / link, (leaving - inside) / nic
    busy = low_latency_time(count, total, devices, n, units, wire, crossing, constants)
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
    relayed = np.where(several, over, 0.0)
    copying = normal_copying(size, count * to, count * relayed, row, units, constants)
    wire = size * to * (g - 1) / g / link
    crossing = np.where(several, size * over * (n - 1) / n / nic, 0.0)
    return np.where(size > 0, normal_time(copying, wire, crossing, row, n, constants), 0.0)


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
    wire = size * to * (n - 1) / n / link
    busy = rack_time(size, wire, np.zeros_like(wire), n, constants)
    return np.where(size > 0, busy, 0.0)


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
