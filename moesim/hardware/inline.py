"""Clusters as users describe them: a mapping of devices, counts and links, checked key by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from moesim.errors import InputError
from moesim.hardware.catalogue import device_from_mapping, load_device
from moesim.hardware.cluster import Cluster
from moesim.hardware.fields import Fields
from moesim.hardware.shape import (
    INTER_TOPOLOGIES,
    INTRA_TOPOLOGIES,
    ClusterShape,
    Host,
    Inter,
    Intra,
    Processor,
    Storage,
    Wire,
)
from moesim.hardware.spec import Device
from moesim.hardware.wires import COPY_KEYS, WIRE_KEYS, as_section, copy_wire, named_link, plain_wire

MAX_DEVICES = 65536
"""Most devices of one cluster."""

DEFAULT_DRAM_SHARE = 0.8
"""Share of host memory's datasheet bandwidth that copies reach where nothing is said (assumed)."""

DEFAULT_CPU_FLOPS = 1e12
"""What a host's CPU reaches in expert kernels where nothing is said (assumed: 16 cores with AVX2)."""

CPU_READ_SHARE = 0.57
"""Share of host memory's datasheet bandwidth at which a CPU reads the weights of an expert.

HOBBIT (arXiv 2411.01433, section 5.3) measured 3 ms for a Mixtral expert of 352 MB with PyTorch on a
server with 64 cores, 117 GB/s; eight channels of DDR4-3200, assumed, have 204.8 GB/s. llama.cpp took 5 ms."""

DEFAULT_COLLECTIVE_LATENCY_S = 10e-6
"""Fixed time of a collective where nothing was measured (aiconfigurator's point-to-point latency)."""

_KEYS = (
    "name",
    "device",
    "groups",
    "devices_per_node",
    "nodes",
    "intra",
    "inter",
    "host",
    "storage",
    "collective_latency",
    "summary",
    "confidence",
    "sources",
    "notes",
)


def cluster_from_mapping(mapping: object, where: str = "") -> Cluster:
    """Build a cluster from a description.

    Keys: ``device`` (catalogue name or description), ``devices_per_node`` (8), ``nodes`` (1), or
    instead of ``device`` and ``nodes`` a list ``groups`` of ``{device, nodes, devices_per_node}``;
    ``intra`` {kind, bandwidth per device and direction, efficiency, latency, topology, total};
    ``inter`` {kind, bandwidth per NIC and direction, efficiency, latency, topology, nics_per_node,
    oversubscription, attach (host_link or device)}; ``host`` {memory (``unified`` where it is the
    device's own), bandwidth and efficiency or dram and channels, devices_per_host, devices_per_switch,
    link, cpu {flops, bandwidth, start, first, power_w}}; ``storage`` {capacity, drives, and a link};
    ``collective_latency``. The links of host and storage are names of the link catalogue or {base: NAME,
    kind, bandwidth, efficiency, latency, store_bandwidth, both, start}.

    Args:
        mapping: the description, quantities as people write them.
        where: dotted path of the mapping, for messages.

    Raises:
        InputError: unknown key, impossible value, too many devices, or devices left unconnected.
    """
    return Cluster(shape_from_mapping(mapping, where))


def shape_from_mapping(mapping: object, where: str = "") -> ClusterShape:
    """Check a description and return the plan of the cluster; see ``cluster_from_mapping``.

    Raises:
        InputError: as ``cluster_from_mapping``.
    """
    fields = Fields(mapping, where, _KEYS)
    rows = _rows(fields)
    shape = ClusterShape(
        name=fields.text("name", "custom"),
        nodes=rows,
        intra=_intra(fields, rows) if "intra" in fields else None,
        inter=_inter(fields, rows) if "inter" in fields else None,
        host=_host(fields, rows) if "host" in fields else None,
        storage=_storage(fields) if "storage" in fields else None,
        collective_latency_s=fields.quantity("collective_latency", "s", DEFAULT_COLLECTIVE_LATENCY_S),
    )
    _check_connected(fields, shape)
    return shape


