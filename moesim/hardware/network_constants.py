"""Constants of the size-dependent network models, and the file that holds them.

``data/collectives.yaml`` gives for every measured kind of device its link and the constants of each model,
with source and date. Times are in seconds, rates in bytes/s, everything else without a unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError, unknown_name
from moesim.hardware.catalogue import read_data

_FILE: Final = "collectives"


@dataclass(frozen=True)
class Constants:
    """Positive physical constants; the name tells the unit: ``_s`` seconds, ``_rate`` bytes/s, else none."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names in order."""
        return tuple(one.name for one in fields(cls))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping.

        Raises:
            InputError: an unknown or missing name, or a value that is not finite or below zero.
        """
        for name in values:
            if name not in cls.names():
                raise unknown_name("network constant", str(name), cls.names())
        for name, value in values.items():
            if not (isinstance(value, int | float) and np.isfinite(value) and value >= 0):
                message = f"network constant '{name}' must be a finite number that is not negative"
                raise InputError(message)
        return cls(**{name: float(value) for name, value in values.items()})

    @classmethod
    def from_vector(cls, vector: npt.ArrayLike) -> Self:
        """Build from logarithms in the order of ``names``."""
        values = np.exp(np.asarray(vector, dtype=np.float64))
        return cls(*(float(value) for value in values))

    def values(self) -> dict[str, float]:
        """Return name -> value."""
        return {name: float(getattr(self, name)) for name in self.names()}

    def faster(self, factor: float) -> Self:
        """Return the constants of hardware that does everything ``factor`` times as fast."""
        changed = {}
        for name, value in self.values().items():
            power = -1 if name.endswith("_s") else 1 if name.endswith("_rate") else 0
            changed[name] = value * factor**power
        return type(self)(**changed)


@dataclass(frozen=True)
class NodeLinks:
    """The links of a measured system.

    Attributes:
        kind: ``nvlink`` or ``pcie``.
        rate: datasheet rate of a device's link inside the node, one direction (bytes/s).
        domain: devices of a node that these links join.
        island: devices up to which links are not shared (of PCIe: those of one bridge).
    """

    kind: str
    rate: float
    domain: int
    island: float


@cache
def node_links(device: str) -> NodeLinks:
    """Return the links of a measured device.

    Raises:
        InputError: none are known of it.
    """
    known = read_data(_FILE)["links"]
    if device not in known:
        raise unknown_name("device with measured collectives", device, known)
    entry = known[device]
    island = float(entry.get("island", np.inf))
    return NodeLinks(str(entry["kind"]), float(entry["rate"]), int(entry["domain"]), island)


def has_links(device: str) -> bool:
    """Tell whether the links of a device are known."""
    return device in read_data(_FILE)["links"]


def links_fit(device: str, kind: str) -> bool:
    """Tell whether links are of the kind that a device was measured with; those of unknown devices are."""
    return not has_links(device) or node_links(device).kind == kind


@cache
def usable_nic_rate() -> float:
    """Return what a 400 Gb/s NIC carries (bytes/s)."""
    return float(read_data(_FILE)["nic"]["rate"])


@cache
def model_constants(model: str, device: str) -> Mapping[str, float]:
    """Return the stored constants of a model on a device.

    Args:
        model: section of the file, for example ``all_gather`` or ``low_latency_dispatch``.
        device: catalogue name.

    Raises:
        InputError: no such model, or it was not measured on that device.
    """
    models = read_data(_FILE)["constants"]
    if model not in models:
        raise unknown_name("network model", model, models)
    if device not in models[model]:
        raise unknown_name(f"device with measured '{model}'", device, models[model])
    # YAML 1.1 takes 1e-05 for a word.
    return {name: float(value) for name, value in models[model][device].items()}


@cache
def has_model(model: str, device: str) -> bool:
    """Tell whether constants of a model are stored for a device."""
    return device in read_data(_FILE)["constants"].get(model, {})
