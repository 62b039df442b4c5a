"""An offloading system: a cache, a prefetcher, what becomes of misses, and how experts are kept and moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from moesim.policies.base import Parameters
from moesim.policies.cache.base import CachePolicy
from moesim.policies.misses.base import MissPolicy
from moesim.policies.prefetch.base import PrefetchPolicy


class OffloadSettings(Parameters):
    """Where experts are kept, how many of them a device holds, and how they are moved."""

    slots: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="experts of each layer that the cache of a device holds",
        json_schema_extra={"tune": [1, "experts"]},
    )
    ratio: float | None = Field(
        None, gt=0, le=1, description="instead: share of a device's experts that its cache holds"
    )
    memory: int | None = Field(None, ge=1, description="instead: memory of the cache on each device (bytes)")
    whole_layers: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="instead: layers of which a shared cache holds all experts",
        json_schema_extra={"tune": [1, 8]},
    )
    scope: Literal["layer", "global"] = Field(
        "layer", description="a cache for each layer, or one for all layers together"
    )
    store: Literal["host", "storage"] | None = Field(
        None,
        description="where all experts are: host memory, or a drive; by default host memory, with unified "
        "memory the drive",
        json_schema_extra={"tune": False},
    )
    pinned: bool = Field(
        True,
        description="whether experts in host memory are page-locked",
        json_schema_extra={"tune": False},
    )
    chunks: int | None = Field(
        None,
        ge=1,
        le=64,
        description="parts of an expert's copy, between which more urgent copies go first; by default 1, "
        "and 8 from "
        "a drive through host memory, so that both links work at once",
    )
    compute: Literal["together", "arrival"] = Field(
        "together",
        description="together: experts run when all of the layer have arrived; arrival: those that are "
        "there run "
        "first, the others as they arrive",
    )
    staging: int = Field(
        2,
        ge=1,
        le=1024,
        description="buffers for experts that do not stay, beside a cache that never changes",
        json_schema_extra={"tune": [1, 8]},
    )
    warm: bool = Field(
        True,
        description="whether caches begin with the most used experts of the profile, or empty",
        json_schema_extra={"tune": False},
    )
    regroup: bool = Field(
        False,
        description="decode two groups of requests in turn and split their tokens anew at each step, so "
        "that the "
        "two batches need fewer experts (ExpertFlow's token scheduler)",
    )
    narrow_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of each layer's experts, the least used ones of the profile, that are kept in "
        "fewer "
        "bits (EdgeMoE)",
        json_schema_extra={"tune": False},
    )
    narrow_size: float = Field(
        0.5,
        gt=0,
        le=1,
        description="bytes of such an expert over those of another",
        json_schema_extra={"tune": False},
    )

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        given = [
            key for key in ("slots", "ratio", "memory", "whole_layers") if getattr(self, key) is not None
        ]
        if len(given) > 1:
            message = f"the size of a cache is given once, not by {' and '.join(given)}"
            raise ValueError(message)
        if self.whole_layers is not None and self.scope != "global":
            message = "whole_layers needs a shared cache: scope global"
            raise ValueError(message)
        return self


@dataclass(frozen=True, eq=False)
class Offload:
    """An offloading system.

    Attributes:
        cache: which experts a device keeps.
        prefetch: which are loaded before they are asked for.
        misses: what becomes of those that are asked for and absent.
        settings: where experts are and how they move.
    """

    cache: CachePolicy
    prefetch: PrefetchPolicy
    misses: MissPolicy
    settings: OffloadSettings = field(default_factory=OffloadSettings)

    @property
    def exact(self) -> bool:
        """Whether the model's output stays as it is: nothing skipped, nothing in lower precision."""
        own_precision = self.cache.precisions() is None and self.settings.narrow_share == 0
        return own_precision and self.misses.exact and self.prefetch.exact

    def described(self) -> dict[str, Any]:
        """Return the system with every parameter, as plain JSON data."""
        parts: tuple[tuple[str, Any], ...] = (
            ("cache", self.cache),
            ("prefetch", self.prefetch),
            ("misses", self.misses),
        )
        named = {name: {"kind": part.name, **part.parameters.model_dump(mode="json")} for name, part in parts}
        return named | self.settings.model_dump(mode="json")
