"""Collectives of tensor-parallel groups: measured inside a node, rings between nodes.

A group is the first devices of a cluster, which is where schedulers put it. Inside one node of a measured
device the time is that of ``moesim.hardware.protocols``, by size, protocol and number of devices; the link's
rate is the cluster's own. Otherwise it is the cheapest ring or direct pattern
(``moesim.hardware.collectives``), and no less than what the devices of one node take among themselves.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError, unknown_name
from moesim.hardware.calibrations import Calibrations
from moesim.hardware.cluster import Cluster
from moesim.hardware.collectives import all_gather, all_reduce, checked_sizes, reduce_scatter
from moesim.hardware.network_constants import has_links, links_fit, node_links
from moesim.hardware.protocols import CollectiveConstants, Operation, collective_seconds

FloatArray = npt.NDArray[np.float64]

_PATTERNS: Final = {
    "all_gather": all_gather,
    "reduce_scatter": reduce_scatter,
    "all_reduce": all_reduce,
}


def group_collective_seconds(
    cluster: Cluster,
    operation: Operation,
    size: npt.ArrayLike,
    group_size: int,
    calibrations: Calibrations | None = None,
) -> FloatArray:
    """Return how long a collective among the first devices of a cluster takes, elementwise (s).

    Args:
        cluster: where it runs.
        operation: ``all_reduce``, ``all_gather`` or ``reduce_scatter``.
        size: bytes of a device's whole buffer: of an all-gather what it holds afterwards, of a
            reduce-scatter what it holds before.
        group_size: devices that take part.
        calibrations: where constants are looked up; by default the package's.

    Raises:
        InputError: an unknown operation, more devices than there are, or bytes that are negative or not
            finite.
    """
    if operation not in _PATTERNS:
        raise unknown_name("collective of a group", operation, _PATTERNS)
    if not 1 <= group_size <= cluster.size:
        message = f"a group of {group_size} devices does not fit into a cluster of {cluster.size}"
        raise InputError(message)
    amounts = np.asarray(size, dtype=np.float64)
    flat = checked_sizes(amounts.ravel())
    if group_size == 1:
        return np.zeros(amounts.shape)
    inside = min(group_size, int((cluster.node_of == cluster.node_of[0]).sum()))
    seconds = np.zeros_like(flat)
    known = calibrations or Calibrations()
    if inside > 1 and measured_inside(cluster, operation, inside, known):
        seconds = _measured(cluster, operation, flat, inside, known)
    if not seconds.any() or group_size > inside:
        rings = _PATTERNS[operation](cluster, flat, range(group_size)).seconds
        seconds = np.maximum(seconds, rings)
    return np.asarray(seconds).reshape(amounts.shape)


def measured_inside(
    cluster: Cluster, operation: Operation, group_size: int, calibrations: Calibrations
) -> bool:
    """Tell whether a group stays within one node whose devices and links were measured."""
    if cluster.node_of[group_size - 1] != cluster.node_of[0] or cluster.shape.intra is None:
        return False
    kind = cluster.shape.intra.wire.kind
    names = {device.name for device in cluster.devices[:group_size]}
    return all(calibrations.network(operation, name) and links_fit(name, kind) for name in names)


def _measured(
    cluster: Cluster, operation: Operation, size: FloatArray, group_size: int, calibrations: Calibrations
) -> FloatArray:
    intra = cluster.shape.intra
    assert intra is not None
    seconds = []
    for name in dict.fromkeys(device.name for device in cluster.devices[:group_size]):
        constants = CollectiveConstants.of(calibrations.network(operation, name) or {})
        island = node_links(name).island if has_links(name) else np.inf
        seconds.append(collective_seconds(operation, group_size, size, intra.wire.peak, constants, island))
    return np.asarray(np.maximum.reduce(seconds))
