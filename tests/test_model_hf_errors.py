from __future__ import annotations

import json
import math

import pytest

from moesim.errors import InputError
from moesim.model import model_from_config

MIXTRAL = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "intermediate_size": 14336,
}
CONFIGS = {
    "Mixtral-8x7B": MIXTRAL,
    "gpt-oss-120b": MIXTRAL | {"model_type": "gpt_oss", "num_hidden_layers": 36, "sliding_window": 128},
    "Jamba-Mini-1.6": MIXTRAL | {"attn_layer_period": 8, "expert_layer_period": 2},
    "DeepSeek-V3": {
        "num_hidden_layers": 61,
        "hidden_size": 7168,
        "num_attention_heads": 128,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "first_k_dense_replace": 3,
        "n_group": 8,
        "vocab_size": 129280,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
    },
}


def written(folder, config):
    file = folder / "config.json"
    file.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return file


BAD = [
    (
        "DeepSeek-V3",
        {"num_experts_per_tok": 257},
        "'num_experts_per_tok' must not be above n_routed_experts, 256",
    ),
    ("DeepSeek-V3", {"num_experts_per_tok": None}, "'num_experts_per_tok' is missing"),
    ("DeepSeek-V3", {"hidden_size": -7168}, "'hidden_size' must be a whole number"),
    ("DeepSeek-V3", {"hidden_size": math.nan}, "'hidden_size' must be a whole number"),
    ("DeepSeek-V3", {"hidden_size": 10**12}, "'hidden_size' must be a whole number"),
    ("DeepSeek-V3", {"qk_nope_head_dim": None}, "'qk_nope_head_dim' is missing"),
    ("DeepSeek-V3", {"moe_layer_freq": 0}, "'moe_layer_freq' must be"),
    ("DeepSeek-V3", {"first_k_dense_replace": 61}, "no layer with experts"),
    ("DeepSeek-V3", {"n_group": 7}, "'n_group' must divide"),
    ("DeepSeek-V3", {"torch_dtype": "complex64"}, "'torch_dtype' must be one of"),
    (
        "DeepSeek-V3",
        {"quantization_config": {"quant_method": "hqq"}},
        "'quantization_config.quant_method' must be",
    ),
    ("Mixtral-8x7B", {"num_local_experts": None}, "describes no experts"),
    ("Mixtral-8x7B", {"num_key_value_heads": 5}, "'num_key_value_heads' must divide the 32 attention heads"),
    (
        "Mixtral-8x7B",
        {"num_attention_heads": 30, "num_key_value_heads": 30},
        "'num_attention_heads' must divide",
    ),
    ("Mixtral-8x7B", {"is_encoder_decoder": True}, "only decoder models"),
    ("Mixtral-8x7B", {"vocab_size": "many"}, "'vocab_size' must be"),
    ("gpt-oss-120b", {"layer_types": ["full_attention"]}, "'layer_types' must hold one word"),
    ("gpt-oss-120b", {"layer_types": ["odd"] * 36}, "'layer_types' must hold words such as"),
    ("Jamba-Mini-1.6", {"expert_layer_period": 0}, "'expert_layer_period' must be"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD)
def test_bad_keys_are_named_with_the_file(tmp_path, name, change, message):
    file = written(tmp_path, CONFIGS[name] | change)
    with pytest.raises(InputError, match=message) as caught:
        model_from_config(file)
    assert caught.value.file == str(file)


def test_a_key_that_stands_once_gets_its_line_and_column(tmp_path):
    file = written(tmp_path, CONFIGS["Mixtral-8x7B"] | {"num_experts_per_tok": 9})
    with pytest.raises(InputError) as caught:
        model_from_config(file)
    line = file.read_text().splitlines()[caught.value.line - 1]
    assert line[caught.value.column - 1 :].startswith('"num_experts_per_tok"')


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "must be a mapping"),
        (b"", "not valid JSON"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "too many digits"),
        (b" " * (4 * 2**20 + 1), "at most 4 MiB"),
    ],
)
def test_files_that_are_no_configuration_are_refused(tmp_path, content, message):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        model_from_config(file)


@pytest.mark.parametrize("path", ["nowhere/config.json", "nul\0l"])
def test_a_missing_file_is_one_clear_error(tmp_path, path):
    with pytest.raises(InputError):
        model_from_config(f"{tmp_path}/{path}")
