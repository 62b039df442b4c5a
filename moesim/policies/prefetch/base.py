"""The contract of a prefetch policy: which experts to load next, before their routers have answered.

A policy starts a state for one run. The state is told what every router answers, and after each answer is
asked for the experts that should be there next, most urgent first: absent ones are loaded while nothing else
is. It knows neither time nor bytes. What a predictor cannot know by itself, the engine hands it only if it
declares so: ``accuracy`` predictors are given the truth and spoil it as often as they are said to be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from moesim.policies.base import Parameters
from moesim.policies.offload.hybrimoe import ExpertTimes

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Wanted = list[tuple[int, int]]
"""Layers and experts, most urgent first."""


@dataclass(frozen=True, eq=False)
class PrefetchFrame:
    """What a run tells a policy before it begins.

    Attributes:
        layers: MoE layers.
        experts: routed experts per layer.
        top_k: experts per token.
        profile: expert ids of tokens before the run, in order, [tokens, layers, k]; may be empty.
        profile_sequence: sequence of each of these tokens, [tokens].
        seed: seed of draws.
    """

    layers: int
    experts: int
    top_k: int
    profile: npt.NDArray[np.integer[Any]]
    profile_sequence: Ints
    seed: int = 0


class Outlook(NamedTuple):
    """What is known when a policy is asked.

    Attributes:
        iteration: counts passes through the model, from 0; a prompt is one, so is each decoded token.
        layer: MoE layer whose router has just answered; -1 before the first layer of an iteration.
        tokens: tokens of the iteration.
        prefill: whether the iteration is a prompt.
        resident: experts of each layer that are in device memory or on their way there.
        slots: experts that fit into the cache of each layer, [layers].
        truth: returns what the router of a layer will answer, expert ids [tokens, k]; None unless the
            policy is one of given accuracy.
        times: what experts take on each processor and link; None where the run does not split work.
    """

    iteration: int
    layer: int
    tokens: int
    prefill: bool
    resident: Sequence[AbstractSet[int]]
    slots: Sequence[int]
    truth: Callable[[int], Ints] | None = None
    times: ExpertTimes | None = None


class PrefetchState(Protocol):
    """What a policy remembers during one run."""

    def reset(self) -> None:
        """Begin a new request."""
        ...

    def see(self, layer: int, ids: Ints) -> None:
        """Take note of what a router has answered, expert ids [tokens, k]."""
        ...

    def wanted(self, outlook: Outlook) -> Wanted:
        """Return experts of later layers that should be there when these come, most urgent first.

        Absent ones will be loaded while the link has nothing else to do, those that are there stay for now.
        Each is named once; none of ``outlook.layer`` or of layers before it, unless they belong to the next
        iteration, where ``layer`` counts on: ``layers + i`` is layer ``i`` of the next one.
        """
        ...


@runtime_checkable
class PrefetchPolicy(Protocol):
    """Decides which experts are loaded ahead of need.

    ``needs_profile`` says that it learns from tokens before the run; ``given`` that its predictions are the
    truth spoilt at a given accuracy, so that the engine must hand it the truth; ``exact`` that the output of
    the model stays as it is.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    needs_profile: ClassVar[bool]
    given: ClassVar[bool]
    exact: ClassVar[bool]
    parameters_type: ClassVar[type[Parameters]]
    parameters: Any

    def start(self, frame: PrefetchFrame) -> PrefetchState:
        """Begin a run.

        Raises:
            InputError: the parameters do not fit the model.
        """
        ...

    def seconds(self, layers: int) -> float:
        """Return what an iteration's predictions cost on the critical path (s); beside layers they cost 0."""
        ...


class PrefetchBase:
    """Common parts of the policies here: no demands, predictions that cost nothing."""

    needs_profile: ClassVar[bool] = False
    given: ClassVar[bool] = False
    exact: ClassVar[bool] = True
    parameters_type: ClassVar[type[Parameters]] = Parameters

    def __init__(self, parameters: Any = None) -> None:
        self.parameters: Any = self.parameters_type() if parameters is None else parameters

    def seconds(self, layers: int) -> float:
        """Return 0."""
        return 0.0


class _Nothing:
    def reset(self) -> None:
        pass

    def see(self, layer: int, ids: Ints) -> None:
        pass

    def wanted(self, outlook: Outlook) -> Wanted:
        return []


class NoPrefetch(PrefetchBase):
    """Load on demand only."""

    name = "none"
    summary = "load nothing before its router has asked for it"
    source = "baseline"

    def start(self, frame: PrefetchFrame) -> PrefetchState:
        """Begin a run."""
        return _Nothing()
