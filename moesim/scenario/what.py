"""What runs and where: the sections ``model``, ``cluster`` and ``parallelism``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field, Tag

from moesim.scenario.alternatives import (
    CONFIG,
    INLINE,
    REFERENCE,
    SHORT,
    FromName,
    catalogue_or_inline,
    one_of,
)
from moesim.scenario.fields import Devices, FilePath, Layers, Name, OpenSection, Section

_MODEL_KEYS: Final = ("hidden_size", "num_layers", "num_routed_experts", "moe_intermediate_size", "experts")
_CLUSTER_KEYS: Final = (
    "device",
    "groups",
    "devices_per_node",
    "intra",
    "inter",
    "host",
    "collective_latency",
)

_LAYERS: Final = "Keep only this many transformer layers; all of them by default."
_DTYPE: Final = "Number format of the weights, such as bf16 or fp8; the model's own by default."


def _needs_one_of(keys: Iterable[str]) -> dict[str, Any]:
    """Say in a JSON Schema what tells something written out from a catalogue entry."""
    return {"anyOf": [{"required": [key]} for key in keys]}


class CatalogueModel(Section):
    """A model of the catalogue (`moesim list models`), whole or in part."""

    name: Name = Field(description="Name in the model catalogue.", examples=["gpt-oss-120b"])
    layers: Layers | None = Field(None, description=_LAYERS, examples=[6])
    weight_dtype: Name | None = Field(None, description=_DTYPE, examples=["fp8"])


class ConfigModel(Section):
    """A model described by a local Hugging Face `config.json`."""

    config: FilePath = Field(description="Path of the config.json, relative to the file that names it.")
    layers: Layers | None = Field(None, description=_LAYERS, examples=[6])
    weight_dtype: Name | None = Field(None, description=_DTYPE, examples=["fp8"])


class InlineModel(OpenSection):
    """A model written out with the keys of a catalogue entry (see models.md)."""

    model_config = ConfigDict(json_schema_extra=_needs_one_of(_MODEL_KEYS))

    name: Name = Field("inline", description="Name shown in results.")


class CatalogueCluster(Section):
    """A cluster of the catalogue (`moesim list hardware`)."""

    name: Name = Field(description="Name in the cluster catalogue.", examples=["HGX-H200"])
    nodes: Devices | None = Field(
        None, description="Number of nodes; what the catalogue says by default.", examples=[4]
    )


class InlineCluster(OpenSection):
    """A cluster written out with the keys of a catalogue entry (see hardware.md)."""

    model_config = ConfigDict(json_schema_extra=_needs_one_of(_CLUSTER_KEYS))

    name: Name = Field("inline", description="Name shown in results.")


class ParallelismSection(Section):
    """How the model is spread."""

    ep: Devices | None = Field(
        None,
        description="Size of the expert-parallel group; all devices of the cluster by default. "
        "It divides the number of devices, and the first ones form the group that is simulated.",
        json_schema_extra={"unit": "devices"},
    )
    attention_tp: Devices = Field(
        1,
        description="Neighbouring devices that split attention heads, dense layers, shared experts and the "
        "vocabulary between them and work on the same tokens there; 1 is data-parallel attention. "
        "`tokens_per_device` counts the tokens that a device brings to the group.",
        json_schema_extra={"unit": "devices"},
    )
    expert_tp: Devices = Field(
        1,
        description="Neighbouring devices that split every routed expert between them.",
        json_schema_extra={"unit": "devices"},
    )


ModelChoice = Annotated[
    Annotated[CatalogueModel, FromName("name"), Tag(SHORT)]
    | Annotated[CatalogueModel, Tag(REFERENCE)]
    | Annotated[ConfigModel, Tag(CONFIG)]
    | Annotated[InlineModel, Tag(INLINE)],
    one_of(
        catalogue_or_inline("config", _MODEL_KEYS),
        "must be the name of a model, or a mapping with 'name' or 'config', or a model written out",
    ),
]

ClusterChoice = Annotated[
    Annotated[CatalogueCluster, FromName("name"), Tag(SHORT)]
    | Annotated[CatalogueCluster, Tag(REFERENCE)]
    | Annotated[InlineCluster, Tag(INLINE)],
    one_of(
        catalogue_or_inline(None, _CLUSTER_KEYS),
        "must be the name of a cluster, or a mapping with 'name', or a cluster written out",
    ),
]
