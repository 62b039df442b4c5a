"""A cluster: devices, the nodes they stand in, and the graph that wires them."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.hardware.shape import ClusterShape
from moesim.hardware.spec import Device

if TYPE_CHECKING:
    import networkx as nx

    from moesim.hardware.network import Network


class Cluster:
    """Devices in nodes, wired by links.

    The graph and the routes over it are built when first asked for. A cluster pickles as its shape.

    Args:
        shape: how many of what, and how it is wired.
        size: use only the first devices, all when None.

    Raises:
        InputError: ``size`` is not between 1 and the number of devices.
    """

    def __init__(self, shape: ClusterShape, size: int | None = None) -> None:
        slots = [(node, slot) for node, row in enumerate(shape.nodes) for slot in range(len(row))]
        used = len(slots) if size is None else size
        _check_size(shape.name, used, len(slots))
        slots = slots[:used]
        self.shape = shape
        self.name = shape.name
        self.devices: tuple[Device, ...] = tuple(shape.nodes[node][slot] for node, slot in slots)
        self.device_nodes: tuple[str, ...] = tuple(f"node{node}/gpu{slot}" for node, slot in slots)
        self.node_of: npt.NDArray[np.int64] = np.array([node for node, _ in slots], dtype=np.int64)
        self.collective_latency_s = shape.collective_latency_s

    def __reduce__(self) -> tuple[type[Cluster], tuple[ClusterShape, int]]:
        return Cluster, (self.shape, self.size)

    def __repr__(self) -> str:
        return f"Cluster({self.name!r}, devices={self.size}, nodes={self.node_count})"

    @property
    def size(self) -> int:
        """Number of devices."""
        return len(self.devices)

    @property
    def node_count(self) -> int:
        """Number of nodes that hold a device in use."""
        return int(self.node_of[-1]) + 1

    @property
    def homogeneous(self) -> bool:
        """Whether all devices are of one type."""
        first = self.devices[0]
        return all(device is first or device == first for device in self.devices)

    @property
    def device(self) -> Device:
        """The type of all devices.

        Raises:
            InputError: the cluster mixes types.
        """
        if not self.homogeneous:
            names = ", ".join(dict.fromkeys(device.name for device in self.devices))
            message = f"cluster '{self.name}' mixes device types ({names}); ask for each device's own"
            raise InputError(message)
        return self.devices[0]

    @cached_property
    def memory_capacity(self) -> npt.NDArray[np.int64]:
        """Bytes of each device's own memory [devices]."""
        return np.array([device.memory.capacity for device in self.devices], dtype=np.int64)

    @cached_property
    def graph(self) -> nx.DiGraph[str]:
        """Devices, switches, NICs, hosts and storage with their links; see ``moesim.hardware.fabric``.

        Holds whole nodes, also the devices of the last node that are not in use.
        """
        from moesim.hardware.fabric import build_graph

        return build_graph(self.shape)

    @cached_property
    def network(self) -> Network:
        """Routes and link loads between the devices."""
        from moesim.hardware.network import Network

        return Network.from_graph(self.graph, self.device_nodes)

    def subset(self, size: int) -> Cluster:
        """Return the first devices as a cluster of their own, with only the nodes they need.

        Raises:
            InputError: ``size`` is not between 1 and the number of devices.
        """
        _check_size(self.name, size, self.size)
        if size == self.size:
            return self
        rows = self.shape.nodes[: int(self.node_of[size - 1]) + 1]
        return Cluster(replace(self.shape, nodes=rows), size)


def _check_size(name: str, wanted: int, present: int) -> None:
    """Refuse to take more devices than there are, or none."""
    if not 1 <= wanted <= present:
        message = f"cluster '{name}' has {present} devices; {wanted} cannot be taken from it"
        raise InputError(message, hint="more nodes: {name: NAME, nodes: N}")
