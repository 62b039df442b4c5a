"""The contract of a cache policy: what each expert is worth keeping, from what has been asked for.

A policy starts a state for one replay; the state is told every access and gives priorities. It knows
neither time nor bytes, and which experts are resident is no business of it: the replay evicts the
resident of lowest priority.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from moesim.policies.base import Parameters

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CacheFrame:
    """What a replay tells a policy before it begins.

    Attributes:
        layers: MoE layers.
        experts: routed experts per layer.
        top_k: experts per token.
        caches: independent caches: ``layers``, or 1 that all layers share.
        capacity: experts that each cache holds, int64 [caches].
        profile: expert ids seen before the replay, [tokens, layers, k]; may be empty.
        future: the accesses of the replay, [steps, caches, k] in slots; None unless the policy is an oracle.
            Accesses of fewer experts are filled up with -1 at their end.
    """

    layers: int
    experts: int
    top_k: int
    caches: int
    capacity: Ints
    profile: npt.NDArray[np.integer[Any]]
    future: Ints | None = None

    @property
    def slots(self) -> int:
        """Experts that may come into one cache."""
        return self.experts * (1 if self.caches == self.layers else self.layers)

    @property
    def layer_of(self) -> Ints:
        """Layer of each expert that may come into a cache, [caches, slots]."""
        return (np.arange(self.layers * self.experts) // self.experts).reshape(self.caches, self.slots)


@dataclass(frozen=True)
class Precisions:
    """How a cache is shared by experts of two precisions, and which of them a miss loads.

    Attributes:
        t1: unimportance of an expert up to which a miss loads high precision, 0 to 1.
        t2: unimportance up to which it loads low precision; beyond, the expert is skipped.
        low_share: share of a cache's memory that is for low precision, from 0, below 1.
        low_size: bytes of a low-precision expert over those of a high one.
    """

    t1: float
    t2: float
    low_share: float
    low_size: float

    def split(self, capacity: Ints) -> tuple[Ints, Ints]:
        """Return how many experts in high and in low precision caches hold, [caches] each.

        Args:
            capacity: experts in high precision that their memory has room for, [caches].
        """
        # Sizes are whole experts; a product like 0.1 * 30 must not lose one to rounding.
        low = np.floor(capacity * self.low_share / self.low_size + 1e-9).astype(np.int64)
        high = capacity - np.ceil(capacity * self.low_share - 1e-9).astype(np.int64)
        return high, low


class Access(NamedTuple):
    """Experts that one token, or one pass of several tokens, needs at once.

    A replay asks for all layers' caches at once, an engine that knows time for one after another.

    Attributes:
        step: counts accesses of each cache, from 0.
        rows: the caches that are asked, [caches asked, 1], to index with ``ids``.
        ids: needed experts, [caches asked, k]; in a shared cache layer x experts + expert.
        weights: their gate weights, [caches asked, k], or None.
        layer: the layer asking, [caches asked, 1].
        span: the columns of the experts of that layer.
        precision: what a miss would load, [caches, k] of ``HIGH``, ``LOW``, ``SKIP``; None: one precision.
    """

    step: int
    rows: Ints
    ids: Ints
    weights: Floats | None
    layer: Ints
    span: slice
    precision: npt.NDArray[np.int8] | None = None


class CacheState(Protocol):
    """What a policy remembers during one replay."""

    def reset(self) -> None:
        """Begin a new sequence."""
        ...

    def see(self, access: Access) -> None:
        """Take note of an access, before priorities are asked for."""
        ...

    def priorities(self, access: Access) -> Floats:
        """Return what each expert is worth keeping in the caches that are asked, [caches asked, slots].

        Of those that are there the lowest goes first.
        """
        ...


@runtime_checkable
class CachePolicy(Protocol):
    """Decides which expert leaves a cache.

    ``needs_weights``, ``needs_profile`` and ``oracle`` say what it must be given. ``keeps`` is ``"loaded"``
    where every expert that is loaded stays for the time being, ``"fixed"`` where contents never change,
    ``"passing"`` where experts leave when their layer is done.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    needs_weights: ClassVar[bool]
    needs_profile: ClassVar[bool]
    oracle: ClassVar[bool]
    keeps: ClassVar[str]
    parameters_type: ClassVar[type[Parameters]]
    parameters: Any

    def sizes(self, frame: CacheFrame) -> Ints:
        """Return the experts that each cache holds, [caches]; sums to at most the sum of ``capacity``."""
        ...

    def precisions(self) -> Precisions | None:
        """Return how the cache is shared by two precisions; None where there is one."""
        ...

    def start(self, frame: CacheFrame) -> CacheState:
        """Begin a replay.

        Raises:
            InputError: the parameters do not fit the trace.
        """
        ...


class CacheBase:
    """Common parts of the policies here: no demands, equal sizes, one precision, everything loaded stays."""

    needs_weights: ClassVar[bool] = False
    needs_profile: ClassVar[bool] = False
    oracle: ClassVar[bool] = False
    keeps: ClassVar[str] = "loaded"
    parameters_type: ClassVar[type[Parameters]] = Parameters

    def __init__(self, parameters: Any = None) -> None:
        self.parameters: Any = self.parameters_type() if parameters is None else parameters

    def sizes(self, frame: CacheFrame) -> Ints:
        """Return the capacity unchanged, [caches]."""
        return frame.capacity

    def precisions(self) -> Precisions | None:
        """Return None: all experts are of one precision."""
        return None


class Recency:
    """Last use of each expert, the tie-breaker of most policies."""

    def __init__(self, frame: CacheFrame) -> None:
        self.frame = frame
        self.last = np.full((frame.caches, frame.slots), -1.0)

    def reset(self) -> None:
        """Keep everything: the past of other sequences counts."""

    def see(self, access: Access) -> None:
        """Note when the experts were used."""
        self.last[access.rows, access.ids] = access.step

    def priorities(self, access: Access) -> Floats:
        """Return the last use."""
        return np.asarray(self.last[access.rows[:, 0]])
