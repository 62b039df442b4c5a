"""The copy engines of a machine: which there are, what they share, and which a copy passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.errors import InputError
from moesim.hardware.cluster import Cluster
from moesim.hardware.copies import DEFAULT_CHUNK, Stage
from moesim.hardware.copy_engines import CopyEngines, Engine
from moesim.hardware.link_catalogue import load_link
from moesim.hardware.max_min import FloatArray
from moesim.hardware.shape import Host, Wire

Place = int | str
"""A device by its number in the node, or ``"host"`` or ``"storage"`` (the ones next to the other end)."""

STAGING = load_link("pageable")
"""The processor's copy between pageable memory and the driver's pinned buffer."""


class CopyPaths:
    """Links and copy engines of one node of a cluster.

    Each device has one engine per direction, the drives of a host one for reading and one for writing.
    Shared are: the memory of a host (reading and writing together, every copy crosses it), the link of a
    PCIe switch, the drives of a host, and, where the link says so, what its two directions reach
    together. Data from a drive pass host memory. Pageable copies pass the processor too, which reads and
    writes memory once more.

    Args:
        cluster: the cluster.
        node: which of its nodes.

    Attributes:
        engines: the engines.
        names: name of each link [links].
        bandwidth: usable rate of each link [links] (B/s).

    Raises:
        InputError: the cluster describes no host, or has no such node.
    """

    def __init__(self, cluster: Cluster, node: int = 0) -> None:
        shape = cluster.shape
        if not 0 <= node < len(shape.nodes):
            message = f"cluster '{cluster.name}' has {len(shape.nodes)} nodes; there is no node {node}"
            raise InputError(message, hint="they count from 0")
        if shape.host is None:
            message = f"cluster '{cluster.name}' describes no 'host'"
            raise InputError(message, hint="for example host: {memory: 128 GB, dram: ddr4-3200, link: pcie4}")
        self._cluster, self._host, self._storage = cluster.name, shape.host, shape.storage
        self._devices = len(shape.nodes[node])
        self._names: list[str] = []
        self._rates: list[float] = []
        self._engines: list[Engine] = []
        self._routes: dict[tuple[str, int], int] = {}
        hosts = -(-self._devices // shape.host.devices_per_host)
        for number in range(hosts):
            self._add_host(shape.host, f"host{number}" if hosts > 1 else "host", number, 1.0 / hosts)
        self.engines: tuple[Engine, ...] = tuple(self._engines)
        self.names: tuple[str, ...] = tuple(self._names)
        self.bandwidth: FloatArray = np.array(self._rates)

    def route(self, source: Place, target: Place, pinned: bool = True) -> tuple[int, ...]:
        """Return the engines that a copy passes, in order; none where memory is unified.

        Args:
            source: where the bytes are.
            target: where they go.
            pinned: whether host memory at an end of the copy is page-locked.

        Raises:
            InputError: no such place, or no storage in this cluster.
        """
        for place in (source, target):
            self._check(place)
        device = next((place for place in (source, target) if isinstance(place, int)), 0)
        host = device // self._host.devices_per_host
        steps: list[tuple[str, int]] = []
        if source == "storage" and source != target:
            steps.append(("read", host))
        if isinstance(source, int) and source != target:
            steps.append(("store", source))
        staged = not pinned and "host" in (source, target) and not self._host.unified
        if staged and isinstance(source, int):
            steps.append(("unstage", source))
        if isinstance(target, int) and source != target:
            steps += [("stage", target)] if staged else []
            steps.append(("load", target))
        if target == "storage" and source != target:
            steps.append(("write", host))
        return tuple(self._routes[step] for step in steps if step in self._routes)

    def stages(self, source: Place, target: Place, pinned: bool = True) -> tuple[Stage, ...]:
        """Return what the engines of a route reach when nothing else runs, for ``copy_seconds``.

        Raises:
            InputError: as ``route``.
        """
        return tuple(
            self.engines[number].stage(self.bandwidth) for number in self.route(source, target, pinned)
        )

    def start(self, chunk: float = DEFAULT_CHUNK, now: float = 0.0) -> CopyEngines:
        """Return the engines, idle.

        Raises:
            InputError: a chunk that is not above zero.
        """
        return CopyEngines(self.engines, self.bandwidth, chunk, now)

    def _check(self, place: Place) -> None:
        """Refuse places that are not there."""
        if isinstance(place, int) and not isinstance(place, bool):
            if not 0 <= place < self._devices:
                message = f"cluster '{self._cluster}' has {self._devices} devices per node; no device {place}"
                raise InputError(message, hint="they count from 0")
        elif place not in ("host", "storage"):
            message = f"a copy has no end {place!r}"
            raise InputError(message, hint="a device's number, 'host' or 'storage'")
        elif place == "storage" and self._storage is None:
            message = f"cluster '{self._cluster}' describes no 'storage'"
            raise InputError(message, hint="for example storage: nvme-gen4")

    def _link(self, name: str, rate: float) -> int:
        self._names.append(name)
        self._rates.append(rate)
        return len(self._names) - 1

    def _pair(self, name: str, wire: Wire) -> tuple[list[int], list[int]]:
        """Add the two directions of a wire; return the links that loading and storing cross."""
        load = [self._link(f"{name} load", wire.usable)]
        store = [self._link(f"{name} store", wire.store_usable)]
        if wire.both is not None:
            both = self._link(f"{name} both", wire.both)
            load.append(both)
            store.append(both)
        return load, store

    def _engine(self, step: str, number: int, links: Sequence[int], memory: float, wire: Wire) -> None:
        """Add an engine that crosses links once and the host's memory (link ``self._dram``) so many times."""
        amounts = {self._dram: memory} | dict.fromkeys(links, 1.0)
        self._routes[step, number] = len(self._engines)
        name = f"drive{number} {step}" if step in ("read", "write") else f"gpu{number} {step}"
        self._engines.append(Engine(name, amounts, wire.start, wire.latency))

    def _add_host(self, host: Host, name: str, number: int, share: float) -> None:
        """Add the memory, the drives and the devices of one host."""
        memory = host.memory.times(share)
        self._dram = self._link(f"{name} memory", memory.usable if memory.both is None else memory.both)
        if self._storage is not None:
            wire = self._storage.wire.times(share)
            read, write = self._pair(f"{name} storage", wire)
            self._engine("read", number, read, 1.0, wire)
            self._engine("write", number, write, 1.0, wire)
        if host.unified:
            return
        first = number * host.devices_per_host
        shared: dict[int, tuple[list[int], list[int]]] = {}
        for device in range(first, min(first + host.devices_per_host, self._devices)):
            load, store = self._pair(f"gpu{device} {host.link.kind}", host.link)
            if host.devices_per_switch > 1:
                switch = device // host.devices_per_switch
                if switch not in shared:
                    shared[switch] = self._pair(f"switch{switch} {host.link.kind}", host.link)
                load, store = load + shared[switch][0], store + shared[switch][1]
            self._engine("load", device, load, 1.0, host.link)
            self._engine("store", device, store, 1.0, host.link)
            staging = STAGING.wire()
            cpu = self._link(f"gpu{device} staging", staging.usable)
            self._engine("stage", device, [cpu], 2.0, staging)
            self._engine("unstage", device, [cpu], 2.0, staging)
