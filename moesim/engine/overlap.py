"""What runs beside what: the order of stages on every device and of collectives on the network.

A step is a list of *stages*, which every device runs one after another in the same order, and a list of
*collectives*, which the network runs one after another. A stage may await a collective, and may be what a
collective waits for. ``none`` alternates the two. ``two_batch`` splits the tokens in two micro-batches that
take turns on the devices, as DeepSeek's prefill and SGLang's two-batch overlap do; while one is on the
network the other computes. With both kinds of overlap the shared experts of a layer fill a gap: with
``shared_experts`` while tokens are on their way to the experts, with ``two_batch`` on their way back.

``pipeline`` cuts attention in two as well, so that a layer of each micro-batch has five stages (two of
attention, dispatch, experts, combine), and staggers the micro-batches by half a layer: every exchange of one
runs beside half of the other's attention, which suits decoding, where attention outlasts all else. That
there are five stages is published (DeepSeek's inference system, day 6 of its open-source week); the order is
this module's.

``dualpipe`` is a training step: the backward pass of one micro-batch and the forward pass of another, both
with all tokens, take turns (DeepSeek-V3's report, arXiv 2412.19437, section 3.2.1; the order is that of
DeepSeek's published training profile). The backward micro-batch runs the layers in reverse, from what
follows the last combine of a forward pass to what precedes its first dispatch. Where the forward pass
combined results, the backward pass sends gradients to the experts, a dispatch; where it dispatched tokens,
it combines their gradients. Gradients of inputs come first, because other devices wait for them; those of
weights are stages of their own that fill the gap while they travel.

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
Part = Literal["first", "before", "own_weights", "shared", "experts", "expert_weights"]
Kind = Literal["none", "two_batch", "pipeline", "dualpipe", "shared_experts"]

BACKWARD: Final = 0
"""Micro-batch of ``dualpipe`` that goes backward; the other goes forward."""

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
            ``BESIDE_COMPUTE`` with two micro-batches, and 1 with ``shared_experts``, where most of a
            collective runs by itself.
    """

    kind: Kind = "none"
    slowdown: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.slowdown is not None and not 1.0 <= self.slowdown < math.inf:
            message = f"collectives cannot take {self.slowdown} times as long beside computation"
            raise InputError(message, hint="slowdown is 1 or more")

    def check(self, phase: str) -> None:
        """Check that what runs has the passes that overlap.

        Raises:
            InputError: a decode step has no backward pass.
        """
        if self.trains and phase != "prefill":
            message = f"overlap '{self.kind}' is a training step, and a {phase} step has no backward pass"
            raise InputError(message, hint="set workload.phase to prefill, or choose two_batch or pipeline")

    @property
    def slower(self) -> float:
        """How many times as long collectives take."""
        if self.kind == "none":
            return 1.0
        if self.slowdown is not None:
            return self.slowdown
        return BESIDE_COMPUTE if self.paired else 1.0

    @property
    def paired(self) -> bool:
        """Whether two micro-batches take turns."""
        return self.kind in ("two_batch", "pipeline", "dualpipe")

    @property
    def trains(self) -> bool:
        """Whether one of the micro-batches goes backward, and each has all tokens of the step."""
        return self.kind == "dualpipe"

    @property
    def batches(self) -> int:
        """Number of micro-batches."""
        return 2 if self.paired else 1

    @property
    def passes(self) -> int:
        """How often experts run for the tokens of a step: forward, gradients of inputs, and of weights."""
        return 3 if self.trains else 1

    @property
    def shared_apart(self) -> bool:
        """Whether shared experts are a stage of their own."""
        return self.kind != "none"


@dataclass(frozen=True)
class Stage:
    """Work of a micro-batch between collectives.

    Attributes:
        batch: micro-batch.
        layer: MoE layer; the number of MoE layers for what follows the last of them in a forward pass.
        part: ``before`` the dispatch of the layer, the ``first`` half of that where it is cut, its
            ``experts``, or the ``shared`` experts. In a backward pass gradients of inputs of the same, with
            ``own_weights`` and ``expert_weights`` for the gradients of weights.
        awaits: number of the collective that must have ended, if any.
        feeds: number of the collective that waits for it, if any.
    """

    batch: int
    layer: int
    part: Part
    awaits: int | None = None
    feeds: int | None = None


@dataclass(frozen=True)
class Collective:
    """An exchange of a micro-batch.

    Attributes:
        batch: micro-batch.
        layer: MoE layer.
        way: 0 is dispatch (of gradients in a backward pass), 1 combine.
    """

    batch: int
    layer: int
    way: int


