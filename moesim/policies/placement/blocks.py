"""Placements that look at no load: contiguous blocks and round-robin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from moesim.policies.base import ClusterView, Parameters
from moesim.policies.plan import Placement

IntArray = npt.NDArray[np.int64]


class NoParameters(Parameters):
    """A policy without parameters."""


def same_for_all_layers(layer: IntArray, layers: int, experts: int) -> Placement:
    """Repeat the slots of one layer, int64 [devices, slots], for every layer."""
    return Placement(np.repeat(layer[np.newaxis], layers, axis=0), experts)


@dataclass(frozen=True)
class Contiguous:
    """Device 0 holds the first experts, device 1 the next ones, and so on.

    If the devices do not divide the experts, the first devices hold one more.
    """

    parameters: NoParameters = field(default_factory=NoParameters)
    name: ClassVar[str] = "contiguous"
    summary: ClassVar[str] = "blocks of neighbouring experts, the default of most frameworks"
    needs: ClassVar[str] = "nothing"
    looks_back: ClassVar[bool] = False
    source: ClassVar[str] = "GShard (arXiv 2006.16668); Megatron-LM, vLLM 'linear'"
    parameters_type: ClassVar[type[Parameters]] = NoParameters

    def place(self, statistics: npt.NDArray[np.int64], view: ClusterView) -> Placement:
        """Place blocks of experts, whatever the statistics say."""
        blocks = np.array_split(np.arange(view.experts, dtype=np.int64), view.devices)
        layer = np.full((view.devices, max(len(block) for block in blocks)), -1, dtype=np.int64)
        for device, block in enumerate(blocks):
            layer[device, : len(block)] = block
        return same_for_all_layers(layer, statistics.shape[0], view.experts)


@dataclass(frozen=True)
class RoundRobin:
    """Expert e stands on device e modulo the number of devices."""

    parameters: NoParameters = field(default_factory=NoParameters)
    name: ClassVar[str] = "round_robin"
    summary: ClassVar[str] = "experts dealt to the devices in turn, so that neighbours part"
    needs: ClassVar[str] = "nothing"
    looks_back: ClassVar[bool] = False
    source: ClassVar[str] = "vLLM expert placement strategy 'round_robin'"
    parameters_type: ClassVar[type[Parameters]] = NoParameters

    def place(self, statistics: npt.NDArray[np.int64], view: ClusterView) -> Placement:
        """Deal the experts in turn, whatever the statistics say."""
        slots = -(-view.experts // view.devices)
        layer = np.full(slots * view.devices, -1, dtype=np.int64)
        layer[: view.experts] = np.arange(view.experts)
        by_device = np.ascontiguousarray(layer.reshape(slots, view.devices).T)
        return same_for_all_layers(by_device, statistics.shape[0], view.experts)
