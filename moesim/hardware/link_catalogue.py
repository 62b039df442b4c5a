"""The catalogue of host and storage links: what copies really reach, and how far that can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any

from moesim.errors import unknown_name
from moesim.hardware.catalogue import read_data
from moesim.hardware.fields import Fields
from moesim.hardware.shape import Wire

ROLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "host link": ("pcie", "c2c", "unified"),
        "memory": ("dram",),
        "storage": ("nvme", "sata", "ufs", "emmc", "sd", "usb"),
        "staging": ("staging",),
    }
)
"""What each kind of link is for."""

_KEYS = (
    "name",
    "kind",
    "aliases",
    "lanes",
    "nominal",
    "nominal_store",
    "load",
    "store",
    "both",
    "latency",
    "start",
    "capacity",
    "confidence",
    "unverified",
    "sources",
    "seen",
    "notes",
)
_NARROWER = (8, 4)


@dataclass(frozen=True)
class LinkSpec:
    """One catalogued link. Loading goes towards the device, storing away from it.

    Attributes:
        name: catalogue name.
        kind: ``pcie``, ``c2c``, ``dram`` (one channel, or one package), ``nvme`` ...
        nominal: datasheet bandwidth of loading (B/s).
        nominal_store: datasheet bandwidth of storing (B/s).
        load: what loading reaches (B/s).
        store: what storing reaches (B/s).
        both: what loading and storing at once reach together (B/s); None if each keeps its own rate.
        latency_s: time from the last byte sent to its arrival (s).
        start_s: cost of setting one copy up (s).
        capacity: bytes of one drive; None for what is no drive.
        confidence: ``primary``, ``secondary``, ``mixed`` or ``assumed``.
        unverified: keys whose value was not read off a source.
        sources: keys of the list of sources.
        seen: month in which the sources were read.
        notes: what a reader should know, possibly empty.
        aliases: other names under which it is found.
    """

    name: str
    kind: str
    nominal: float
    nominal_store: float
    load: float
    store: float
    both: float | None
    latency_s: float
    start_s: float
    capacity: int | None
    confidence: str
    unverified: tuple[str, ...]
    sources: tuple[str, ...]
    seen: str
    notes: str
    aliases: tuple[str, ...] = ()

    @property
    def role(self) -> str:
        """What it is for: ``host link``, ``memory``, ``storage`` or ``staging``."""
        return next(role for role, kinds in ROLES.items() if self.kind in kinds)

    def wire(self, width: float = 1.0) -> Wire:
        """Return so many of these links side by side, as clusters are wired with them."""
        one = Wire(
            kind=self.kind,
            peak=self.nominal,
            efficiency=self.load / self.nominal,
            latency=self.latency_s,
            store_peak=self.nominal_store,
            store_rate=self.store,
            both=self.both,
            start=self.start_s,
        )
        return one.times(width)


@cache
def _specs() -> Mapping[str, LinkSpec]:
    """Return every link by name, those with fewer lanes after the full one."""
    data = read_data("links")
    specs: dict[str, LinkSpec] = {}
    for name, entry in data["links"].items():
        raw = {"name": name, **data["defaults"], **entry}
        full = _spec(raw)
        specs[name] = full
        for lanes in _NARROWER if "lanes" in raw else ():
            specs[f"{name}-x{lanes}"] = _narrowed(full, f"{name}-x{lanes}", lanes / raw["lanes"])
    return MappingProxyType(specs)


def _spec(raw: Mapping[str, Any]) -> LinkSpec:
    """Read one entry of the package's own file."""
    fields = Fields(raw, f"links.{raw['name']}", _KEYS)
    nominal = fields.quantity("nominal", "B/s")
    load = fields.quantity("load", "B/s")
    lanes = raw.get("lanes")
    names = tuple(raw.get("aliases", ()))
    return LinkSpec(
        name=str(raw["name"]),
        kind=fields.text("kind", ""),
        nominal=nominal,
        nominal_store=fields.quantity("nominal_store", "B/s", nominal),
        load=load,
        store=fields.quantity("store", "B/s", load),
        both=fields.quantity("both", "B/s") if "both" in fields else None,
        latency_s=fields.quantity("latency", "s"),
        start_s=fields.quantity("start", "s"),
        capacity=int(fields.quantity("capacity", "B")) if "capacity" in fields else None,
        confidence=fields.text("confidence", ""),
        unverified=tuple(raw["unverified"]),
        sources=tuple(raw["sources"]),
        seen=str(raw["seen"]),
        notes=str(raw.get("notes", "")),
        aliases=names if lanes is None else (*names, f"{raw['name']}-x{lanes}"),
    )


def _narrowed(full: LinkSpec, name: str, share: float) -> LinkSpec:
    """Return the link with a share of its lanes; latency and the cost of a copy stay."""
    return replace(
        full,
        name=name,
        nominal=full.nominal * share,
        nominal_store=full.nominal_store * share,
        load=full.load * share,
        store=full.store * share,
        both=None if full.both is None else full.both * share,
        confidence="assumed",
        unverified=("load", "store", "both", "latency", "start"),
        notes=f"{share:g} of {full.name}",
        aliases=(),
    )


@cache
def _table() -> Mapping[str, LinkSpec]:
    """Return every link by lower-case name or alias."""
    return MappingProxyType(
        {word.lower(): spec for spec in _specs().values() for word in (spec.name, *spec.aliases)}
    )


def link_names() -> list[str]:
    """Return the names of the catalogued links, by file order."""
    return list(_specs())


def load_link(name: str) -> LinkSpec:
    """Return a link by name or alias, whatever the case.

    Raises:
        InputError: no such link; names the nearest one.
    """
    found = _table().get(name.lower())
    if found is None:
        raise unknown_name("link", name[:60], list(_table()))
    return found