def _rows(fields: Fields) -> tuple[tuple[Device, ...], ...]:
    """Return the devices of every node."""
    if "groups" not in fields:
        return _group(fields)
    for key in ("device", "nodes", "devices_per_node"):
        if key in fields:
            message = f"'{fields.path(key)}' and '{fields.path('groups')}' cannot both be given"
            raise InputError(message, hint=f"move '{key}' into the groups")
    groups = fields.raw("groups")
    if not isinstance(groups, (list, tuple)) or not 1 <= len(groups) <= MAX_DEVICES:
        message = f"'{fields.path('groups')}' must be a list of {{device, nodes, devices_per_node}}"
        raise InputError(message)
    rows: list[tuple[Device, ...]] = []
    for number, group in enumerate(groups):
        path = f"{fields.path('groups')}[{number}]"
        rows.extend(_group(Fields(group, path, ("device", "nodes", "devices_per_node"))))
        _check_count(sum(len(row) for row in rows), fields)
    return tuple(rows)


def _group(fields: Fields) -> tuple[tuple[Device, ...], ...]:
    """Return the nodes of one device type."""
    device = _device(fields.require("device", "H100-SXM"), fields.path("device"))
    per_node = fields.count("devices_per_node", 8, high=MAX_DEVICES)
    nodes = fields.count("nodes", 1, high=MAX_DEVICES)
    _check_count(per_node * nodes, fields)
    return ((device,) * per_node,) * nodes


def _check_count(devices: int, fields: Fields) -> None:
    """Refuse clusters beyond the limit."""
    if devices > MAX_DEVICES:
        message = f"'{fields.path('nodes')}' x 'devices_per_node' gives {devices} devices"
        raise InputError(message, hint=f"at most {MAX_DEVICES}")


def _device(value: Any, where: str) -> Device:
    """Return a device by name or by description."""
    if isinstance(value, str):
        return load_device(value)
    if isinstance(value, Mapping):
        return device_from_mapping(value, where)
    message = f"'{where}' must be a device name or a description"
    raise InputError(message, hint="for example H100-SXM, see `moesim list hardware`")


def _intra(parent: Fields, rows: tuple[tuple[Device, ...], ...]) -> Intra:
    fields = Fields(parent.raw("intra"), parent.path("intra"), (*WIRE_KEYS, "topology", "total"))
    wire = plain_wire(fields, "nvlink", 1e-6)
    topology = fields.choice("topology", "shared" if wire.kind == "pcie" else "switch", INTRA_TOPOLOGIES)
    if topology == "cube_mesh" and any(len(row) != 8 for row in rows):
        message = f"'{fields.path('topology')}' cube_mesh joins exactly 8 devices per node"
        raise InputError(message, hint="set devices_per_node: 8 or use switch or full_mesh")
    if topology == "full_mesh" and max(len(row) for row in rows) > 64:
        message = f"'{fields.path('topology')}' full_mesh joins at most 64 devices per node"
        raise InputError(message, hint="use switch")
    if "total" in fields and topology != "shared":
        message = f"'{fields.path('total')}' belongs to topology shared only"
        raise InputError(message)
    total = fields.quantity("total", "B/s") if "total" in fields else None
    return Intra(wire, topology, total)


def _inter(parent: Fields, rows: tuple[tuple[Device, ...], ...]) -> Inter:
    keys = (*WIRE_KEYS, "topology", "nics_per_node", "oversubscription", "attach")
    fields = Fields(parent.raw("inter"), parent.path("inter"), keys)
    return Inter(
        wire=plain_wire(fields, "ib", 5e-6),
        topology=fields.choice("topology", "rail", INTER_TOPOLOGIES),
        nics_per_node=fields.count("nics_per_node", max(len(row) for row in rows)),
        oversubscription=fields.number("oversubscription", 1.0, 1.0, 1000.0),
        on_device=fields.choice("attach", "host_link", ("host_link", "device")) == "device",
    )


def _host(parent: Fields, rows: tuple[tuple[Device, ...], ...]) -> Host:
    keys = (
        *("memory", "bandwidth", "efficiency", "latency", "dram", "channels"),
        *("devices_per_host", "devices_per_switch", "link", "cpu"),
    )
    fields = Fields(parent.raw("host"), parent.path("host"), keys)
    if fields.raw("memory") == "unified":
        return _unified(fields, rows)
    section = as_section(fields.require("link", "pcie5"), fields.path("link"), COPY_KEYS)
    link, _ = copy_wire(section, "host link", 1e-6, 0.8)
    per_host = fields.count("devices_per_host", max(len(row) for row in rows))
    per_switch = fields.count("devices_per_switch", 1)
    if per_host % per_switch:
        message = f"'{fields.path('devices_per_switch')}' must divide 'devices_per_host' ({per_host})"
        raise InputError(message)
    memory = _dram(fields)
    return Host(
        capacity=int(fields.quantity("memory", "B")),
        memory=memory,
        link=link,
        devices_per_host=per_host,
        devices_per_switch=per_switch,
        processor=_processor(fields, memory),
    )


