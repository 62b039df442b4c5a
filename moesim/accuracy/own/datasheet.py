"""Devices behind own timings: catalogued ones, or those of a datasheet file that the user wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moesim import yamlio
from moesim.errors import InputError, unknown_name
from moesim.hardware.catalogue import device_from_mapping, device_names, load_device
from moesim.hardware.dense_constants import cache_bytes
from moesim.hardware.fields import Fields
from moesim.hardware.network_constants import NodeLinks, node_links
from moesim.hardware.spec import Device


@dataclass(frozen=True)
class Timed:
    """A device that somebody timed.

    Attributes:
        device: its datasheet.
        cache: bytes of its L2, 0 if not known.
        links: its links inside a node, None if not known.
    """

    device: Device
    cache: float
    links: NodeLinks | None

    @property
    def name(self) -> str:
        """Return the device's name."""
        return self.device.name

    def require_links(self) -> NodeLinks:
        """Return the links.

        Raises:
            InputError: they are not known.
        """
        if self.links is None:
            message = f"the links of '{self.name}' are not known, which collectives need"
            hint = "give --device DATASHEET.yaml with links: {kind: nvlink, rate: 450 GB/s, domain: 8}"
            raise InputError(message, hint=hint)
        return self.links


def catalogued(name: str) -> Timed:
    """Return a catalogued device.

    Raises:
        InputError: no such device; names the nearest one and what to do about a new one.
    """
    try:
        device = load_device(name)
    except InputError as error:
        near = unknown_name("device", name[:60], device_names())
        hint = f"{near.hint}; `moesim calibrate` takes new devices with --device DATASHEET.yaml"
        raise InputError(error.message, hint=hint) from error
    try:
        links = node_links(device.name)
    except InputError:
        links = None
    return Timed(device, cache_bytes(device.name), links)


def read_datasheet(path: str | Path) -> Timed:
    """Read a device from a file: the keys of an inline device, and ``cache`` and ``links`` if known.

    Raises:
        InputError: the file cannot be read, or a key or value is not right.
    """
    document = yamlio.load(path)
    data = document.data
    if not isinstance(data, Mapping):
        message = "must be a mapping that describes a device"
        raise InputError(message, str(path), hint="for example name, peak_flops, memory, compute_units")
    try:
        extras = Fields({key: data[key] for key in ("cache", "links") if key in data}, "", ("cache", "links"))
        device = device_from_mapping({key: data[key] for key in data if key not in ("cache", "links")})
        cache = extras.quantity("cache", "B") if "cache" in extras else 0.0
        links = _links(extras) if "links" in extras else None
        if "name" not in data:
            message = "needs 'name', by which rows of timings call the device"
            raise InputError(message)
    except InputError as error:
        raise error.at(str(path)) from error
    return Timed(device, cache, links)


def _links(extras: Fields) -> NodeLinks:
    fields = Fields(extras.raw("links"), "links", ("kind", "rate", "domain", "island"))
    island = fields.count("island", 1) if "island" in fields else np.inf
    return NodeLinks(
        kind=fields.text("kind", "nvlink"),
        rate=fields.quantity("rate", "B/s"),
        domain=fields.count("domain", 8),
        island=float(island),
    )


def timed_devices(names: Iterable[str], given: str | None) -> dict[str, Timed]:
    """Return the devices of a file's rows by the name in the rows.

    Args:
        names: names in the rows.
        given: catalogue name or datasheet file that the user chose; only its rows count then.

    Raises:
        InputError: a name is not known, or no row is of the chosen device.
    """
    found = list(dict.fromkeys(names))
    if given is None:
        return {name: catalogued(name) for name in found}
    chosen = read_datasheet(given) if Path(given).suffix in (".yaml", ".yml") else catalogued(given)
    words = [name for name in found if name.lower() == chosen.name.lower() or _same(name, chosen.name)]
    if not words:
        message = f"no row is of device '{chosen.name}'"
        raise InputError(message, hint=f"the rows name {', '.join(found[:6])}")
    return dict.fromkeys(words, chosen)


def _same(word: str, name: str) -> bool:
    """Tell whether a word is an alias of a catalogued device."""
    try:
        return load_device(word).name == name
    except InputError:
        return False
