"""The device catalogue: accelerators by name, and devices that a user describes inline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

import yaml

from moesim.errors import InputError, unknown_name
from moesim.hardware.fields import Fields
from moesim.hardware.spec import DTYPE_BYTES, Device, MemoryTier

_FILES = ("devices_nvidia", "devices_workstation", "devices_other", "devices_huawei")

_KEYS = (
    "name",
    "base",
    "vendor",
    "peak_flops",
    "memory",
    "compute_units",
    "gemm_efficiency",
    "memory_efficiency",
    "launch",
    "host_sync",
    "power_w",
    "kin",
    "aliases",
    "confidence",
    "sources",
    "unverified",
    "notes",
)

DEFAULT_COMPUTE_UNITS = 128
"""Units of an inline device that does not say (between A100's 108 and B200's 148)."""


@dataclass(frozen=True)
class CatalogueEntry:
    """One catalogued device and how far its numbers can be trusted.

    Attributes:
        device: the device.
        aliases: other names under which it is found.
        confidence: ``primary`` (vendor's file or documentation seen), ``secondary``, or ``mixed``.
        unverified: keys whose value was carried over from general knowledge or from a sibling part.
        notes: what a reader should know, possibly empty.
    """

    device: Device
    aliases: tuple[str, ...]
    confidence: str
    unverified: tuple[str, ...]
    notes: str


def read_data(name: str) -> Any:
    """Return one of the package's own YAML files as plain data."""
    text = resources.files("moesim.hardware").joinpath(f"data/{name}.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@cache
def source_texts() -> Mapping[str, str]:
    """Return what each source key stands for."""
    return MappingProxyType(read_data("sources"))


@cache
def _raw_entries() -> Mapping[str, Mapping[str, Any]]:
    """Return the catalogue as written, with the defaults of each file filled in."""
    entries: dict[str, Mapping[str, Any]] = {}
    for file in _FILES:
        data = read_data(file)
        for name, entry in data["devices"].items():
            entries[name] = {**data["defaults"], **entry}
    return MappingProxyType(entries)


@cache
def _aliases() -> Mapping[str, str]:
    """Return lower-case name or alias -> canonical name."""
    table = {}
    for name, entry in _raw_entries().items():
        for word in (name, *entry.get("aliases", ())):
            table[word.lower()] = name
    return MappingProxyType(table)


def device_names() -> list[str]:
    """Return the canonical names of the catalogued devices, by file order."""
    return list(_raw_entries())


def _canonical(name: str) -> str:
    """Return the canonical name.

    Raises:
        InputError: no such device; names the nearest one.
    """
    found = _aliases().get(name.lower())
    if found is None:
        raise unknown_name("device", name[:60], _raw_entries())
    return found


def catalogue_entry(name: str) -> CatalogueEntry:
    """Return a catalogued device with its provenance.

    Raises:
        InputError: no such device.
    """
    return _entry(_canonical(name))


@cache
def _entry(canonical: str) -> CatalogueEntry:
    """Build the entry of a canonical name."""
    raw = _raw_entries()[canonical]
    return CatalogueEntry(
        device=device_from_mapping({"name": canonical, **raw}),
        aliases=tuple(raw.get("aliases", ())),
        confidence=str(raw["confidence"]),
        unverified=tuple(raw.get("unverified", ())),
        notes=str(raw.get("notes", "")),
    )


def load_device(name: str) -> Device:
    """Return a device by catalogue name or alias, whatever the case.

    Raises:
        InputError: no such device; names the nearest one.
    """
    return catalogue_entry(name).device


def device_from_mapping(mapping: object, where: str = "") -> Device:
    """Build a device from a description as in the catalogue.

    ``base: NAME`` starts from a catalogued device, so that only what differs needs to be written.

    Args:
        mapping: the description, quantities as people write them.
        where: dotted path of the mapping, for messages.

    Raises:
        InputError: unknown key or format, missing or impossible value; names the key.
    """
    fields = Fields(mapping, where, _KEYS)
    if "base" in fields:
        fields = Fields(_merged(fields), where, _KEYS)
    peaks = Fields(
        fields.require("peak_flops", "{bf16: 989 TFLOP/s}"), fields.path("peak_flops"), DTYPE_BYTES
    )
    if not peaks.mapping:
        message = f"'{peaks.where}' needs at least one number format"
        raise InputError(message, hint="for example {bf16: 989 TFLOP/s}")
    memory = Fields(
        fields.require("memory", "{capacity: 80 GB, bandwidth: 3.35 TB/s}"),
        fields.path("memory"),
        ("name", "capacity", "bandwidth"),
    )
    power = fields.number("power_w", 0.0, 0.0, 1e6)
    return Device(
        name=fields.text("name", "custom"),
        vendor=fields.text("vendor", "custom"),
        peak_flops={key: peaks.quantity(key, "FLOP/s") for key in peaks.mapping},
        memory=MemoryTier(
            name=memory.text("name", "HBM"),
            capacity=int(memory.quantity("capacity", "B")),
            bandwidth=memory.quantity("bandwidth", "B/s"),
        ),
        compute_units=fields.count("compute_units", DEFAULT_COMPUTE_UNITS),
        gemm_efficiency=_stated(fields, "gemm_efficiency"),
        memory_efficiency=_stated(fields, "memory_efficiency"),
        launch_s=fields.quantity("launch", "s", 4e-6),
        host_sync_s=fields.quantity("host_sync", "s", 20e-6),
        power_w=power or None,
        kin=_canonical(fields.text("kin", "")) if "kin" in fields else None,
        sources=_sources(fields),
    )


def _merged(fields: Fields) -> dict[str, Any]:
    """Lay a description over the catalogued device that it names as its base."""
    canonical = _canonical(fields.text("base", ""))
    base = _raw_entries()[canonical]
    merged = {"kin": canonical, **base, **fields.mapping}
    merged.pop("base")
    merged.setdefault("name", f"{fields.mapping['base']} (changed)")
    for key in ("peak_flops", "memory"):
        given = fields.raw(key)
        if isinstance(given, Mapping):
            merged[key] = {**base[key], **given}
    return merged


def _stated(fields: Fields, key: str) -> float | None:
    """Return an efficiency that the description states."""
    return fields.share(key, 1.0) if key in fields else None


def _sources(fields: Fields) -> tuple[str, ...]:
    """Return source texts; keys of the source list are spelled out."""
    given = fields.raw("sources")
    if given is None:
        return ()
    if not isinstance(given, (list, tuple)) or not all(isinstance(item, str) for item in given):
        message = f"'{fields.path('sources')}' must be a list of texts"
        raise InputError(message)
    table = source_texts()
    return tuple(f"{item}: {table[item]}" if item in table else item for item in given)
