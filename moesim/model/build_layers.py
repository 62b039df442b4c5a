"""Layer patterns and attention of a model mapping: which layer is of which kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from typing import Any, Final

from moesim.errors import InputError
from moesim.model.attention import ATTENTION_KINDS, AttentionSpec
from moesim.model.fields import FieldError, Fields, dotted

MAX_LAYERS: Final = 2048

_WIDTH: Final = 2**22
_PATTERN_KEYS: Final = ("first", "period", "offset", "layers")
_ATTENTION_KEYS: Final = tuple(field.name for field in dataclass_fields(AttentionSpec))


def layer_pattern(top: Fields, key: str, count: int) -> frozenset[int]:
    """Read which layers something stands in: a list, or ``first``, ``period`` and ``offset``.

    Raises:
        FieldError: a layer that does not exist, an impossible rule, or no layer with experts.
    """
    if not top.has(key):
        return frozenset(range(count))
    if isinstance(top.data[key], Mapping):
        rule = top.section(key)
        rule.known((*_PATTERN_KEYS, *_ATTENTION_KEYS))
    else:
        rule = Fields({"layers": top.data[key]}, top.path)
    if rule.has("layers"):
        chosen = rule.items("layers", MAX_LAYERS)
        for index in chosen:
            if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
                raise top.error(key, f"must name layers from 0 to {count - 1}", index)
    else:
        first = rule.integer("first", 0, low=0, high=MAX_LAYERS)
        period = rule.integer("period", 1, high=MAX_LAYERS)
        offset = rule.integer("offset", 0, low=0, high=period - 1)
        chosen = [index for index in range(first, count) if index % period == offset]
    if not chosen and key == "moe_layers":
        raise top.error(key, f"must leave at least one of the {count} layers", top.data[key])
    return frozenset(chosen)


def _attention(fields: Fields, inherited: Mapping[str, Any]) -> AttentionSpec:
    """Read one token mixer; fields of ``inherited`` hold unless another kind is named."""
    data = fields.data
    same = "kind" not in data or data["kind"] == inherited.get("kind")
    merged = Fields({**(inherited if same else {}), **data}, fields.path)
    kind = merged.choice("kind", ATTENTION_KINDS, "gqa" if merged.data else "none")
    heads = merged.integer("heads", high=_WIDTH) if kind in ("gqa", "mla", "linear") else 0
    needed = {"gqa": ("head_dim",), "linear": ("head_dim",), "mla": ("head_dim", "kv_lora_rank")}
    needed["mamba"] = ("inner", "state")
    numbers = {
        key: merged.integer(key, None if key in needed.get(kind, ()) else 0, low=0, high=_WIDTH)
        for key in _ATTENTION_KEYS
        if key not in ("kind", "heads", "kv_heads", "sliding_window", "output_gate")
    }
    window = merged.integer("sliding_window") if merged.has("sliding_window") else None
    try:
        return AttentionSpec(
            kind=kind,
            heads=heads,
            kv_heads=merged.integer("kv_heads", heads, low=0, high=_WIDTH),
            sliding_window=window,
            output_gate=merged.flag("output_gate", False),
            **numbers,
        )
    except FieldError:
        raise
    except InputError as error:
        path = (*fields.path, "kv_heads")
        raise FieldError(f"'{dotted(path)}': {error.message}", hint=error.hint, path=path) from error


def attentions(top: Fields, count: int) -> list[AttentionSpec]:
    """Give every layer its token mixer; layers of one kind share one object.

    Raises:
        FieldError: an unknown, missing or impossible field of ``attention`` or ``alternate_attention``.
    """
    base = top.section("attention")
    base.known(_ATTENTION_KEYS)
    main = _attention(base, {})
    if not top.has("alternate_attention"):
        return [main] * count
    chosen = layer_pattern(top, "alternate_attention", count)
    given = top.section("alternate_attention")
    own = {key: value for key, value in given.data.items() if key not in _PATTERN_KEYS}
    other = _attention(Fields(own, given.path), base.data)
    return [other if index in chosen else main for index in range(count)]
