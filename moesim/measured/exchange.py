"""Measured exchanges: how far an even exchange, as it was timed, is from what a model says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from moesim.measured.between import Reading
from moesim.measured.network_grids import Direction
from moesim.measured.source import MeasuredTables

_KERNELS: Final[Mapping[str, str]] = MappingProxyType(
    {"deepep_normal": "normal", "deepep_low_latency": "low_latency", "rack": "rack"}
)
"""Exchange of a kernel style -> name of its kernels in the tables."""


@dataclass(frozen=True)
class EvenExchange:
    """An exchange in which every device has the same tokens and every expert the same copies.

    Attributes:
        exchange: library, as kernel styles name it.
        tokens: tokens of a device.
        hidden: width of a token.
        top_k: experts per token.
        experts: experts of the layer.
        devices: devices of the group.
        nodes: nodes that it spans.
        sms: compute units that the kernels take.
        narrow: whether rows are dispatched in fp8 instead of bf16.
        size: bytes that a device has to send in a dispatch, own ones included.
        back: the same of a combine.
    """

    exchange: str
    tokens: float
    hidden: int
    top_k: int
    experts: int
    devices: int
    nodes: int
    sms: int
    narrow: bool
    size: float
    back: float

    def read(self, tables: MeasuredTables, direction: Direction) -> Reading:
        """Return the measured time of one way."""
        if self.exchange == "nccl":
            size = self.size if direction == "dispatch" else self.back
            if self.nodes > 1:
                return Reading(np.zeros(()), np.zeros((), dtype=np.bool_))
            return tables.collective("all_to_all", self.devices, size)
        kernel = _KERNELS.get(self.exchange)
        if kernel is None:
            return Reading(np.zeros(()), np.zeros((), dtype=np.bool_))
        return tables.expert_exchange(
            direction,
            kernel,
            self.tokens,
            hidden=self.hidden,
            dtype="fp8" if self.narrow and direction == "dispatch" else "bf16",
            top_k=self.top_k,
            experts=self.experts,
            devices=self.devices,
            nodes=self.nodes,
            sms=self.sms or None,
        )

    def __str__(self) -> str:
        """Say what is exchanged, for notes."""
        spread = f"{self.devices} devices" + (f" in {self.nodes} nodes" if self.nodes > 1 else "")
        return f"exchange of {self.tokens:g} tokens per device by {self.exchange} over {spread}"
