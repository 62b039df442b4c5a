"""The graph of a cluster: who is wired to whom, how fast, and which way traffic goes.

Nodes of the graph carry ``kind`` (device, switch, nic, host, storage) and ``node`` (which machine; -1
for switches between machines). Edges exist per direction and carry ``bandwidth`` (usable B/s),
``peak_bandwidth`` (datasheet B/s), ``latency`` (s), ``link`` (kind of wire) and ``cost``.

``cost`` only chooses routes: the path of least total cost is the one that real systems take (devices
forward for others only where nothing else connects two, as in a cube mesh without a host). It is a number
per role, not a time, chosen so that

* devices of one node meet at their own fabric (2 x 4, or one direct link of 8) rather than at the
  host (4 x 10) or through the network (at least 60);
* traffic between nodes leaves through the NIC next to its device and, when it changes rail, climbs
  to the spine (2 x 1), which is cheaper than first crossing the node's fabric to another NIC;
* the fabric of a scale-up network (2 x 4 and 2 x 20) wins over NICs, host memory over nothing.

Latency of a path is the datasheet or assumed end-to-end figure split over its edges.
"""

from __future__ import annotations

import networkx as nx

from moesim.hardware.shape import (
    CUBE_MESH_LANES,
    CUBE_MESH_LANES_PER_DEVICE,
    ClusterShape,
    Host,
    Inter,
    Intra,
    Wire,
)

_FABRIC, _DIRECT, _HOST, _NIC, _PORT, _SPINE, _UPPER = 4.0, 8.0, 10.0, 12.0, 8.0, 1.0, 20.0

SPINE_LATENCY_SHARE = 0.1
"""Extra time through two leaves and a spine instead of one leaf, as a share of the wire's latency (two more
switch hops of about 0.25 us beside 5 us end to end; assumed)."""


def build_graph(shape: ClusterShape) -> nx.DiGraph[str]:
    """Wire up a cluster.

    Names: ``node0/gpu3``, ``node0/nvswitch`` (``node0/<kind>-switch`` for other fabrics),
    ``node0/pcie3`` (where device 3 meets its host link and NIC), ``node0/pciswitch0`` (where several devices
    share the way to the host), ``node0/cpu``, ``node0/host`` (DRAM),
    ``node0/nvme``, ``node0/nic3``, ``rail3``, ``spine``. A node with several hosts numbers them
    (``node0/host1``) and shares memory and storage evenly among them.
    """
    graph: nx.DiGraph[str] = nx.DiGraph()
    for index, devices in enumerate(shape.nodes):
        prefix = f"node{index}"
        names = [f"{prefix}/gpu{slot}" for slot in range(len(devices))]
        graph.add_nodes_from(names, kind="device", node=index)
        ports = names
        if shape.host is not None:
            ports = _wire_host(graph, shape, shape.host, index, names)
        if shape.intra is not None and len(names) > 1:
            meeting = ports if shape.intra.wire.kind == "pcie" else names
            _wire_fabric(graph, shape.intra, index, meeting)
        if shape.inter is not None and shape.inter.topology != "scale_up" and len(shape.nodes) > 1:
            _wire_nics(graph, shape.inter, index, names if shape.inter.on_device else ports)
    if shape.inter is not None and len(shape.nodes) > 1:
        _wire_network(graph, shape.inter, shape)
    return graph


def switch_name(prefix: str, kind: str) -> str:
    """Return the name of the fabric switch of a node."""
    return f"{prefix}/nvswitch" if kind == "nvlink" else f"{prefix}/{kind}-switch"


def _edge(
    graph: nx.DiGraph[str],
    source: str,
    target: str,
    wire: Wire,
    cost: float,
    latency: float,
    width: float = 1.0,
    store: bool = False,
) -> None:
    """Add one direction; ``width`` counts wires side by side, ``store`` says that it leads off the device."""
    peak = wire.store_peak if store and wire.store_peak is not None else wire.peak
    graph.add_edge(
        source,
        target,
        bandwidth=(wire.store_usable if store else wire.usable) * width,
        peak_bandwidth=peak * width,
        latency=latency,
        link=wire.kind,
        cost=cost,
    )


def _both(
    graph: nx.DiGraph[str], a: str, b: str, wire: Wire, cost: float, latency: float, width: float = 1.0
) -> None:
    """Add both directions; from ``a`` to ``b`` is the way of loading."""
    _edge(graph, a, b, wire, cost, latency, width)
    _edge(graph, b, a, wire, cost, latency, width, store=True)


