"""One device's share of a model under tensor parallelism."""

from __future__ import annotations

import math
from dataclasses import replace

from moesim.errors import InputError
from moesim.model.expert import ExpertSpec
from moesim.model.spec import ModelSpec


def sharded(model: ModelSpec, attention_tp: int, expert_tp: int) -> ModelSpec:
    """Return what one device holds and computes.

    Args:
        model: the whole model.
        attention_tp: devices over which attention heads, dense layers, shared experts and the vocabulary
            are split.
        expert_tp: devices over which each routed expert is split.

    Raises:
        InputError: something cannot be split evenly.
    """
    if attention_tp == expert_tp == 1:
        return model
    routed, shared = _Split(expert_tp), _Split(attention_tp)
    layers = []
    for layer in model.layers:
        if layer.dense_intermediate % attention_tp:
            wide = layer.dense_intermediate
            message = f"a dense layer of width {wide} cannot be split over {attention_tp} devices evenly"
            raise InputError(message)
        layers.append(
            replace(
                layer,
                attention=layer.attention.sharded(attention_tp),
                dense_intermediate=layer.dense_intermediate // attention_tp,
                experts=routed.of(layer.experts),
                shared=shared.of(layer.shared),
            )
        )
    return replace(model, layers=tuple(layers), vocab=math.ceil(model.vocab / attention_tp))


class _Split:
    """Splits experts; one tuple stays one tuple, so that layers go on sharing it."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.seen: dict[int, tuple[ExpertSpec, ...]] = {}

    def of(self, experts: tuple[ExpertSpec, ...]) -> tuple[ExpertSpec, ...]:
        if id(experts) not in self.seen:
            each = {expert: expert.sharded(self.parts) for expert in dict.fromkeys(experts)}
            self.seen[id(experts)] = tuple(each[expert] for expert in experts)
        return self.seen[id(experts)]
