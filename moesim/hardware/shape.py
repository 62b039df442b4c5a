"""The plan of a cluster: how many of what, and how it is wired, before any graph is built."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moesim.hardware.spec import Device

INTRA_TOPOLOGIES = ("switch", "full_mesh", "cube_mesh", "shared")
"""How devices of a node reach each other: through a switch, by a link to every other one, by the
eight-device cube mesh of V100 boards, or over one bus that all share."""

INTER_TOPOLOGIES = ("rail", "flat", "scale_up")
"""How nodes reach each other: NICs to one leaf per rail and a spine, NICs to one switch, or the
switches of the nodes to a second level of the same fabric."""

CUBE_MESH_LANES = (
    (0, 1, 1), (0, 2, 1), (0, 3, 2), (0, 4, 2), (1, 2, 2), (1, 3, 1), (1, 5, 2), (2, 3, 2),
    (2, 6, 1), (3, 7, 1), (4, 5, 1), (4, 6, 1), (4, 7, 2), (5, 6, 2), (5, 7, 1), (6, 7, 2),
)  # fmt: skip
"""Pairs and lanes of the hybrid cube mesh: six lanes per device (DGX-1 with V100 and AWS p3)."""
CUBE_MESH_LANES_PER_DEVICE = 6


@dataclass(frozen=True)
class Wire:
    """One kind of link.

    Links of hosts and drives have a direction: *loading* goes towards the device (host to device, read),
    *storing* away from it. Where nothing else is said both have the same rate and do not disturb each other.

    Attributes:
        kind: what the link is called in results (``nvlink``, ``pcie``, ``ib`` ...).
        peak: datasheet bandwidth per direction (B/s).
        efficiency: share of it that transfers reach (0..1].
        latency: time from one end of the path to the other without load (s).
        store_peak: datasheet bandwidth of storing, if it is not ``peak`` (B/s).
        store_rate: what storing reaches, if it is not ``usable`` (B/s).
        both: what loading and storing reach together at most, if less than the sum of the two (B/s).
        start: cost of setting one copy up (s).
    """

    kind: str
    peak: float
    efficiency: float
    latency: float
    store_peak: float | None = None
    store_rate: float | None = None
    both: float | None = None
    start: float = 0.0

    @property
    def usable(self) -> float:
        """Bandwidth that transfers reach, B/s per direction; of a link with a direction, that of loading."""
        return self.peak * self.efficiency

    @property
    def store_usable(self) -> float:
        """Bandwidth that transfers away from the device reach (B/s)."""
        return self.usable if self.store_rate is None else self.store_rate

    def times(self, width: float) -> Wire:
        """Return so many of these wires side by side as one."""
        return replace(
            self,
            peak=self.peak * width,
            store_peak=_times(self.store_peak, width),
            store_rate=_times(self.store_rate, width),
            both=_times(self.both, width),
        )


def _times(rate: float | None, width: float) -> float | None:
    return None if rate is None else rate * width


@dataclass(frozen=True)
class Intra:
    """Links between the devices of a node; ``wire`` is one device's, ``total`` a shared bus (usable B/s)."""

    wire: Wire
    topology: str
    total: float | None = None


@dataclass(frozen=True)
class Inter:
    """Links between nodes; ``wire`` is one NIC (of ``scale_up``: one device's share of the upper level).

    ``oversubscription`` divides what leaves the leaves towards the spine; 1 never blocks. ``on_device``
    says that NICs sit on the accelerator itself and not behind its host link.
    """

    wire: Wire
    topology: str
    nics_per_node: int
    oversubscription: float = 1.0
    on_device: bool = False


@dataclass(frozen=True)
class Processor:
    """A host's CPU as a device that computes experts.

    Attributes:
        flops: what its expert kernels reach (FLOP/s).
        read: rate at which they read weights (B/s).
        start: fixed time of an expert (s).
        first: what the first expert of a layer takes more, its inputs and its caches being cold (s).
        power_w: power of the processor (W), if known.
    """

    flops: float
    read: float
    start: float = 0.0
    first: float = 0.0
    power_w: float | None = None

    def seconds(self, tokens: float, flops_per_token: float, weights: float) -> float:
        """Return the time of one expert (s): the larger of reading its weights (bytes) and computing."""
        return self.start + max(weights / self.read, tokens * flops_per_token / self.flops)


@dataclass(frozen=True)
class Host:
    """Host memory of a node and the link of each device to it.

    Attributes:
        capacity: DRAM of the whole node (bytes).
        memory: the DRAM of the whole node as a link.
        link: one device's link to its host (PCIe or chip to chip).
        devices_per_host: devices that share one host's memory and root ports.
        processor: the host's CPU, shared by its devices.
        devices_per_switch: devices that share one link to the host through a PCIe switch.
        unified: host memory is the device's own memory, counted once and reached without copies.
    """

    capacity: int
    memory: Wire
    link: Wire
    devices_per_host: int
    processor: Processor
    devices_per_switch: int = 1
    unified: bool = False


@dataclass(frozen=True)
class Storage:
    """Local storage of a node: capacity in bytes and its link, all drives together."""

    capacity: int
    wire: Wire


@dataclass(frozen=True)
class ClusterShape:
    """Everything needed to build a cluster.

    Attributes:
        name: name of the preset or description.
        nodes: the device of every slot, per node.
        intra: links inside a node; None when devices meet at the host only.
        inter: links between nodes; None for one node.
        host: host memory and links; None when not described.
        storage: local storage; None when not described.
        collective_latency_s: fixed time of one collective beside its hops (s).
    """

    name: str
    nodes: tuple[tuple[Device, ...], ...]
    intra: Intra | None
    inter: Inter | None
    host: Host | None
    storage: Storage | None
    collective_latency_s: float
