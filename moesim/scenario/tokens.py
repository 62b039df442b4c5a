"""Which tokens run and which experts they take: the sections ``workload`` and ``routing``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from moesim.scenario.alternatives import GENERATOR, MANY, ONE, TRACE, one_of, one_or_many, trace_or_generator
from moesim.scenario.fields import (
    MAX_DEVICES,
    Context,
    FilePath,
    Flag,
    Name,
    OpenSection,
    Section,
    Share,
    Steps,
    Tokens,
)


class TraceRouting(Section):
    """Recorded routing decisions."""

    trace: FilePath = Field(description="Directory of the trace, relative to the file that names it.")
    profile: Share = Field(
        0.25,
        description="Share of the trace, from its beginning, that placement policies learn from; "
        "the rest is what runs. 1 uses the whole trace for both.",
    )
    layers: Literal["exact", "cycle"] = Field(
        "exact",
        description="`exact`: the trace has one layer for each MoE layer of the model. `cycle`: its layers "
        "are repeated (or the last ones left out) to match the model.",
    )
    assign: Literal["contiguous", "interleaved"] = Field(
        "contiguous",
        description="How tokens go to devices. `contiguous`: each device has its own run of neighbouring "
        "tokens. `interleaved`: tokens are dealt out in turn.",
    )
    task: Name | None = Field(None, description="Use only tokens of this task of the trace.")
    phase: Literal["prefill", "decode"] | None = Field(
        None, description="Use only tokens that were recorded in this phase."
    )


class GeneratorRouting(OpenSection):
    """Synthetic routing; every further key is a parameter of the generator (see routing.md)."""

    generator: Name = Field(description="Kind of generator.", examples=["zipf"])


RoutingChoice = Annotated[
    Annotated[TraceRouting, Tag(TRACE)] | Annotated[GeneratorRouting, Tag(GENERATOR)],
    one_of(trace_or_generator, "must be a mapping with either 'trace' or 'generator'"),
]

TokensChoice = Annotated[
    Annotated[Tokens, Tag(ONE)]
    | Annotated[tuple[Tokens, ...], Field(min_length=1, max_length=MAX_DEVICES), Tag(MANY)],
    one_of(one_or_many, "must be a number or a list of numbers"),
]


class RequestsSection(Section):
    """Requests that devices serve one group after another; for policies that offload (see offloading.md)."""

    count: Steps = Field(
        1,
        description="Groups of requests, one after another; a group has `tokens_per_device` on each device.",
        json_schema_extra={"unit": "groups"},
    )
    prompt: Context = Field(
        128, description="Tokens of each prompt.", json_schema_extra={"unit": "tokens"}, examples=["512"]
    )
    output: Context = Field(
        32,
        description="Tokens generated for each request; the pass of the prompt gives the first of them.",
        json_schema_extra={"unit": "tokens"},
    )
    most: Steps | None = Field(
        None,
        description="Passes through the model at most; all by default.",
        json_schema_extra={"unit": "passes"},
    )


class WorkloadSection(Section):
    """Which tokens arrive when: a run of equal steps, or requests."""

    phase: Literal["prefill", "decode"] = Field(
        "prefill",
        description="`prefill`: a token attends to those before it in its own prompt. `decode`: every token "
        "belongs to another sequence, with a KV cache of `context` tokens.",
    )
    steps: Steps = Field(4, description="Number of steps.", json_schema_extra={"unit": "steps"})
    tokens_per_device: TokensChoice = Field(
        description="Tokens that each device brings to a step: one number for all, or a list with one for "
        "each device.",
        json_schema_extra={"unit": "tokens"},
        examples=["16k"],
    )
    context: Context = Field(
        4096,
        description="Length of a prompt (prefill), or of what a sequence has in its KV cache (decode).",
        json_schema_extra={"unit": "tokens"},
    )
    moe_only: Flag = Field(
        False, description="Leave out attention, dense layers and embeddings, as single-layer benchmarks do."
    )
    requests: RequestsSection | None = Field(
        None,
        description="Requests in place of equal steps: a pass for the prompt, then one for each further "
        "token. "
        "`phase`, `steps` and `context` then have no meaning, and `tokens_per_device` is the number of "
        "sequences "
        "that each device works on at a time.",
    )