@dataclass(frozen=True)
class Schedule:
    """Stages and collectives of a step, each in order."""

    stages: tuple[Stage, ...]
    collectives: tuple[Collective, ...]

    def awaiting(self, stage: Stage) -> int | None:
        """Return the MoE layer whose dispatch waits for a stage, if one does."""
        if stage.feeds is None or self.collectives[stage.feeds].way == 1:
            return None
        return self.collectives[stage.feeds].layer


def schedule(overlap: Overlap, layers: int) -> Schedule:
    """Return the order in which a step of so many MoE layers runs."""
    if overlap.kind == "dualpipe":
        return _dualpipe(_Lines(layers, turned=BACKWARD))
    lines = _Lines(layers)
    if overlap.kind == "pipeline":
        return _pipeline(lines)
    batches = range(overlap.batches)
    for layer in range(layers + 1):
        for batch in batches:
            if layer and overlap.kind == "two_batch":
                lines.add(batch, layer - 1, "shared")
            lines.add(batch, layer, "before", awaits=1, feeds=0)
        if layer == layers:
            break
        if overlap.kind == "shared_experts":
            lines.add(0, layer, "shared")
        for batch in batches:
            lines.add(batch, layer, "experts", awaits=0, feeds=1)
    return lines.schedule()


def _pipeline(lines: _Lines) -> Schedule:
    """Stagger two micro-batches by half a layer."""
    for layer in range(lines.layers + 1):
        lines.add(0, layer, "first", awaits=1)
        if layer:
            lines.add(1, layer - 1, "shared")
            lines.add(1, layer - 1, "experts", awaits=0, feeds=1)
        lines.add(0, layer, "before", feeds=0)
        lines.add(1, layer, "first", awaits=1)
        if layer < lines.layers:
            lines.add(0, layer, "shared")
            lines.add(0, layer, "experts", awaits=0, feeds=1)
        lines.add(1, layer, "before", feeds=0)
    return lines.schedule()


def _dualpipe(lines: _Lines) -> Schedule:
    """Let a backward and a forward pass take turns; gradients of weights follow those of inputs."""
    back, forth = BACKWARD, 1 - BACKWARD
    lines.add(back, lines.layers, "before", feeds=0)
    lines.add(back, lines.layers, "own_weights")
    lines.add(forth, 0, "before", feeds=0)
    for layer in range(lines.layers):
        turned = lines.layers - 1 - layer
        lines.add(back, turned, "experts", awaits=0, feeds=1)
        lines.add(back, turned, "shared")
        lines.add(back, turned, "expert_weights")
        lines.add(forth, layer, "experts", awaits=0, feeds=1)
        lines.add(forth, layer, "shared")
        lines.add(back, turned, "before", awaits=1, feeds=0)
        lines.add(back, turned, "own_weights")
        lines.add(forth, layer + 1, "before", awaits=1, feeds=0)
    return lines.schedule()


class _Lines:
    """Stages and collectives of a step, line by line."""

    def __init__(self, layers: int, turned: int | None = None) -> None:
        self.layers = layers
        self.turned = turned
        self.stages: list[Stage] = []
        self.collectives: list[Collective] = []
        self.number: dict[Collective, int] = {}

    def add(
        self, batch: int, layer: int, part: Part, awaits: int | None = None, feeds: int | None = None
    ) -> None:
        """Add a stage that awaits and feeds exchanges of its own micro-batch.

        Args:
            batch: micro-batch.
            layer: MoE layer.
            part: see ``Stage``.
            awaits: 0 for the dispatch of the layer, 1 for the combine that comes before, if there is one:
                that of the layer before, or of the layer itself where the micro-batch goes backward.
            feeds: 0 for the dispatch that follows, if there is one: that of the layer, or of the layer before
                it where the micro-batch goes backward; 1 for the combine of the layer.
        """
        awaited = None
        if awaits is not None:
            awaited = self.number.get(Collective(batch, layer - (awaits and batch != self.turned), awaits))
        fed = None
        if feeds is not None:
            collective = Collective(batch, layer - (feeds == 0 and batch == self.turned), feeds)
            if 0 <= collective.layer < self.layers:
                fed = self.number[collective] = len(self.collectives)
                self.collectives.append(collective)
        self.stages.append(Stage(batch, layer, part, awaited, fed))

    def schedule(self) -> Schedule:
        """Return what was added."""
        return Schedule(tuple(self.stages), tuple(self.collectives))


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
