"""Cluster presets: nodes as they are sold or rented, scalable by their number."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from moesim.errors import InputError, unknown_name
from moesim.hardware.catalogue import read_data
from moesim.hardware.cluster import Cluster
from moesim.hardware.inline import cluster_from_mapping

_FILES = ("clusters_nvidia", "clusters_other", "clusters_edge")


@cache
def preset_mappings() -> Mapping[str, Mapping[str, Any]]:
    """Return the presets as written, each a description for ``cluster_from_mapping``."""
    presets: dict[str, Mapping[str, Any]] = {}
    for file in _FILES:
        presets.update(read_data(file))
    return MappingProxyType(presets)


def cluster_names() -> list[str]:
    """Return the names of the presets, by file order."""
    return list(preset_mappings())


def load_cluster(name: str, nodes: int | None = None) -> Cluster:
    """Return a preset, whatever the case of its name.

    Args:
        name: preset name.
        nodes: number of nodes instead of the preset's own.

    Raises:
        InputError: no such preset (names the nearest), or a number of nodes it cannot have.
    """
    presets = preset_mappings()
    canonical = {key.lower(): key for key in presets}.get(name.lower())
    if canonical is None:
        raise unknown_name("cluster", name[:60], presets)
    mapping: dict[str, Any] = {"name": canonical, **presets[canonical]}
    if nodes is not None:
        if nodes > 1 and "inter" not in mapping:
            message = f"cluster '{canonical}' is a single node"
            raise InputError(message, hint="describe it inline with an 'inter' section to join several")
        mapping["nodes"] = nodes
    return cluster_from_mapping(mapping)