def _processor(parent: Fields, memory: Wire) -> Processor:
    """Return what a host's CPU reaches; what is not said follows from its memory."""
    given = parent.raw("cpu")
    fields = Fields(
        {} if given is None else given,
        parent.path("cpu"),
        ("flops", "bandwidth", "start", "first", "power_w"),
    )
    return Processor(
        flops=fields.quantity("flops", "FLOP/s", DEFAULT_CPU_FLOPS),
        read=fields.quantity("bandwidth", "B/s", memory.peak * CPU_READ_SHARE),
        start=fields.quantity("start", "s", 0.0),
        first=fields.quantity("first", "s", 0.0),
        power_w=fields.number("power_w", 0.0, 0.0, 1e5) or None,
    )


def _dram(fields: Fields) -> Wire:
    """Return the memory of a host as one link: named channels, or a bandwidth."""
    if "dram" not in fields:
        if "channels" in fields:
            message = f"'{fields.path('channels')}' needs '{fields.path('dram')}'"
            raise InputError(message, hint="for example dram: ddr5-4800")
        return Wire(
            "dram",
            fields.quantity("bandwidth", "B/s"),
            fields.share("efficiency", DEFAULT_DRAM_SHARE),
            fields.quantity("latency", "s", 0.1e-6),
        )
    for key in ("bandwidth", "efficiency", "latency"):
        if key in fields:
            message = f"'{fields.path(key)}' and '{fields.path('dram')}' cannot both be given"
            raise InputError(message)
    spec = named_link(fields.raw("dram"), fields.path("dram"), "memory")
    return spec.wire(fields.count("channels", 1, high=4096))


def _unified(fields: Fields, rows: tuple[tuple[Device, ...], ...]) -> Host:
    """Return the host whose memory is that of its only device."""
    for key in fields.mapping:
        if key not in ("memory", "cpu") and key in fields:
            message = f"'{fields.path(key)}' has no meaning with unified memory"
            raise InputError(message, hint="the device's own memory is the host's")
    if max(len(row) for row in rows) > 1 or any(row[0] != rows[0][0] for row in rows):
        message = f"'{fields.path('memory')}' unified needs nodes of one device of one type"
        raise InputError(message)
    device = rows[0][0]
    share = device.memory_efficiency or DEFAULT_DRAM_SHARE
    wire = Wire("unified", device.memory.bandwidth, share, 0.0)
    memory = replace(wire, kind="dram", both=wire.usable)
    cpu = _processor(fields, memory)
    return Host(device.memory.capacity, memory, wire, devices_per_host=1, unified=True, processor=cpu)


def _storage(parent: Fields) -> Storage:
    keys = ("capacity", "drives", *COPY_KEYS)
    fields = as_section(parent.raw("storage"), parent.path("storage"), keys)
    if "host" not in parent:
        message = f"'{fields.where}' needs '{parent.path('host')}', to which it is attached"
        raise InputError(message)
    wire, spec = copy_wire(fields, "storage", 100e-6, 1.0)
    drives = fields.count("drives", 1, high=4096)
    own = float(spec.capacity * drives) if spec is not None and spec.capacity is not None else None
    return Storage(int(fields.quantity("capacity", "B", own)), wire.times(drives))


def _check_connected(fields: Fields, shape: ClusterShape) -> None:
    """Refuse clusters whose devices cannot reach each other."""
    crowded = max(len(row) for row in shape.nodes)
    several_hosts = shape.host is not None and shape.host.devices_per_host < crowded
    if crowded > 1 and shape.intra is None and (shape.host is None or several_hosts):
        message = f"'{fields.path('intra')}' is missing: the {crowded} devices of a node are not connected"
        raise InputError(message, hint="for example intra: {kind: nvlink, bandwidth: 450 GB/s}")
    if len(shape.nodes) > 1 and shape.inter is None:
        message = f"'{fields.path('inter')}' is missing: the {len(shape.nodes)} nodes are not connected"
        raise InputError(message, hint="for example inter: {kind: ib, bandwidth: 400 Gb/s, nics_per_node: 8}")
    stretched = shape.inter is not None and shape.inter.topology == "scale_up" and crowded > 1
    if stretched and (shape.intra is None or shape.intra.topology != "switch"):
        message = f"'{fields.path('inter.topology')}' scale_up joins the switches of the nodes"
        raise InputError(message, hint="set intra topology: switch")
