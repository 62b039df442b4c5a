"""A model from a plain mapping: the keys of a catalogue entry, which are also those of an inline model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from moesim.model.build_layers import MAX_LAYERS, attentions, layer_pattern
from moesim.model.expert import EXPERT_KINDS, ExpertSpec
from moesim.model.fields import Fields
from moesim.model.formats import STORED_BYTES
from moesim.model.layer import LayerSpec
from moesim.model.spec import CONVENTIONS, ModelSpec, Reported

MAX_EXPERTS: Final = 32768
"""Expert ids are int16 in routing traces."""
MAX_TOTAL_EXPERTS: Final = 2**20
"""Experts over all layers: far above any model, low enough that accounting stays instant."""

_WIDTH: Final = 2**22
_KEYS: Final = (
    "name", "source", "notes", "reported", "num_layers", "hidden_size", "vocab_size", "tie_word_embeddings",
    "dense_intermediate_size", "ffn_matrices", "moe_layers", "num_routed_experts", "moe_intermediate_size",
    "experts", "expert_bias", "top_k", "num_shared_experts", "shared_intermediate_size", "attention",
    "alternate_attention", "weight_dtype", "expert_dtype", "activation_dtype", "n_group",
    "topk_group",
)  # fmt: skip
_GROUP_KEYS: Final = ("count", "kind", "intermediate_size", "rank", "matrices", "bias", "params", "dtype")


def model_from_mapping(mapping: Mapping[str, Any]) -> ModelSpec:
    """Build a model from the keys described in ``docs/models.md``.

    Args:
        mapping: ``num_layers``, ``hidden_size``, ``top_k`` and either ``num_routed_experts`` with
            ``moe_intermediate_size`` or a list ``experts`` of groups; the rest is optional.

    Raises:
        InputError: an unknown, missing or impossible field; it names the field.
    """
    top = Fields(mapping)
    top.known(_KEYS)
    count = top.integer("num_layers", high=MAX_LAYERS)
    hidden = top.integer("hidden_size", high=_WIDTH)
    weight = top.choice("weight_dtype", STORED_BYTES, "bf16")
    dtype = top.choice("expert_dtype", STORED_BYTES, weight)
    activation = top.choice("activation_dtype", STORED_BYTES, "bf16")
    matrices = top.integer("ffn_matrices", 3, low=2, high=3)
    experts = _experts(top, hidden, matrices, dtype)
    shared = _shared(top, hidden, matrices, dtype)
    top_k = top.integer("top_k")
    if top_k > len(experts):
        raise top.error("top_k", f"must not be above the number of experts, {len(experts)}", top_k)
    if len(experts) * count > MAX_TOTAL_EXPERTS:
        raise top.error("num_layers", f"must leave at most {MAX_TOTAL_EXPERTS} experts in all", count)
    routed = layer_pattern(top, "moe_layers", count)
    dense = 0
    if len(routed) < count or top.has("dense_intermediate_size"):
        dense = top.integer("dense_intermediate_size", low=0, high=_WIDTH)
    mixers = attentions(top, count)
    layers = tuple(
        LayerSpec(index, mixers[index], 0, matrices, experts, shared, top_k)
        if index in routed
        else LayerSpec(index, mixers[index], dense, matrices)
        for index in range(count)
    )
    return ModelSpec(
        name=top.text("name", "inline"),
        hidden=hidden,
        vocab=top.integer("vocab_size", 0, low=0),
        tie_embeddings=top.flag("tie_word_embeddings", False),
        layers=layers,
        weight_dtype=weight,
        activation_dtype=activation,
        n_group=_groups(top, len(experts)),
        topk_group=_group_limit(top, len(experts), top_k),
        source=top.text("source", ""),
        reported=_reported(top.section("reported")),
    )


def _groups(top: Fields, experts: int) -> int:
    groups = top.integer("n_group", 1, high=MAX_EXPERTS)
    if experts % groups:
        raise top.error("n_group", f"must divide the number of experts, {experts}", groups)
    return groups


def _group_limit(top: Fields, experts: int, top_k: int) -> int:
    """Return the groups that a token may take experts from, 0 for all."""
    groups = _groups(top, experts)
    limit = top.integer("topk_group", 0, low=0, high=groups)
    if limit and limit * (experts // groups) < top_k:
        raise top.error("topk_group", f"leaves fewer experts than the {top_k} that a token takes", limit)
    return limit


def _experts(top: Fields, hidden: int, matrices: int, dtype: str) -> tuple[ExpertSpec, ...]:
    """Read the routed experts, all alike or in groups."""
    bias = top.flag("expert_bias", False)
    if not top.has("experts"):
        width = top.integer("moe_intermediate_size", high=_WIDTH)
        make = ExpertSpec.gated if matrices == 3 else ExpertSpec.plain
        expert = make(hidden, width, bias=bias, dtype=dtype)
        return (expert,) * top.integer("num_routed_experts", high=MAX_EXPERTS)
    for key in ("num_routed_experts", "moe_intermediate_size"):
        if top.has(key):
            raise top.error(key, "cannot stand beside a list of experts", top.data[key])
    found: list[ExpertSpec] = []
    for position, item in enumerate(top.items("experts", MAX_EXPERTS)):
        group = Fields(item, (*top.path, "experts", position))
        group.known(_GROUP_KEYS)
        found += [_group(group, hidden, matrices, bias, dtype)] * group.integer("count", 1, high=MAX_EXPERTS)
        if len(found) > MAX_EXPERTS:
            raise top.error("experts", f"must name at most {MAX_EXPERTS} experts", len(found))
    if not any(expert.exchanged for expert in found):
        raise top.error("experts", "must hold at least one expert that computes", top.data["experts"])
    return tuple(found)


def _group(group: Fields, hidden: int, matrices: int, bias: bool, dtype: str) -> ExpertSpec:
    """Read one group's expert."""
    kind = group.choice("kind", EXPERT_KINDS, "ffn")
    dtype = group.choice("dtype", STORED_BYTES, dtype)
    if kind in ("zero", "copy", "constant"):
        return ExpertSpec.zero(hidden, kind=kind, dtype=dtype)
    width = group.integer("intermediate_size", high=_WIDTH)
    matrices = group.integer("matrices", matrices, low=2, high=3)
    if kind == "low_rank":
        rank = group.integer("rank", high=_WIDTH)
        return ExpertSpec.low_rank(hidden, width, rank, matrices=matrices, dtype=dtype)
    if kind == "shared":
        raise group.error("kind", "cannot be routed", kind, hint="use shared_intermediate_size")
    make = ExpertSpec.gated if matrices == 3 else ExpertSpec.plain
    expert = make(hidden, width, bias=group.flag("bias", bias), dtype=dtype, kind=kind)
    params = group.integer("params", expert.params, high=2**50)
    return ExpertSpec(kind, hidden, width, expert.gemms, params, dtype)


def _shared(top: Fields, hidden: int, matrices: int, dtype: str) -> tuple[ExpertSpec, ...]:
    """Read the shared experts, which run as one MLP of their summed width."""
    number = top.integer("num_shared_experts", 0, low=0, high=MAX_EXPERTS)
    width = top.integer("shared_intermediate_size", 0, low=0, high=_WIDTH)
    if number and not width:
        width = number * top.integer("moe_intermediate_size", high=_WIDTH)
    if not width:
        return ()
    make = ExpertSpec.gated if matrices == 3 else ExpertSpec.plain
    return (make(hidden, width, dtype=dtype, kind="shared"),)


def _reported(fields: Fields) -> Reported:
    """Read published counts, given in billions."""
    fields.known(("total_billion", "active_billion", "convention", "source", "exception", "active_exception"))
    total, active = fields.positive("total_billion"), fields.positive("active_billion")
    return Reported(
        total=None if total is None else total * 1e9,
        active=None if active is None else active * 1e9,
        convention=fields.choice("convention", CONVENTIONS, "with_embeddings"),
        exception=fields.text("exception", ""),
        active_exception=fields.text("active_exception", ""),
    )
