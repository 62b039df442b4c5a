"""In which number formats a Hugging Face checkpoint stores its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from moesim.model.fields import Fields

_TORCH: Final = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "half": "fp16", "auto": "bf16"}
_METHODS: Final = {
    "fp8": "fp8", "fbgemm_fp8": "fp8", "mxfp4": "fp4", "awq": "int4", "gptq": "int4", "modelopt_fp4": "fp4",
}  # fmt: skip


def stored_formats(config: Fields) -> dict[str, str]:
    """Return ``weight_dtype``, ``expert_dtype`` and ``activation_dtype`` of a model mapping.

    Raises:
        FieldError: a number format or quantisation method that is not known.
    """
    key = "torch_dtype" if config.has("torch_dtype") else "dtype"
    word = config.text(key, "bfloat16") if config.has(key) else "bfloat16"
    plain = _TORCH.get(word.removeprefix("torch."))
    if plain is None:
        raise config.error(key, f"must be one of {', '.join(_TORCH)}", word)
    formats = {"weight_dtype": plain, "expert_dtype": plain, "activation_dtype": plain}
    if not config.has("quantization_config"):
        return formats
    quantised = config.section("quantization_config")
    stored = _quantised(quantised)
    if stored == "":
        return formats
    formats["expert_dtype"] = stored
    # MXFP4 checkpoints (gpt-oss) quantise the experts alone
    if quantised.data.get("quant_method") != "mxfp4":
        formats["weight_dtype"] = stored
    return formats


def _quantised(fields: Fields) -> str:
    """Return the format that quantised matrices are stored in ("" for none)."""
    method = fields.text("quant_method", "")
    if method == "bitsandbytes":
        return "int4" if fields.flag("load_in_4bit", False) else "int8"
    if method == "modelopt":
        return "fp4" if "FP4" in str(fields.data.get("quant_algo", "")) else "fp8"
    if method == "compressed-tensors":
        return _compressed(fields)
    if method in ("awq", "gptq") and fields.has("bits"):
        return _integers(fields, "bits")
    if method not in _METHODS:
        known = (*_METHODS, "bitsandbytes", "modelopt", "compressed-tensors")
        hint = "remove quantization_config and set weight_dtype in the scenario instead"
        raise fields.error("quant_method", f"must be one of {', '.join(known)}", method, hint)
    return _METHODS[method]


def _compressed(fields: Fields) -> str:
    """Read the first group of a compressed-tensors configuration."""
    groups: Any = fields.data.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping):
        return ""
    group = Fields(weights, (*fields.path, "config_groups", "weights"))
    if group.text("type", "int") == "float":
        return "fp4" if group.integer("num_bits") == 4 else "fp8"
    return _integers(group, "num_bits")


def _integers(fields: Fields, key: str) -> str:
    bits = fields.integer(key, high=16)
    if bits not in (4, 8):
        raise fields.error(key, "must be 4 or 8", bits)
    return f"int{bits}"
