"""What runs beside what: the order of stages on every device and of collectives on the network.

A step is a list of *stages*, which every device runs one after another in the same order, and a list of
*collectives*, which the network runs one after another. A stage may await a collective, and may be what a
collective waits for. ``none`` alternates the two. ``two_batch`` splits the tokens in two micro-batches that
take turns on the devices, as DeepSeek's prefill and SGLang's two-batch overlap do; while one is on the
network the other computes. With both kinds of overlap the shared experts of a layer fill a gap: with
``shared_experts`` while tokens are on their way to the experts, with ``two_batch`` on their way back.

Because all devices keep to one order, collectives become ready in the order of their list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.hardware.cluster import Cluster
from moesim.hardware.kernels import KernelStyle

Array = npt.NDArray[np.float64]
Kind = Literal["none", "two_batch", "shared_experts"]

BESIDE_COMPUTE: Final = 1.43
"""How many times as long dispatch and combine take beside another micro-batch's computation.

DeepSeek's published profile of training DeepSeek-V3 (64 H800, 4096 tokens per device, 20 of 132 units held by
the exchange): 8 combines of 6.18 ms, 4 dispatches of 4.35 ms and 4 of 3.41 ms, 80.5 ms together. Alone they
take 56.4 ms: 8 times the 2.366 and 4.680 ms of DeepEP's table for 64 devices.
"""


@dataclass(frozen=True)
class Overlap:
    """How communication and computation overlap.

    Attributes:
        kind: which of them.
        slowdown: how many times as long collectives take that run beside computation; None takes
            ``BESIDE_COMPUTE`` with ``two_batch``, and 1 with ``shared_experts``, where most of a collective
            runs by itself.
    """

    kind: Kind = "none"
    slowdown: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.slowdown is not None and not 1.0 <= self.slowdown < math.inf:
            message = f"collectives cannot take {self.slowdown} times as long beside computation"
            raise InputError(message, hint="slowdown is 1 or more")

    @property
    def slower(self) -> float:
        """How many times as long collectives take."""
        if self.kind == "none":
            return 1.0
        if self.slowdown is not None:
            return self.slowdown
        return BESIDE_COMPUTE if self.kind == "two_batch" else 1.0

    @property
    def batches(self) -> int:
        """Number of micro-batches."""
        return 2 if self.kind == "two_batch" else 1

    @property
    def shared_apart(self) -> bool:
        """Whether shared experts are a stage of their own."""
        return self.kind != "none"


@dataclass(frozen=True)
class Stage:
    """Work of a micro-batch between collectives.

    Attributes:
        batch: micro-batch.
        layer: MoE layer; the number of MoE layers for what follows the last of them.
        part: ``before`` the dispatch of the layer, its ``experts``, or the ``shared`` experts.
        awaits: number of the collective that must have ended, if any.
        feeds: number of the collective that waits for it, if any.
    """

    batch: int
    layer: int
    part: Literal["before", "shared", "experts"]
    awaits: int | None = None
    feeds: int | None = None


@dataclass(frozen=True)
class Collective:
    """An exchange of a micro-batch.

    Attributes:
        batch: micro-batch.
        layer: MoE layer.
        way: 0 is dispatch, 1 combine.
    """

    batch: int
    layer: int
    way: int


@dataclass(frozen=True)
class Schedule:
    """Stages and collectives of a step, each in order."""

    stages: tuple[Stage, ...]
    collectives: tuple[Collective, ...]


def schedule(overlap: Overlap, layers: int) -> Schedule:
    """Return the order in which a step of so many MoE layers runs."""
    batches = range(overlap.batches)
    stages: list[Stage] = []
    collectives: list[Collective] = []
    number: dict[Collective, int] = {}

    def fed(batch: int, layer: int, way: int) -> int:
        collective = Collective(batch, layer, way)
        number[collective] = len(collectives)
        collectives.append(collective)
        return number[collective]

    for layer in range(layers + 1):
        for batch in batches:
            if layer and overlap.kind == "two_batch":
                stages.append(Stage(batch, layer - 1, "shared"))
            awaits = number[Collective(batch, layer - 1, 1)] if layer else None
            feeds = fed(batch, layer, 0) if layer < layers else None
            stages.append(Stage(batch, layer, "before", awaits, feeds))
        if layer == layers:
            break
        if overlap.kind == "shared_experts":
            stages.append(Stage(0, layer, "shared"))
        for batch in batches:
            awaits = number[Collective(batch, layer, 0)]
            stages.append(Stage(batch, layer, "experts", awaits, fed(batch, layer, 1)))
    return Schedule(tuple(stages), tuple(collectives))


def stretch(cluster: Cluster, kernels: KernelStyle) -> Array:
    """Return how many times as long devices compute beside exchange kernels that hold units [devices].

    Raises:
        InputError: they hold all units of a device.
    """
    held = np.asarray([kernels.sm_share(device.compute_units) for device in cluster.devices])
    if cluster.size == 1:
        held[:] = 0.0
    if held.max() >= 1.0:
        device = cluster.devices[int(held.argmax())]
        message = (
            f"the exchange holds {kernels.exchange_sms} of the {device.compute_units} compute units of "
            f"'{device.name}', and nothing is left to compute beside it"
        )
        raise InputError(message, hint="lower kernels.exchange_sms, or leave overlap 'none'")
    return np.asarray(1.0 / (1.0 - held))