def _wire_host(
    graph: nx.DiGraph[str], shape: ClusterShape, host: Host, index: int, names: list[str]
) -> list[str]:
    """Add host memory and storage of one node; return the port next to each device."""
    prefix = f"node{index}"
    hosts = -(-len(names) // host.devices_per_host)
    for number in range(hosts):
        suffix = "" if hosts == 1 else str(number)
        cpu, memory = f"{prefix}/cpu{suffix}", f"{prefix}/host{suffix}"
        graph.add_node(cpu, kind="switch", node=index)
        graph.add_node(memory, kind="host", node=index, capacity=host.capacity // hosts)
        _both(graph, memory, cpu, host.memory, _HOST, host.memory.latency, 1.0 / hosts)
        if shape.storage is not None:
            drive = f"{prefix}/nvme{suffix}"
            graph.add_node(drive, kind="storage", node=index, capacity=shape.storage.capacity // hosts)
            _both(graph, drive, cpu, shape.storage.wire, _HOST, shape.storage.wire.latency, 1.0 / hosts)
    ports = []
    for slot, name in enumerate(names):
        port = f"{prefix}/pcie{slot}"
        graph.add_node(port, kind="switch", node=index)
        suffix = "" if hosts == 1 else str(slot // host.devices_per_host)
        _both(graph, port, name, host.link, _HOST, host.link.latency / 2)
        _wire_port(graph, host, index, port, slot, f"{prefix}/cpu{suffix}")
        ports.append(port)
    return ports


def _wire_port(graph: nx.DiGraph[str], host: Host, index: int, port: str, slot: int, cpu: str) -> None:
    """Wire a device's port to its root port, or to the switch whose one link leads there."""
    if host.devices_per_switch == 1:
        _both(graph, cpu, port, host.link, _HOST, host.link.latency / 2)
        return
    switch = f"node{index}/pciswitch{slot // host.devices_per_switch}"
    if switch not in graph:
        graph.add_node(switch, kind="switch", node=index)
        _both(graph, cpu, switch, host.link, _HOST / 2, host.link.latency / 4)
    _both(graph, switch, port, host.link, _HOST / 2, host.link.latency / 4)


def _wire_fabric(graph: nx.DiGraph[str], intra: Intra, index: int, ends: list[str]) -> None:
    """Add the fabric among the devices of one node."""
    prefix, wire = f"node{index}", intra.wire
    if intra.topology == "full_mesh":
        width = 1.0 / (len(ends) - 1)
        for left, a in enumerate(ends):
            for b in ends[left + 1 :]:
                _both(graph, a, b, wire, _DIRECT, wire.latency, width)
    elif intra.topology == "cube_mesh":
        for left, right, lanes in CUBE_MESH_LANES:
            width = lanes / CUBE_MESH_LANES_PER_DEVICE
            _both(graph, ends[left], ends[right], wire, _DIRECT - 0.5 * lanes, wire.latency, width)
    elif intra.topology == "shared":
        up, down = f"{prefix}/bus-in", f"{prefix}/bus-out"
        graph.add_nodes_from((up, down), kind="switch", node=index)
        for end in ends:
            _edge(graph, end, up, wire, _FABRIC, wire.latency / 2)
            _edge(graph, down, end, wire, _FABRIC, wire.latency / 2)
        total = intra.total if intra.total is not None else wire.usable
        _edge(graph, up, down, Wire(wire.kind, total, 1.0, 0.0), _SPINE, 0.0)
    else:
        switch = switch_name(prefix, wire.kind)
        graph.add_node(switch, kind="switch", node=index)
        for end in ends:
            _both(graph, end, switch, wire, _FABRIC, wire.latency / 2)


def _wire_nics(graph: nx.DiGraph[str], inter: Inter, index: int, ports: list[str]) -> None:
    """Add the NICs of one node and wire each device's port to its nearest one.

    With more NICs than devices, those next to one device act as one of their summed rate.
    """
    count = min(inter.nics_per_node, len(ports))
    width = inter.nics_per_node / count
    for number in range(count):
        graph.add_node(f"node{index}/nic{number}", kind="nic", node=index)
    for slot, port in enumerate(ports):
        number = slot * count // len(ports)
        near = Wire(inter.wire.kind if inter.on_device else "pcie", inter.wire.peak, 1.0, 0.0)
        _both(graph, port, f"node{index}/nic{number}", near, _NIC, 0.0, width)


def _wire_network(graph: nx.DiGraph[str], inter: Inter, shape: ClusterShape) -> None:
    """Add the network between nodes."""
    wire = inter.wire
    half = wire.latency / 2
    if inter.topology == "scale_up":
        graph.add_node("fabric", kind="switch", node=-1)
        kind = shape.intra.wire.kind if shape.intra is not None else wire.kind
        for index, devices in enumerate(shape.nodes):
            ports = len(devices) / inter.oversubscription
            near = f"node{index}/gpu0" if len(devices) == 1 else switch_name(f"node{index}", kind)
            _both(graph, near, "fabric", wire, _UPPER, half, ports)
        return
    rails: dict[str, float] = {}
    for index, devices in enumerate(shape.nodes):
        count = min(inter.nics_per_node, len(devices))
        for number in range(count):
            leaf = f"rail{number}" if inter.topology == "rail" else "fabric"
            width = inter.nics_per_node / count
            if leaf not in rails:
                graph.add_node(leaf, kind="switch", node=-1)
            rails[leaf] = rails.get(leaf, 0.0) + width
            _both(graph, f"node{index}/nic{number}", leaf, wire, _PORT, half, width)
    if inter.topology == "rail" and len(rails) > 1:
        graph.add_node("spine", kind="switch", node=-1)
        for leaf, width in rails.items():
            ports = width / inter.oversubscription
            _both(graph, leaf, "spine", wire, _SPINE, SPINE_LATENCY_SHARE * wire.latency / 2, ports)
