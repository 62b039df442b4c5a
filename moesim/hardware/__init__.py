"""Where it runs: devices, memory tiers, links, and what each kind of work costs on them."""

from __future__ import annotations

from moesim.hardware.catalogue import device_names, load_device
from moesim.hardware.cluster import Cluster
from moesim.hardware.copies import Stage, copy_schedule, copy_seconds
from moesim.hardware.copy_paths import CopyPaths
from moesim.hardware.inline import cluster_from_mapping
from moesim.hardware.link_catalogue import link_names, load_link
from moesim.hardware.memory import MemoryLedger, Overflow
from moesim.hardware.presets import cluster_names, load_cluster
from moesim.hardware.spec import Device, MemoryTier

__all__ = [
    "Cluster",
    "CopyPaths",
    "Device",
    "MemoryLedger",
    "MemoryTier",
    "Overflow",
    "Stage",
    "cluster_from_mapping",
    "cluster_names",
    "copy_schedule",
    "copy_seconds",
    "device_names",
    "link_names",
    "load_cluster",
    "load_device",
    "load_link",
]
