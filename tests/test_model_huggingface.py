from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.model import load_model, model_from_config

MLA = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


def deepseek(layers, hidden, heads, experts, dense, width, first, vocab, k=8, shared=1, q_rank=1536, **more):
    return {
        "model_type": "deepseek_v3",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "n_routed_experts": experts,
        "n_shared_experts": shared,
        "num_experts_per_tok": k,
        "intermediate_size": dense,
        "moe_intermediate_size": width,
        "first_k_dense_replace": first,
        "moe_layer_freq": 1,
        "vocab_size": vocab,
        "q_lora_rank": q_rank,
        "torch_dtype": "bfloat16",
        **MLA,
        **more,
    }


def grouped(layers, hidden, heads, kv_heads, vocab, k, **more):
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "num_experts_per_tok": k,
        "torch_dtype": "bfloat16",
        **more,
    }


QWEN = {"decoder_sparse_step": 1, "mlp_only_layers": [], "use_sliding_window": False, "max_window_layers": 28}
LLAMA4 = {
    "model_type": "llama4_text",
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "head_dim": 128,
    "attention_chunk_size": 8192,
}
CONFIGS = {
    "DeepSeek-V2-Lite": deepseek(27, 2048, 16, 64, 10944, 1408, 1, 102400, 6, 2, None, n_group=1),
    "DeepSeek-V2": deepseek(60, 5120, 128, 160, 12288, 1536, 1, 102400, 6, 2, n_group=8),
    "DeepSeek-V3": deepseek(61, 7168, 128, 256, 18432, 2048, 3, 129280, n_group=8, **FP8),
    "Kimi-K2": {
        "model_type": "kimi_k2_vl",
        "text_config": deepseek(61, 7168, 64, 384, 18432, 2048, 1, 163840),
        "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27},
        **FP8,
    },
    "Qwen3-30B-A3B": grouped(
        48, 2048, 32, 4, 151936, 8,
        model_type="qwen3_moe", head_dim=128, num_experts=128, moe_intermediate_size=768,
        intermediate_size=6144, sliding_window=None, **QWEN,
    ),
    "Qwen2-57B-A14B": grouped(
        28, 3584, 28, 4, 151936, 8,
        model_type="qwen2_moe", num_experts=64, moe_intermediate_size=2560, intermediate_size=18944,
        shared_expert_intermediate_size=20480, sliding_window=131072, **QWEN,
    ),
    "Mixtral-8x7B": grouped(
        32, 4096, 32, 8, 32000, 2,
        model_type="mixtral", num_local_experts=8, intermediate_size=14336, sliding_window=None,
    ),
    "gpt-oss-120b": grouped(
        36, 2880, 64, 8, 201088, 4,
        model_type="gpt_oss", head_dim=64, num_local_experts=128, intermediate_size=2880, sliding_window=128,
        layer_types=["sliding_attention", "full_attention"] * 18,
        quantization_config={"quant_method": "mxfp4"},
    ),
    "OLMoE-1B-7B": grouped(
        16, 2048, 16, 16, 50304, 8, model_type="olmoe", num_experts=64, intermediate_size=1024
    ),
    "GLM-4.5": grouped(
        92, 5120, 96, 8, 151552, 8,
        model_type="glm4_moe", head_dim=128, n_routed_experts=160, n_shared_experts=1,
        first_k_dense_replace=3, intermediate_size=12288, moe_intermediate_size=1536, n_group=1,
    ),
    "GRIN-MoE": grouped(
        32, 4096, 32, 8, 32064, 2,
        model_type="phimoe", num_local_experts=16, intermediate_size=6400, sliding_window=None,
    ),
    "MiniMax-M2": grouped(
        62, 3072, 48, 8, 200064, 8,
        model_type="minimax_m2", head_dim=128, num_local_experts=256, intermediate_size=1536,
        attn_type_list=[1] * 62, shared_intermediate_size=0, **FP8,
    ),
    "MiniMax-M1": grouped(
        80, 6144, 64, 8, 200064, 2,
        model_type="minimax_m1", head_dim=128, num_local_experts=32, intermediate_size=9216,
        attn_type_list=[int(index % 8 == 7) for index in range(80)], shared_intermediate_size=0,
    ),
    "Llama-4-Scout": {
        "model_type": "llama4",
        "text_config": grouped(
            48, 5120, 40, 8, 202048, 1, num_local_experts=16, interleave_moe_layer_step=1, **LLAMA4
        ),
        "vision_config": {"hidden_size": 1408},
    },
    "Llama-4-Maverick": {
        "model_type": "llama4",
        "text_config": grouped(
            48, 5120, 40, 8, 202048, 1,
            num_local_experts=128, interleave_moe_layer_step=2, no_rope_layers=[1, 1, 1, 0] * 12, **LLAMA4,
        ),
    },
    "DBRX": {
        "model_type": "dbrx",
        "d_model": 6144,
        "n_heads": 48,
        "n_layers": 40,
        "vocab_size": 100352,
        "attn_config": {"kv_n_heads": 8},
        "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    },
    "Jamba-Mini-1.6": grouped(
        32, 4096, 32, 8, 65536, 2,
        model_type="jamba", num_experts=16, intermediate_size=14336, attn_layer_period=8, attn_layer_offset=4,
        expert_layer_period=2, expert_layer_offset=1, mamba_d_conv=4, mamba_d_state=16, mamba_dt_rank=256,
        mamba_expand=2, sliding_window=None,
    ),
    "Qwen3-Next-80B-A3B": grouped(
        48, 2048, 16, 2, 151936, 10,
        model_type="qwen3_next", head_dim=256, num_experts=512, moe_intermediate_size=512,
        shared_expert_intermediate_size=512, intermediate_size=5120, full_attention_interval=4,
        linear_conv_kernel_dim=4, linear_key_head_dim=128, linear_num_key_heads=16, linear_num_value_heads=32,
        linear_value_head_dim=128, decoder_sparse_step=1, mlp_only_layers=[],
    ),
    "PowerMoE-3B": grouped(
        32, 1536, 24, 8, 49152, 8,
        model_type="granitemoe", num_local_experts=40, intermediate_size=512, tie_word_embeddings=True,
    ),
    "LongCat-Flash": {
        "model_type": "longcat_flash",
        "num_layers": 28,
        "hidden_size": 6144,
        "num_attention_heads": 64,
        "vocab_size": 131072,
        "n_routed_experts": 512,
        "zero_expert_num": 256,
        "zero_expert_type": "identity",
        "moe_topk": 12,
        "expert_ffn_hidden_size": 2048,
        "ffn_hidden_size": 12288,
        "q_lora_rank": 1536,
        **MLA,
    },
}  # fmt: skip


def written(folder, config):
    file = folder / "config.json"
    file.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_of_a_family_gives_the_catalogue_model(tmp_path, name):
    model, known = model_from_config(written(tmp_path, CONFIGS[name])), load_model(name)
    assert model.total_params == known.total_params
    assert model.weight_bytes == known.weight_bytes
    assert model.flops_per_token(20_000) == known.flops_per_token(20_000)
    assert model.kv_bytes_per_token(20_000) == known.kv_bytes_per_token(20_000)
    assert (model.experts, model.top_k, model.n_group) == (known.experts, known.top_k, known.n_group)
    assert [layer.is_moe for layer in model.layers] == [layer.is_moe for layer in known.layers]
    assert [layer.attention.kind for layer in model.layers] == [x.attention.kind for x in known.layers]


def test_a_folder_stands_for_its_configuration_and_names_the_model(tmp_path):
    folder = tmp_path / "my-mixtral"
    folder.mkdir()
    written(folder, CONFIGS["Mixtral-8x7B"])
    assert model_from_config(folder).name == "my-mixtral"


def test_layers_can_be_listed_as_dense_and_sparse(tmp_path):
    config = CONFIGS["GLM-4.5"] | {"mlp_layer_types": ["dense"] * 10 + ["sparse"] * 82}
    assert len(model_from_config(written(tmp_path, config)).moe_layers) == 82


@pytest.mark.parametrize(
    ("quantization", "weights", "experts"),
    [
        ({"quant_method": "awq", "bits": 4}, "int4", "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8", "int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", "int4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "fp4", "fp4"),
        ({"quant_method": "mxfp4"}, "bf16", "fp4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
            },
            "int4",
            "int4",
        ),
    ],
)
def test_quantised_checkpoints_keep_their_format(tmp_path, quantization, weights, experts):
    config = CONFIGS["Mixtral-8x7B"] | {"quantization_config": quantization}
    model = model_from_config(written(tmp_path, config))
    assert (model.weight_dtype, model.layers[0].experts[0].dtype) == (weights, experts)
    assert model.activation_dtype == "bf16"


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-5, 10**7), st.floats(), st.text(max_size=4))
VALUES = st.one_of(
    LEAVES, st.lists(LEAVES, max_size=3), st.dictionaries(st.sampled_from(["quant_method", "bits"]), LEAVES)
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_single_change_gives_a_model_or_one_clear_error(tmp_path, data):
    config = dict(data.draw(st.sampled_from(list(CONFIGS.values()))))
    extra = [
        "layer_types",
        "sliding_window",
        "quantization_config",
        "no_rope_layers",
        "moe_layer_freq",
        "dtype",
    ]
    config[data.draw(st.sampled_from([*config, *extra]))] = data.draw(VALUES)
    try:
        result = model_from_config(written(tmp_path, config))
    except InputError as error:
        result = error
    assert result.file if isinstance(result, InputError) else result.total_params > 0
