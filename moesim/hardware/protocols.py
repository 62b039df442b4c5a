"""How long a collective library takes on one node, by size: launch, steps, and three wire protocols.

A library such as NCCL owns several protocols and changes between them as messages grow. Small messages
go with a flag beside every word: few steps, but only a part of the link's rate. Medium ones carry a flag
per 128-byte line. Bulk ones use the full rate after a longer handshake. The time is that of the
cheapest::

    t = min over protocols p of  start + steps * step + extra_p + size * wire * (1 + waste_p) / rate

``wire`` is the bytes that a device's link carries per byte of the buffer, told apart by what a step does
with a block: the first and the last step of a ring only send or only receive (``ends``), those between
receive and send on (``through``). A ring of n devices makes n - 1 steps over blocks of 1/n to gather or to
scatter, so ``wire = 2/n ends + (n - 2)/n through``; a reduction that scatters and then gathers has one more
end: ``3/n ends + 2 (n - 2)/n through``. In an all-to-all a device keeps 1/n (``ends``: a copy inside the
device) and sends (n - 1)/n.

Devices that hang on shared host bridges crowd each other: beyond an island with paths of its own the
time per byte grows by ``crowding`` with every doubling of the group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.hardware.network_constants import Constants

FloatArray = npt.NDArray[np.float64]
Operation = Literal["all_to_all", "all_gather", "reduce_scatter", "all_reduce"]

OPERATIONS: Final[tuple[Operation, ...]] = ("all_to_all", "all_gather", "reduce_scatter", "all_reduce")


@dataclass(frozen=True)
class CollectiveConstants(Constants):
    """What one collective costs on one kind of node.

    Attributes:
        start_s: launch and first step (s).
        step_s: every further step (s); of an all-to-all, every doubling of the group.
        medium_s: what the medium protocol's latency adds (s).
        bulk_s: what the bulk protocol's latency adds to that (s).
        ends: link time of a block that is only sent or only received, in units of size / rate.
        through: link time of a block that is passed on, or of an all-to-all's sent part; same unit.
        small_waste: extra link time of the small protocol, as a share.
        medium_waste: extra link time of the medium protocol, as a share.
        crowding: factor on link time per doubling of the group beyond an island.
    """

    start_s: float
    step_s: float
    medium_s: float
    bulk_s: float
    ends: float
    through: float
    small_waste: float
    medium_waste: float
    crowding: float = 1.0


def collective_seconds(
    operation: Operation,
    devices: npt.ArrayLike,
    size: npt.ArrayLike,
    rate: npt.ArrayLike,
    constants: CollectiveConstants,
    island: npt.ArrayLike = np.inf,
) -> FloatArray:
    """Return the time of a collective among the devices of one node, elementwise (s).

    Args:
        operation: which.
        devices: devices that take part.
        size: bytes of the whole buffer of a device as nccl-tests counts them: of an all-gather what it
            holds afterwards, of a reduce-scatter what it holds before.
        rate: datasheet rate of a device's link, one direction (bytes/s).
        constants: of this operation.
        island: devices up to which links are not shared.

    Raises:
        InputError: a rate that is not above zero, a negative or non-finite size, or no device.
    """
    count, amount, speed, alone = np.broadcast_arrays(
        *(np.asarray(value, dtype=np.float64) for value in (devices, size, rate, island))
    )
    if not (speed > 0).all():
        message = "a collective needs links of a rate above zero"
        raise InputError(message)
    if not (np.isfinite(amount).all() and (amount >= 0).all() and (count >= 1).all()):
        message = "a collective needs at least one device and a finite size that is not negative"
        raise InputError(message)
    steps, ends, through = shares(operation, count)
    crowd = constants.crowding ** np.log2(np.maximum(count / alone, 1.0))
    link = amount / speed * (ends * constants.ends + through * constants.through) * crowd
    best = cheapest_protocol(constants.start_s + steps * constants.step_s, link, constants)
    return np.where((amount > 0) & (count > 1), best, 0.0)


def cheapest_protocol(
    base: FloatArray, link: FloatArray, constants: CollectiveConstants, floor: npt.ArrayLike = 0.0
) -> FloatArray:
    """Return the time of the protocol that is done first, elementwise (s).

    Args:
        base: launch and steps (s).
        link: time of a device's link at its full rate (s).
        constants: of the operation.
        floor: time in which shared links drain, whatever the protocol (s).
    """
    medium = base + constants.medium_s
    small_time = base + np.maximum(link * (1 + constants.small_waste), floor)
    medium_time = medium + np.maximum(link * (1 + constants.medium_waste), floor)
    bulk_time = medium + constants.bulk_s + np.maximum(link, floor)
    return np.minimum(np.minimum(small_time, medium_time), bulk_time)


def shares(operation: Operation, devices: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return steps after the first, and blocks at ends and passed on as shares of the buffer.

    Raises:
        InputError: an operation that is not known.
    """
    n = devices
    inner = np.maximum(n - 2, 0.0) / n
    if operation == "all_to_all":
        return np.log2(n), 1.0 / n, (n - 1) / n
    if operation in {"all_gather", "reduce_scatter"}:
        return n - 1, 2.0 / n, inner
    if operation == "all_reduce":
        return 2 * (n - 1), 3.0 / n, 2 * inner
    message = f"there is no collective '{operation}'"
    raise InputError(message, hint=f"known: {', '.join(OPERATIONS)}")
