"""Links of hosts and drives as users name or describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from moesim.errors import InputError
from moesim.hardware.fields import Fields
from moesim.hardware.link_catalogue import ROLES, LinkSpec, link_names, load_link
from moesim.hardware.shape import Wire

WIRE_KEYS = ("kind", "bandwidth", "efficiency", "latency")
COPY_KEYS = (*WIRE_KEYS, "base", "store_bandwidth", "both", "start")
"""Keys of a link over which weights are copied."""

DEFAULT_START_S = 6e-6
"""Cost of setting one copy up where nothing is said: submitting a cudaMemcpyAsync takes 5 to 7 us
(arXiv 2602.21548, section 5.2)."""


def plain_wire(fields: Fields, kind: str, latency_s: float, efficiency: float = 1.0) -> Wire:
    """Return the link that a section describes, the same both ways."""
    return Wire(
        kind=fields.text("kind", kind),
        peak=fields.quantity("bandwidth", "B/s"),
        efficiency=fields.share("efficiency", efficiency),
        latency=fields.quantity("latency", "s", latency_s),
    )


def named_link(name: object, where: str, role: str) -> LinkSpec:
    """Return a catalogued link that is fit for a role.

    Raises:
        InputError: not a name, no such link, or a link for something else; names the key.
    """
    if not isinstance(name, str):
        message = f"'{where}' must be the name of a link"
        raise InputError(message, hint="see `moesim list links`")
    fit = [word for word in link_names() if load_link(word).role == role]
    try:
        spec = load_link(name)
    except InputError as error:
        message = f"'{where}': {error.message}"
        raise InputError(message, hint=error.hint) from None
    if spec.role != role:
        message = f"'{where}': '{spec.name}' is a link for {spec.role}, not for {role}"
        raise InputError(message, hint=f"known: {', '.join(fit[:12])}")
    return spec


def copy_wire(fields: Fields, role: str, latency_s: float, efficiency: float) -> tuple[Wire, LinkSpec | None]:
    """Return the link that a section describes or takes from the catalogue with ``base: NAME``.

    What is given beside ``base`` replaces the catalogue's value. A rate of its own (``bandwidth``,
    ``efficiency`` or ``store_bandwidth``) replaces both directions and their common limit.

    Args:
        fields: the section, with ``COPY_KEYS`` among its keys.
        role: a key of ``ROLES``.
        latency_s: latency where none is given (s).
        efficiency: share of the datasheet where none is given.

    Raises:
        InputError: unknown link, impossible value, or a kind that is not for this role.
    """
    spec = named_link(fields.raw("base"), fields.path("base"), role) if "base" in fields else None
    wire = spec.wire() if spec is not None else None
    kind = fields.text("kind", wire.kind if wire is not None else ROLES[role][0])
    start = fields.quantity("start", "s", wire.start if wire is not None else DEFAULT_START_S)
    latency = fields.quantity("latency", "s", wire.latency if wire is not None else latency_s)
    own = any(key in fields for key in ("bandwidth", "efficiency", "store_bandwidth"))
    if wire is None or own:
        share = fields.share("efficiency", wire.efficiency if wire is not None else efficiency)
        peak = fields.quantity("bandwidth", "B/s", wire.peak if wire is not None else None)
        kept = wire.store_peak if wire is not None and "bandwidth" not in fields else None
        given = "store_bandwidth" in fields
        store = fields.quantity("store_bandwidth", "B/s") if given else kept
        rate = None if store is None else store * share
        wire = Wire(kind, peak, share, latency, store_peak=store, store_rate=rate)
    both = fields.quantity("both", "B/s") if "both" in fields else wire.both
    return replace(wire, kind=kind, latency=latency, start=start, both=both), spec


def as_section(value: object, where: str, keys: tuple[str, ...]) -> Fields:
    """Read a link given by name or as a mapping: a name stands for ``{base: NAME}``.

    Raises:
        InputError: neither of the two, or an unknown key.
    """
    if isinstance(value, str):
        return Fields({"base": value}, where, keys)
    if not isinstance(value, Mapping):
        message = f"'{where}' must be the name of a link or a mapping of settings"
        raise InputError(message, hint="see `moesim list links`")
    return Fields(value, where, keys)
