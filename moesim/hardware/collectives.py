"""What collectives cost: latency of the library, latency of the path, and bytes over shared links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.hardware.network import Network
from moesim.hardware.rings import Pattern, patterns
from moesim.hardware.traffic import Traffic

FloatArray = npt.NDArray[np.float64]


class Fabric(Protocol):
    """What collectives need to know of a cluster."""

    @property
    def network(self) -> Network:
        """Links and paths between devices."""
        ...

    @property
    def node_of(self) -> npt.NDArray[np.int64]:
        """Node of each device, int64 [devices]."""
        ...

    @property
    def collective_latency_s(self) -> float:
        """Time that starting a collective takes before any byte moves (s)."""
        ...


@dataclass(frozen=True, eq=False)
class CollectiveCost:
    """Price of one collective, batched over layers.

    Attributes:
        seconds: duration alone on the network [layers]; exactly 0 where nothing leaves its device.
        link_bytes: bytes over each link [layers, links].
        latency: the part of the duration in which nothing flows yet [layers].
    """

    seconds: FloatArray
    link_bytes: FloatArray
    latency: FloatArray


def all_to_all(cluster: Fabric, traffic: Traffic) -> CollectiveCost:
    """Price an all-to-all with any amounts per pair, in bytes.

    seconds = collective latency + largest path latency of a pair that sends + time of the most loaded
    link. With one NIC per device, N nodes and equal amounts, a device's bytes (those for its own node
    included) leave at N / (N - 1) times the NIC bandwidth.
    """
    network = cluster.network
    amounts = network.link_amounts(traffic)
    fixed = cluster.collective_latency_s + network.latency_seconds(traffic)
    crossing = network.crossing(traffic)
    busy = np.where(crossing, fixed + network.drain(amounts), 0.0)
    return CollectiveCost(busy, amounts, np.where(crossing, fixed, 0.0))


def all_gather(
    cluster: Fabric, bytes_per_device: npt.ArrayLike, group: Sequence[int] | None = None
) -> CollectiveCost:
    """Price an all-gather.

    Args:
        cluster: where it runs.
        bytes_per_device: bytes that each device holds afterwards, scalar or [layers]; it sends a share of
            (n - 1) / n, as in the bus bandwidth convention of nccl-tests.
        group: the devices that take part, all if None.

    Raises:
        InputError: a group with a device named twice or one that does not exist, or negative bytes.
    """
    return _symmetric(cluster, bytes_per_device, group, rounds=1)


def reduce_scatter(
    cluster: Fabric, bytes_per_device: npt.ArrayLike, group: Sequence[int] | None = None
) -> CollectiveCost:
    """Price a reduce-scatter of ``bytes_per_device`` held by each device before; else as ``all_gather``."""
    return _symmetric(cluster, bytes_per_device, group, rounds=1)


def all_reduce(
    cluster: Fabric, bytes_per_device: npt.ArrayLike, group: Sequence[int] | None = None
) -> CollectiveCost:
    """Price an all-reduce as reduce-scatter and all-gather: 2 (n - 1) / n of the bytes of each device."""
    return _symmetric(cluster, bytes_per_device, group, rounds=2)


def point_to_point(cluster: Fabric, src: int, dst: int, size: npt.ArrayLike) -> CollectiveCost:
    """Price one transfer of ``size`` bytes, scalar or [layers], along the path of two devices.

    Raises:
        InputError: a device that does not exist, or negative bytes.
    """
    network = cluster.network
    _members(network, [src])
    _members(network, [dst])
    amounts = np.zeros((checked_sizes(size).size, network.links))
    path = list(network.path(src, dst))
    amounts[:, path] = checked_sizes(size)[:, np.newaxis]
    crossing = amounts[:, path].any(axis=1)
    latency = np.where(crossing, cluster.collective_latency_s + network.hop_latency[src, dst], 0.0)
    return CollectiveCost(latency + np.where(crossing, network.drain(amounts), 0.0), amounts, latency)


def _symmetric(
    cluster: Fabric, bytes_per_device: npt.ArrayLike, group: Sequence[int] | None, rounds: int
) -> CollectiveCost:
    """Price a collective in which all devices do the same, by its best pattern for each size."""
    network, sizes = cluster.network, checked_sizes(bytes_per_device)
    members = _members(network, range(network.devices) if group is None else group)
    best = np.where(sizes > 0, np.inf, 0.0)
    amounts = np.zeros((sizes.size, network.links))
    for pattern in patterns(network, cluster.node_of, members):
        busy, loads = _priced(cluster, pattern, sizes, rounds)
        better = busy < best
        best = np.where(better, busy, best)
        amounts[better] = loads[better]
    seconds = np.where(np.isfinite(best), best, 0.0)
    return CollectiveCost(seconds, amounts, np.maximum(seconds - network.drain(amounts), 0.0))


def _priced(
    cluster: Fabric, pattern: Pattern, sizes: FloatArray, rounds: int
) -> tuple[FloatArray, FloatArray]:
    """Return (seconds [layers], bytes [layers, links]) of a pattern done ``rounds`` times over."""
    loads = rounds * sizes[:, np.newaxis] * pattern.amounts
    busy = cluster.collective_latency_s + rounds * pattern.latency_s + cluster.network.drain(loads)
    return busy, loads


def checked_sizes(size: npt.ArrayLike) -> FloatArray:
    """Return bytes as [layers].

    Raises:
        InputError: an amount that is negative or not finite.
    """
    sizes = np.atleast_1d(np.asarray(size, dtype=np.float64))
    if not (np.isfinite(sizes).all() and (sizes >= 0).all()):
        message = "a collective needs a finite number of bytes that is not negative"
        raise InputError(message)
    return sizes


def _members(network: Network, group: Sequence[int]) -> tuple[int, ...]:
    """Check the devices of a group."""
    members = tuple(int(device) for device in group)
    if len(set(members)) != len(members):
        message = "a device is named twice in the group of a collective"
        raise InputError(message)
    outside = [device for device in members if not 0 <= device < network.devices]
    if outside:
        message = f"there is no device {outside[0]} in a cluster of {network.devices}"
        raise InputError(message)
    return members
