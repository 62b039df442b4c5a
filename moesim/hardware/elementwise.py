"""What kernels cost that only pass over rows: norms, rotary embedding, activation, routing, permuting.

A pass costs ``starts * kernel_s + bytes / (memory * bandwidth)``: the latency of its kernels inside a graph
or a full stream, and its bytes at a share of the datasheet's bandwidth. Launches from the host are extra.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError, unknown_name
from moesim.hardware.catalogue import read_data
from moesim.hardware.spec import Device

Array = npt.NDArray[np.float64]

GENERIC: Final = "generic"
"""Entry for devices that were not measured."""


@dataclass(frozen=True)
class StreamConstants:
    """Constants of one device.

    Attributes:
        kernel_s: an ordinary kernel with next to nothing to do (s).
        memory: share of the memory's bandwidth at which rows stream.
    """

    kernel_s: float
    memory: float


@dataclass(frozen=True)
class StreamOperation:
    """A pass over rows.

    Attributes:
        starts: latency in times of ``StreamConstants.kernel_s``.
        passes: elements read and written per element of a row.
    """

    starts: float
    passes: float


@cache
def _data() -> Mapping[str, Any]:
    return MappingProxyType(read_data("elementwise"))


def stream_entries() -> Mapping[str, Mapping[str, float]]:
    """Return constants by device."""
    entries: Mapping[str, Mapping[str, float]] = _data()["constants"]
    return entries


def stream_constants(*devices: str) -> StreamConstants:
    """Return the constants of the first of some devices (catalogue names) that has any, or generic ones."""
    entries = stream_entries()
    entry = next((entries[name] for name in devices if name in entries), entries[GENERIC])
    return StreamConstants(float(entry["kernel_s"]), float(entry["memory"]))


def stream_operation(name: str) -> StreamOperation:
    """Return an operation: ``norm``, ``add``, ``rope``, ``activation``, ``embedding``, ``align``, ``choice``.

    Raises:
        InputError: no such operation.
    """
    known = _data()["operations"]
    if name not in known:
        raise unknown_name("pass over rows", name[:60], known)
    return StreamOperation(**{key: float(value) for key, value in known[name].items()})


def stream_seconds(
    device: Device, nbytes: npt.ArrayLike, starts: npt.ArrayLike, constants: StreamConstants
) -> Array:
    """Price passes over rows, elementwise.

    Args:
        device: where they run.
        nbytes: bytes read and written.
        starts: latency in times of ``constants.kernel_s``; counts only where there are bytes to pass.
        constants: of the device.

    Raises:
        InputError: bytes or starts that are negative or not finite.
    """
    size, count = np.broadcast_arrays(np.asarray(nbytes, np.float64), np.asarray(starts, np.float64))
    for what, values in (("bytes", size), ("starts", count)):
        if not (np.isfinite(values).all() and (values >= 0).all()):
            message = f"{what} of a pass over rows must be finite and not negative"
            raise InputError(message)
    streaming = size / (constants.memory * device.memory.bandwidth)
    return np.where(size > 0, count * constants.kernel_s + streaming, 0.0)


def operation_seconds(
    device: Device,
    operation: str,
    elements: npt.ArrayLike,
    constants: StreamConstants,
    *,
    element_bytes: float = 2.0,
    times: float = 1.0,
) -> Array:
    """Price an operation on rows; no elements cost nothing.

    Args:
        device: where it runs.
        operation: see ``stream_operation``.
        elements: of all rows together, [...].
        constants: of the device.
        element_bytes: bytes per element.
        times: how often it runs, each time with its own start, on the elements together.
    """
    kind = stream_operation(operation)
    work = np.asarray(elements, dtype=np.float64)
    latency = np.where(work > 0, times * kind.starts * constants.kernel_s, 0.0)
    return np.asarray(latency + stream_seconds(device, work * kind.passes * element_bytes, 0.0, constants))
