"""Models from a local Hugging Face ``config.json``; nothing is fetched and no code of it is run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from moesim.errors import InputError
from moesim.model.build import MAX_EXPERTS, model_from_mapping
from moesim.model.build_layers import MAX_LAYERS
from moesim.model.fields import FieldError, Fields
from moesim.model.hf_layers import MAX_WIDTH, attentions, moe_layers
from moesim.model.hf_numbers import stored_formats
from moesim.model.spec import ModelSpec

MAX_FILE_BYTES: Final = 4 * 2**20

_TEXT_PARTS: Final = ("text_config", "language_config", "llm_config")
_NESTED_PARTS: Final = ("ffn_config", "attn_config")
_SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "layers": ("num_hidden_layers", "num_layers", "n_layers", "n_layer"),
    "hidden": ("hidden_size", "d_model", "n_embd"),
    "experts": ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts"),
    "top_k": (
        "num_experts_per_tok", "moe_topk", "moe_top_k", "moe_k", "num_experts_per_token",
        "experts_per_token", "top_k_experts",
    ),
    "expert_width": (
        "moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "ffn_hidden_size",
    ),
    "dense_width": ("intermediate_size_mlp", "intermediate_size", "ffn_hidden_size"),
    "shared_width": ("shared_expert_intermediate_size", "shared_intermediate_size"),
    "shared_count": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
}  # fmt: skip
"""The names one thing has in different families, the most telling first."""


def model_from_config(path: str | Path) -> ModelSpec:
    """Read a model from a Hugging Face configuration.

    Args:
        path: a ``config.json`` or the folder that holds one.

    Raises:
        InputError: unreadable, not a decoder with experts, or a key missing or impossible; names the key.
    """
    file = Path(path)
    if file.is_dir():
        file /= "config.json"
    text = _text(file)
    try:
        data = json.loads(text)
    except RecursionError as error:
        message = "the configuration is nested too deeply"
        raise InputError(message, str(file)) from error
    except json.JSONDecodeError as error:
        message = f"not valid JSON: {error.msg}"
        raise InputError(message, str(file), error.lineno, error.colno) from error
    except ValueError as error:
        message = "not valid JSON: a number has too many digits"
        raise InputError(message, str(file)) from error
    try:
        return model_from_mapping({"name": _name(data, file), "source": file.name, **translate(data)})
    except FieldError as error:
        raise error.at(str(file), *_place(text, error)) from error
    except InputError as error:
        raise error.at(str(file)) from error


def _text(file: Path) -> str:
    """Read the file, refusing what cannot be a configuration."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            message = f"a configuration is at most {MAX_FILE_BYTES // 2**20} MiB"
            raise InputError(message, str(file))
        return raw.decode("utf-8-sig")
    except OSError as error:
        message = f"cannot read the model configuration: {error.strerror or 'not a usable path'}"
        raise InputError(message, str(file), hint="give the path of a local config.json") from error
    except ValueError as error:
        message = "the model configuration is not UTF-8 text"
        raise InputError(message, str(file)) from error


def _place(text: str, error: FieldError) -> tuple[int, int] | tuple[()]:
    """Find the line and column of the key at fault where it stands in the file exactly once."""
    keys = [part for part in error.path if isinstance(part, str)]
    found = list(re.finditer(rf'"{re.escape(keys[-1])}"\s*:', text)) if keys else []
    if len(found) != 1:
        return ()
    start = found[0].start()
    return text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)


def _name(data: object, file: Path) -> str:
    """Name the model after its own name, else its folder."""
    given = data.get("_name_or_path") if isinstance(data, Mapping) else None
    last = given.rstrip("/").rsplit("/", 1)[-1] if isinstance(given, str) else ""
    return last or file.resolve().parent.name or "model"


def _flat(data: object) -> Fields:
    """Bring the language model's keys of nested configurations to the top."""
    root = dict(Fields(data).data)
    for part in _TEXT_PARTS:
        if isinstance(root.get(part), Mapping):
            root |= {key: value for key, value in root[part].items() if value is not None}
            break
    for part in _NESTED_PARTS:  # DBRX
        if isinstance(root.get(part), Mapping):
            root = {**root[part], **root}
    return Fields(root)


