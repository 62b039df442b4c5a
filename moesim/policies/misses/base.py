"""The contract of a miss policy: which experts of a layer are loaded, and which run on the host's CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

from moesim.policies.base import Parameters
from moesim.policies.offload.hybrimoe import ExpertTimes


@dataclass(frozen=True, eq=False)
class Needed:
    """The experts that one device needs in one layer of one iteration.

    Attributes:
        experts: those needed, the most important first.
        tokens: tokens of each.
        there: whether each is in device memory or on its way.
        absent: all experts of the layer that are neither, needed or not, where the device may hold them; only
            told to policies that say ``whole``.
        prefill: whether the iteration is a prompt.
        cpu: returns the time of one expert with so many tokens on the CPU (s).
        gpu: the same on the device, its weights being there (s).
        load: time to load one expert when nothing else is loaded (s).
        cpu_first: extra time of the first expert of a layer on the CPU (s).
        shared: time of the shared experts, which the device computes first (s).
        iteration: counts passes through the model.
        layer: MoE layer.
        arrives: when each that is on its way is expected, from now (s), 0 for the others; empty: none is.
    """

    experts: tuple[int, ...]
    tokens: tuple[int, ...]
    there: tuple[bool, ...]
    absent: tuple[int, ...]
    prefill: bool
    cpu: Callable[[int], float]
    gpu: Callable[[int], float]
    load: float
    cpu_first: float = 0.0
    shared: float = 0.0
    iteration: int = 0
    layer: int = 0
    arrives: tuple[float, ...] = ()

    @cached_property
    def coming(self) -> dict[int, float]:
        """Experts that are on their way, with when they are expected, from now (s)."""
        return {expert: when for expert, when in zip(self.experts, self.arrives, strict=False) if when > 0}

    @cached_property
    def times(self) -> ExpertTimes:
        """The same times as a line through the CPU's at the fewest and most tokens, for split policies."""
        few, many = min(self.tokens), max(max(self.tokens), min(self.tokens) + 1)
        slope = (self.cpu(many) - self.cpu(few)) / (many - few)
        start = self.cpu(few) - slope * few
        # A line has no start per expert; what each costs whatever its tokens is spread over the fewest.
        per_token = slope + start / few
        return ExpertTimes(per_token, self.cpu_first, self.gpu(many), 0.0, self.load)


@dataclass(frozen=True)
class Choice:
    """What a policy decides.

    Attributes:
        loads: experts to load, the first first; those that are not there already.
        cpu: needed experts that run on the CPU, in order; the other needed ones run on the device.
        early: those of ``cpu`` that it could begin when the router of the layer before answered, with the
            hidden state of then, which changes the output.
    """

    loads: tuple[int, ...]
    cpu: tuple[int, ...] = ()
    early: tuple[int, ...] = ()


@runtime_checkable
class MissPolicy(Protocol):
    """Decides what becomes of a layer's experts: a needed one that is absent is loaded or runs on the CPU.

    ``uses_cpu`` says that it may leave experts to the CPU, ``whole`` that a layer waits for all of its
    experts, needed or not.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    uses_cpu: ClassVar[bool]
    whole: ClassVar[bool]
    exact: ClassVar[bool]
    parameters_type: ClassVar[type[Parameters]]
    parameters: Any

    def choose(self, needed: Needed) -> Choice:
        """Decide for one layer."""
        ...


class MissBase:
    """Common parts of the policies here."""

    uses_cpu: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    exact: ClassVar[bool] = True
    parameters_type: ClassVar[type[Parameters]] = Parameters

    def __init__(self, parameters: Any = None) -> None:
        self.parameters: Any = self.parameters_type() if parameters is None else parameters


def missing(needed: Needed) -> list[int]:
    """Return the needed experts that are not there, the most important first."""
    return [expert for expert, there in zip(needed.experts, needed.there, strict=True) if not there]


def slower_than_cpu(needed: Needed) -> list[int]:
    """Return those on their way that a CPU would have computed before they arrive."""
    tokens = dict(zip(needed.experts, needed.tokens, strict=True))
    return [expert for expert, when in needed.coming.items() if needed.cpu(tokens[expert]) < when]
