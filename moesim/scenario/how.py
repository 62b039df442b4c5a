"""What is decided and how it is simulated: ``policies``, ``kernels``, ``memory`` and ``engine``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from moesim.scenario.alternatives import FULL, SHORT, FromName, name_or_mapping, one_of
from moesim.scenario.fields import (
    Bytes,
    FilePath,
    Flag,
    Layers,
    Name,
    OpenSection,
    Section,
    Share,
    Slots,
    SpanSteps,
    Steps,
)


class PolicyPart(OpenSection):
    """A placement or dispatch policy; every further key is one of its parameters (see policies.md)."""

    kind: Name | None = Field(
        None,
        description="Name of the placement or dispatch policy (`moesim list policies`); that of the preset "
        "by default.",
    )


PartChoice = Annotated[
    Annotated[PolicyPart, FromName("kind"), Tag(SHORT)] | Annotated[PolicyPart, Tag(FULL)],
    one_of(name_or_mapping, "must be the name of a policy or a mapping with 'kind'"),
]


class RefreshSection(Section):
    """Experts are placed anew every so many steps, by the loads of the last steps (see cost-models.md)."""

    every: Steps = Field(1000, description="Steps between refreshes.", json_schema_extra={"unit": "steps"})
    window: Steps | None = Field(
        None,
        description="Steps whose loads the placement looks at; by default those since the last refresh.",
        json_schema_extra={"unit": "steps"},
    )
    mode: Literal["blocking", "background"] = Field(
        "blocking",
        description="`blocking`: a step waits until its weights have arrived. `background`: weights move "
        "beside the steps and are used from the first step after they have arrived.",
    )
    layers_per_step: Layers | None = Field(
        None,
        description="Layers that migrate in one step; all by default.",
        json_schema_extra={"unit": "layers"},
    )
    moves_per_step: Steps | None = Field(
        None,
        description="Expert slots that a device fills anew in one step; all by default.",
        json_schema_extra={"unit": "slots"},
    )
    source: Literal["devices", "host"] = Field(
        "devices",
        description="Where weights come from: the nearest device that holds them, or host memory.",
    )


class OffloadPart(OpenSection):
    """A cache, prefetch or miss policy; every further key is one of its parameters (see offloading.md)."""

    kind: Name | None = Field(
        None, description="Name of the policy (`moesim list policies`); that of the system by default."
    )


OffloadPartChoice = Annotated[
    Annotated[OffloadPart, FromName("kind"), Tag(SHORT)] | Annotated[OffloadPart, Tag(FULL)],
    one_of(name_or_mapping, "must be the name of a policy or a mapping with 'kind'"),
]


class OffloadSection(Section):
    """Experts live in host memory or on a drive, and devices cache some of them (see offloading.md)."""

    system: Name | None = Field(
        None,
        description="Published system whose parts hold where nothing else is said.",
        examples=["hobbit"],
    )
    cache: OffloadPartChoice | None = Field(
        None, description="Which experts stay on the device; LRU by default."
    )
    prefetch: OffloadPartChoice | None = Field(
        None, description="Which are loaded ahead of need; none by default."
    )
    misses: OffloadPartChoice | None = Field(
        None, description="What becomes of experts that are needed and absent; they are loaded by default."
    )
    slots: Slots | None = Field(
        None,
        description="Experts of each layer that the cache of a device holds; by default as many as fit.",
        json_schema_extra={"unit": "experts"},
    )
    ratio: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="Instead of `slots`: share of a device's experts that its cache holds.",
        examples=[0.25],
    )
    memory: Bytes | None = Field(
        None,
        description="Instead: memory of the cache on each device.",
        json_schema_extra={"unit": "bytes"},
        examples=["12 GB"],
    )
    whole_layers: Slots | None = Field(
        None, description="Instead: layers of which a shared cache holds all experts."
    )
    scope: Literal["layer", "global"] | None = Field(
        None, description="`layer` (default): a cache for each layer. `global`: one for all layers together."
    )
    store: Literal["host", "storage"] | None = Field(
        None,
        description="Where all experts are: `host` memory (default), or `storage`, a drive (default where "
        "memory "
        "is unified).",
    )
    pinned: Flag | None = Field(
        None, description="Whether experts in host memory are page-locked, which is faster; true by default."
    )
    chunks: Slots | None = Field(
        None,
        description="Parts of an expert's copy, between which more urgent copies go first; by default 1, "
        "and 8 "
        "from a drive through host memory.",
    )
    compute: Literal["together", "arrival"] | None = Field(
        None,
        description="`together` (default): experts of a layer run when all have arrived. `arrival`: those "
        "that "
        "are there run first, the others as they arrive.",
    )
    staging: Slots | None = Field(
        None,
        description="Buffers for experts that do not stay, beside a cache that never changes; 2 by default.",
    )
    warm: Flag | None = Field(
        None,
        description="Whether caches begin with the most used experts of the profile (default), or empty.",
    )
    regroup: Flag | None = Field(
        None,
        description="Whether two groups of requests decode in turn, their tokens split anew at each step so "
        "that "
        "the two batches need fewer experts (ExpertFlow's token scheduler); false by default.",
    )
    narrow_share: Share | None = Field(
        None, description="Share of each layer's experts, the least used ones, that are kept in fewer bits."
    )
    narrow_size: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Bytes of such an expert over those of another; 0.5 by default."
    )


OffloadChoice = Annotated[
    Annotated[OffloadSection, FromName("system"), Tag(SHORT)] | Annotated[OffloadSection, Tag(FULL)],
    one_of(name_or_mapping, "must be the name of an offloading system or a mapping"),
]


class PolicySection(Section):
    """A placement and a dispatch policy under one name."""

    name: Name = Field(
        description="Name shown in results. That of a preset fills in what is not written here.",
        examples=["eplb"],
    )
    placement: PartChoice | None = Field(
        None, description="Which devices hold which expert; contiguous unless the preset says otherwise."
    )
    dispatch: PartChoice | None = Field(
        None,
        description="Which device computes which tokens; standard expert parallelism unless the preset says "
        "otherwise.",
    )
    refresh: RefreshSection | None = Field(
        None, description="How the placement follows the loads; by default it stays as it was made."
    )
    offload: OffloadChoice | None = Field(
        None,
        description="How experts come from host memory or a drive; by default devices hold all of them.",
        examples=["hobbit"],
    )


PolicyChoice = Annotated[
    Annotated[PolicySection, FromName("name"), Tag(SHORT)] | Annotated[PolicySection, Tag(FULL)],
    one_of(name_or_mapping, "must be the name of a policy or a mapping with 'name'"),
]


class KernelSection(OpenSection):
    """A kernel style with some of its counts replaced (see cost-models.md)."""

    base: Name = Field("fused", description="Kernel style that the other keys change.")


KernelChoice = Annotated[
    Annotated[KernelSection, FromName("base"), Tag(SHORT)] | Annotated[KernelSection, Tag(FULL)],
    one_of(name_or_mapping, "must be the name of a kernel style or a mapping with 'base'"),
]


class OverlapSection(Section):
    """What runs beside what (see cost-models.md)."""

    kind: Literal["none", "two_batch", "pipeline", "dualpipe", "shared_experts"] = Field(
        "none",
        description="`none`: devices and network take turns. `two_batch`: two halves of each device's tokens "
        "take turns, one computes while the other is on the network. `pipeline`: the same with attention cut "
        "in two, so that each exchange runs beside half of it. `dualpipe`: a training step, in which the "
        "forward pass of one micro-batch and the backward pass of another take turns, each with all tokens. "
        "`shared_experts`: shared experts run during dispatch.",
    )
    slowdown: Annotated[float, Field(ge=1, le=100)] | None = Field(
        None,
        description="How many times as long collectives take that run beside computation; by default 1.43 "
        "with two micro-batches, as in DeepSeek's training profile, and 1 with `shared_experts`.",
    )


OverlapChoice = Annotated[
    Annotated[OverlapSection, FromName("kind"), Tag(SHORT)] | Annotated[OverlapSection, Tag(FULL)],
    one_of(name_or_mapping, "must be the name of a kind of overlap or a mapping with 'kind'"),
]


class CostsSection(Section):
    """Where the prices of kernels and transfers come from (see cost-models.md)."""

    source: Literal["analytic", "measured"] = Field(
        "analytic",
        description="`analytic`: calibrated models. `measured`: published timings of the device (extra "
        "`moesim[measured]`), and the models where those do not reach; the result notes where.",
    )
    calibration: FilePath | None = Field(
        None,
        description="Constants fitted to timings of your own (`moesim calibrate` writes them); they come "
        "before moesim's.",
    )


CostsChoice = Annotated[
    Annotated[CostsSection, FromName("source"), Tag(SHORT)] | Annotated[CostsSection, Tag(FULL)],
    one_of(name_or_mapping, "must be the name of a source of prices or a mapping with 'source'"),
]


class MemorySection(Section):
    """What else stands in device memory."""

    replicated_experts: Flag = Field(
        False,
        description="Every device keeps the weights of all experts, as benchmark scripts do that slice one "
        "full tensor; placement still decides who computes.",
    )
    other_inputs: Flag = Field(
        False, description="Every device keeps the inputs of all devices, as such scripts may."
    )
    reserve: Bytes = Field(
        0,
        description="Memory set aside for the runtime on each device.",
        json_schema_extra={"unit": "bytes"},
        examples=["2 GiB"],
    )


class EngineSection(Section):
    """How closely the run is simulated and recorded."""

    detail: Literal["array", "events"] = Field(
        "array",
        description="`array`: lock-step phases as operations over all devices. `events`: a process per "
        "device. Both give the same times; `events` is slower.",
    )
    spans: SpanSteps = Field(
        1,
        description="Number of first steps whose intervals are recorded for the timeline.",
        json_schema_extra={"unit": "steps"},
    )