def _spelled(config: Fields, what: str) -> str:
    """Return the key under which something stands (the usual one when it is missing)."""
    names = _SPELLINGS[what]
    return next((name for name in names if config.has(name)), names[0])


def translate(data: object) -> dict[str, Any]:
    """Turn the content of a ``config.json`` into a mapping for ``model_from_mapping``.

    Raises:
        FieldError: names the configuration's own key that is missing or impossible.
    """
    config = _flat(data)
    kind = config.text("model_type", "")
    if config.flag("is_encoder_decoder", False):
        raise config.error("is_encoder_decoder", "must be false: only decoder models are supported", True)
    experts_key, top_k_key = _spelled(config, "experts"), _spelled(config, "top_k")
    if not config.has(experts_key):
        message = (
            f"this configuration describes no experts: it has none of {', '.join(_SPELLINGS['experts'])}"
        )
        raise FieldError(message, path=(experts_key,))
    experts = config.integer(experts_key, high=MAX_EXPERTS)
    idle = config.integer("zero_expert_num", 0, low=0, high=MAX_EXPERTS)
    top_k = config.integer(top_k_key, high=MAX_EXPERTS)
    if top_k > experts + idle:
        raise config.error(top_k_key, f"must not be above {experts_key}, {experts + idle}", top_k)
    count = config.integer(_spelled(config, "layers"), high=MAX_LAYERS)
    hidden = config.integer(_spelled(config, "hidden"), high=MAX_WIDTH)
    width = config.integer(_spelled(config, "expert_width"), high=MAX_WIDTH)
    routed = moe_layers(config, count)
    if not routed:
        message = "this configuration leaves no layer with experts"
        raise FieldError(message, path=(experts_key,))
    groups = config.integer("n_group", 1, low=0, high=MAX_EXPERTS) or 1
    if experts % groups:
        raise config.error("n_group", f"must divide {experts_key}, {experts}", groups)
    mapping: dict[str, Any] = {
        "num_layers": count,
        "hidden_size": hidden,
        "vocab_size": config.integer("vocab_size"),
        "tie_word_embeddings": config.flag("tie_word_embeddings", False),
        "moe_layers": routed,
        "experts": [{"count": experts, "intermediate_size": width}],
        "top_k": top_k,
        "shared_intermediate_size": _shared_width(config, kind, width),
        "expert_bias": kind == "gpt_oss",
        "n_group": groups,
        "topk_group": _group_limit(config, groups, experts, top_k),
        **attentions(config, count, hidden),
        **stored_formats(config),
    }
    if len(routed) < count:
        mapping["dense_intermediate_size"] = config.integer(_spelled(config, "dense_width"), high=MAX_WIDTH)
    if idle:
        name = "zero" if config.text("zero_expert_type", "identity") == "zero" else "copy"
        mapping["experts"].append({"count": idle, "kind": name})
    if kind.startswith("longcat_flash"):
        return _unfolded(mapping, config.integer("ffn_hidden_size", high=MAX_WIDTH))
    return mapping


def _shared_width(config: Fields, kind: str, width: int) -> int:
    """Return the summed width of the shared experts."""
    if kind.startswith("llama4"):
        return width  # every Llama 4 MoE layer has one shared expert as wide as a routed one
    key = _spelled(config, "shared_width")
    total = config.integer(key, 0, low=0, high=MAX_WIDTH) if not isinstance(config.data.get(key), list) else 0
    number = config.integer(_spelled(config, "shared_count"), 0, low=0, high=MAX_EXPERTS)
    return total or number * width


def _unfolded(mapping: dict[str, Any], dense: int) -> dict[str, Any]:
    """Write LongCat's blocks (two attentions and two dense MLPs around one MoE) as pairs of layers."""
    return {
        **mapping,
        "num_layers": 2 * mapping["num_layers"],
        "moe_layers": [2 * index for index in mapping["moe_layers"]],
        "dense_intermediate_size": dense,
        "shared_intermediate_size": dense,
    }


def _group_limit(config: Fields, groups: int, experts: int, top_k: int) -> int:
    """Return the groups that a token may take experts from, 0 for all or where the key makes no sense."""
    limit = config.integer("topk_group", 0, low=0, high=MAX_EXPERTS) or 0
    return limit if limit < groups and limit * (experts // groups) >= top_k else 0
