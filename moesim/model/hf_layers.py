"""Which layers of a Hugging Face configuration hold experts, and what attention each layer has.

Every family spells its layout its own way; the key names and their meaning follow the configuration
classes of the transformers library (Apache-2.0).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from moesim.model.fields import Fields

MAX_WIDTH: Final = 2**22

_MOE_WORDS: Final = {"sparse": True, "moe": True, "dense": False, "mlp": False, 1: True, 0: False}
_TYPES: Final = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "window",
    "chunked_attention": "window",
    "linear_attention": "linear",
    "mamba": "mamba",
}


def moe_layers(config: Fields, count: int) -> list[int]:
    """Return the indices of the layers with experts.

    Raises:
        FieldError: a pattern with impossible numbers.
    """
    for key in ("mlp_layer_types", "layers_block_type", "moe_layer_freq"):
        if isinstance(config.data.get(key), list) and all(
            not isinstance(word, bool) and word in _MOE_WORDS for word in config.data[key] if _scalar(word)
        ):
            words = _per_layer(config, key, count)
            return [index for index, word in enumerate(words) if _MOE_WORDS.get(word, False)]
    rule = _moe_rule(config)
    return [index for index in range(count) if rule(index)]


def _scalar(word: object) -> bool:
    return isinstance(word, (str, int))


def _per_layer(config: Fields, key: str, count: int) -> list[Any]:
    """Read a list with one scalar per layer."""
    words = config.items(key, 4096)
    if len(words) < count or not all(_scalar(word) for word in words):
        raise config.error(key, f"must hold one word or number for each of the {count} layers", words)
    return words[:count]


def _moe_rule(config: Fields) -> Callable[[int], bool]:
    """Return the test that a layer index passes where there are experts."""
    if config.has("first_k_dense_replace") or config.has("moe_layer_freq"):  # DeepSeek, Kimi, GLM, Ling
        first = config.integer("first_k_dense_replace", 0, low=0)
        every = config.integer("moe_layer_freq", 1)
        return lambda index: index >= first and index % every == 0
    if config.has("moe_layers"):  # Llama 4, listed
        listed = set(map(str, config.items("moe_layers", 4096)))
        return lambda index: str(index) in listed
    if config.has("interleave_moe_layer_step"):  # Llama 4, by step
        step = config.integer("interleave_moe_layer_step")
        return lambda index: (index + 1) % step == 0
    if config.has("expert_layer_period"):  # Jamba
        period = config.integer("expert_layer_period")
        offset = config.integer("expert_layer_offset", 0, low=0)
        return lambda index: index % period == offset
    if config.has("moe_layer_interval") or config.has("moe_layer_start_index"):  # ERNIE 4.5
        interval = config.integer("moe_layer_interval", 1)
        start = config.integer("moe_layer_start_index", 0, low=0)
        end = config.integer("moe_layer_end_index", -1, low=-1)
        return lambda i: (i + 1) % interval == 0 and i >= start and (end < 0 or i <= end)
    dense = set(map(str, config.items("mlp_only_layers", 4096)))  # Qwen
    step = config.integer("decoder_sparse_step", 1)
    return lambda index: str(index) not in dense and (index + 1) % step == 0


def attentions(config: Fields, count: int, hidden: int) -> dict[str, Any]:
    """Return the ``attention`` and, where layers differ, ``alternate_attention`` of a model mapping.

    Raises:
        FieldError: missing or impossible heads, or more than two kinds of layer.
    """
    full = _full(config, hidden)
    kinds = _kinds(config, count)
    others = sorted(set(kinds) - {"full"})
    if not others:
        return {"attention": full}
    if len(others) > 1:
        key = "layer_types"
        raise config.error(key, "must not mix more than two kinds of attention", sorted(set(kinds)))
    other = _other(config, others[0], full, hidden)
    chosen = [index for index, kind in enumerate(kinds) if kind != "full"]
    return {"attention": full, "alternate_attention": {**other, "layers": chosen}}


def _full(config: Fields, hidden: int) -> dict[str, Any]:
    """Read the softmax attention."""
    heads_key = next((k for k in ("num_attention_heads", "n_heads", "n_head") if config.has(k)), None)
    heads = config.integer(heads_key or "num_attention_heads", high=MAX_WIDTH)
    if config.has("kv_lora_rank"):
        return {
            "kind": "mla",
            "heads": heads,
            "head_dim": config.integer("qk_nope_head_dim", high=MAX_WIDTH),
            "rope_dim": config.integer("qk_rope_head_dim", low=0, high=MAX_WIDTH),
            "v_head_dim": config.integer("v_head_dim", high=MAX_WIDTH),
            "kv_lora_rank": config.integer("kv_lora_rank", high=MAX_WIDTH),
            "q_lora_rank": config.integer("q_lora_rank", 0, low=0, high=MAX_WIDTH),
        }
    kv_key = "kv_n_heads" if config.has("kv_n_heads") else "num_key_value_heads"
    kv_heads = config.integer(kv_key, heads, high=MAX_WIDTH)
    if heads % kv_heads:
        raise config.error(kv_key, f"must divide the {heads} attention heads", kv_heads)
    if not config.has("head_dim") and hidden % heads:
        raise config.error(heads_key, f"must divide the width {hidden} where head_dim is missing", heads)
    width = config.integer("head_dim", hidden // heads, high=MAX_WIDTH)
    spec: dict[str, Any] = {"kind": "gqa", "heads": heads, "kv_heads": kv_heads, "head_dim": width}
    if config.text("model_type", "").startswith(("qwen3_next", "qwen3_5")):
        spec["output_gate"] = True
    return spec


def _window_key(config: Fields) -> str:
    return "attention_chunk_size" if config.has("attention_chunk_size") else "sliding_window"


def _other(config: Fields, kind: str, full: dict[str, Any], hidden: int) -> dict[str, Any]:
    """Read the second kind of attention."""
    if kind == "window":
        return {**full, "sliding_window": config.integer(_window_key(config))}
    if kind == "mamba":
        auto = config.data.get("mamba_dt_rank") in (None, "auto")
        rank = math.ceil(hidden / 16) if auto else config.integer("mamba_dt_rank", high=MAX_WIDTH)
        return {
            "kind": "mamba",
            "inner": hidden * config.integer("mamba_expand", 2, high=64),
            "state": config.integer("mamba_d_state", 16, high=MAX_WIDTH),
            "conv": config.integer("mamba_d_conv", 4, high=64),
            "dt_rank": rank,
        }
    if config.has("linear_num_value_heads"):
        return {
            "kind": "linear",
            "heads": config.integer("linear_num_value_heads", high=MAX_WIDTH),
            "kv_heads": config.integer("linear_num_key_heads", high=MAX_WIDTH),
            "head_dim": config.integer("linear_key_head_dim", high=MAX_WIDTH),
            "v_head_dim": config.integer("linear_value_head_dim", high=MAX_WIDTH),
            "conv": config.integer("linear_conv_kernel_dim", 0, low=0, high=64),
            "output_gate": True,
        }
    return {**full, "kind": "linear", "kv_heads": full["heads"], "output_gate": True}


def _kinds(config: Fields, count: int) -> list[str]:
    """Name every layer's attention: full, window, linear or mamba."""
    if config.has("layer_types"):
        words = _per_layer(config, "layer_types", count)
        for word in words:
            if word not in _TYPES:
                raise config.error("layer_types", f"must hold words such as {', '.join(_TYPES)}", word)
        kinds = [_TYPES[word] for word in words]
        return kinds if config.has(_window_key(config)) else ["full" if k == "window" else k for k in kinds]
    if config.has("attn_type_list"):  # MiniMax: 0 lightning, 1 softmax
        return ["full" if word == 1 else "linear" for word in _per_layer(config, "attn_type_list", count)]
    if config.has("attn_layer_period"):  # Jamba
        period = config.integer("attn_layer_period")
        offset = config.integer("attn_layer_offset", 0, low=0)
        return ["full" if index % period == offset else "mamba" for index in range(count)]
    if config.has("full_attention_interval"):  # Qwen3-Next
        every = config.integer("full_attention_interval")
        return ["full" if (index + 1) % every == 0 else "linear" for index in range(count)]
    return _windowed(config, count)


def _windowed(config: Fields, count: int) -> list[str]:
    """Tell the layers that see a window from those that see everything."""
    if config.has("attention_chunk_size"):  # Llama 4: layers without rotary positions see everything
        if config.items("no_rope_layers", 4096):
            words = _per_layer(config, "no_rope_layers", count)
            return ["window" if word else "full" for word in words]
        every = config.integer("no_rope_layer_interval", 4)
        return ["full" if (index + 1) % every == 0 else "window" for index in range(count)]
    if not config.has("sliding_window") or not config.flag("use_sliding_window", True):
        return ["full"] * count
    if config.has("use_sliding_window"):  # Qwen: the first max_window_layers layers see everything
        first = config.integer("max_window_layers", 0, low=0)
        return ["window" if index >= first else "full" for index in range(count)]
    if config.text("model_type", "") == "gpt_oss":
        return ["full" if index % 2 else "window" for index in range(count)]
    if config.has("sliding_window_pattern"):  # Gemma, Cohere
        every = config.integer("sliding_window_pattern")
        return ["full" if (index + 1) % every == 0 else "window" for index in range(count)]
    return ["window"] * count
