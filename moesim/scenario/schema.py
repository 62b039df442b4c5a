"""The scenario as one tree of typed, frozen objects."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from moesim.scenario.fields import FilePath, Name, Prose, Section, Seed
from moesim.scenario.how import (
    CostsChoice,
    CostsSection,
    EngineSection,
    KernelChoice,
    KernelSection,
    MemorySection,
    OverlapChoice,
    OverlapSection,
    PolicyChoice,
    PolicySection,
)
from moesim.scenario.tokens import RoutingChoice, WorkloadSection
from moesim.scenario.what import ClusterChoice, ModelChoice, ParallelismSection


class ScenarioSpec(Section):
    """A scenario: a model on a cluster, the tokens it is given, and the policies that are compared."""

    name: Name = Field("scenario", description="Name shown in results; that of the file by default.")
    description: Prose = Field("", description="What the scenario is for.")
    extends: FilePath | None = Field(
        None,
        exclude=True,
        description="Another scenario, relative to this file, whose keys hold where this file is silent. "
        "Mappings are merged, lists and single values replaced.",
    )
    model: ModelChoice = Field(description="What runs.", examples=["gpt-oss-20b"])
    cluster: ClusterChoice = Field(description="Where it runs.", examples=["HGX-H200"])
    parallelism: ParallelismSection = Field(
        default_factory=lambda: ParallelismSection(), description="How the model is spread."
    )
    routing: RoutingChoice = Field(description="Which experts tokens take.")
    workload: WorkloadSection = Field(description="Which tokens arrive when.")
    policies: Annotated[tuple[PolicyChoice, ...], Field(min_length=1, max_length=100)] = Field(
        default_factory=lambda: tuple(PolicySection(name=name) for name in ("ep", "eplb", "llep")),
        description="Policies to compare; the first is the baseline.",
        examples=[["ep", "llep"]],
    )
    kernels: KernelChoice = Field(
        default_factory=lambda: KernelSection(),
        description="How the software runs an MoE layer: `fused` grouped kernels, `eager` tensor "
        "operations expert by expert, or fused ones with DeepEP (`deepep`, `deepep_low_latency`) or the "
        "NVLink kernels of a rack (`rack`) in place of NCCL.",
    )
    overlap: OverlapChoice = Field(
        default_factory=lambda: OverlapSection(),
        description="What runs beside what; nothing by default.",
        examples=["two_batch"],
    )
    costs: CostsChoice = Field(default_factory=lambda: CostsSection(), description="Where prices come from.")
    memory: MemorySection = Field(
        default_factory=lambda: MemorySection(), description="What else stands in device memory."
    )
    engine: EngineSection = Field(
        default_factory=lambda: EngineSection(), description="How closely the run is simulated."
    )
    seed: Seed = Field(0, description="Seed of every random draw; the same seed gives the same result.")
