"""The plan of a cluster: how many of what, and how it is wired, before any graph is built."""

from __future__ import annotations

from dataclasses import dataclass

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

    Attributes:
        kind: what the link is called in results (``nvlink``, ``pcie``, ``ib`` ...).
        peak: datasheet bandwidth per direction (B/s).
        efficiency: share of it that transfers reach (0..1].
        latency: time from one end of the path to the other without load (s).
    """

    kind: str
    peak: float
    efficiency: float
    latency: float

    @property
    def usable(self) -> float:
        """Bandwidth that transfers reach, B/s per direction."""
        return self.peak * self.efficiency


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
class Host:
    """Host memory of a node and the link of each device to it.

    Attributes:
        capacity: DRAM of the whole node (bytes).
        memory: the DRAM of the whole node as a link.
        link: one device's link to its host (PCIe or chip to chip).
        devices_per_host: devices that share one host's memory and root ports.
    """

    capacity: int
    memory: Wire
    link: Wire
    devices_per_host: int


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
