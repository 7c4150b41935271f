"""Models read from the configuration of a checkpoint: the same as the catalogue's rows, and every way they can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heterarch.catalog import Catalog, Model
from heterarch.catalog.config_json import read_config
from heterarch.errors import InputError
from heterarch.units import Grade

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 128256, "torch_dtype": "bfloat16",
    "tie_word_embeddings": False, "max_position_embeddings": 131072,
}  # fmt: skip
MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 32000, "num_local_experts": 8,
    "num_experts_per_tok": 2, "sliding_window": None, "max_position_embeddings": 32768, "tie_word_embeddings": False,
}  # fmt: skip
LATENT = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "moe_layer_freq": 1,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "vocab_size": 129280, "max_position_embeddings": 163840, "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip
OSS = {
    "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "head_dim": 64, "num_hidden_layers": 36,
    "num_attention_heads": 64, "num_key_value_heads": 8, "num_local_experts": 128, "num_experts_per_tok": 4,
    "vocab_size": 201088, "sliding_window": 128, "max_position_embeddings": 131072, "tie_word_embeddings": False,
    "layer_types": ["sliding_attention", "full_attention"] * 18, "quantization_config": {"quant_method": "mxfp4"},
}  # fmt: skip
GEMMA2 = {
    "model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336, "head_dim": 256, "num_hidden_layers": 42,
    "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 256000, "sliding_window": 4096,
    "max_position_embeddings": 8192,
}  # fmt: skip
GEMMA4 = {
    "model_type": "gemma4",
    "text_config": {
        "model_type": "gemma4_text", "hidden_size": 2816, "intermediate_size": 2112, "moe_intermediate_size": 704,
        "num_hidden_layers": 30, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256,
        "num_global_key_value_heads": 2, "global_head_dim": 512, "num_experts": 128, "top_k_experts": 8,
        "vocab_size": 262144, "sliding_window": 1024, "max_position_embeddings": 262144,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5, "dtype": "bfloat16",
    },
}  # fmt: skip
DELTA = {
    "model_type": "qwen3_5_moe",
    "text_config": {
        "model_type": "qwen3_5_moe_text", "hidden_size": 4096, "moe_intermediate_size": 1024,
        "shared_expert_intermediate_size": 1024, "num_hidden_layers": 60, "num_attention_heads": 32, "head_dim": 256,
        "num_key_value_heads": 2, "num_experts": 512, "num_experts_per_tok": 10, "vocab_size": 248320,
        "full_attention_interval": 4, "attn_output_gate": True, "linear_num_value_heads": 64, "linear_num_key_heads": 16,
        "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
        "max_position_embeddings": 262144,
    },
}  # fmt: skip
MAMBA = {
    "model_type": "nemotron_h", "hidden_size": 2688, "intermediate_size": 1856, "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712, "num_hidden_layers": 52, "num_attention_heads": 32, "head_dim": 128,
    "num_key_value_heads": 2, "n_routed_experts": 128, "n_shared_experts": 1, "num_experts_per_tok": 6,
    "mamba_num_heads": 64, "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8, "conv_kernel": 4,
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", "vocab_size": 131072,
    "max_position_embeddings": 262144,
}  # fmt: skip
COMPRESSED = {
    "model_type": "deepseek_v4", "hidden_size": 4096, "moe_intermediate_size": 2048, "num_hidden_layers": 43,
    "num_attention_heads": 64, "num_key_value_heads": 1, "head_dim": 512, "q_lora_rank": 1024, "o_lora_rank": 1024,
    "o_groups": 8, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 6, "vocab_size": 129280,
    "max_position_embeddings": 1048576, "sliding_window": 128, "index_head_dim": 128, "index_n_heads": 64,
    "index_topk": 512, "compress_ratios": [0, 0, *([4, 128] * 20), 4, 0], "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip
SAME = {
    "Meta-Llama-3.1-8B": LLAMA,
    "Mixtral-8x7B-v0.1": MIXTRAL,
    "DeepSeek-R1": LATENT,
    "DeepSeek-V3.2": {**LATENT, "index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048},
    "gpt-oss-120b": OSS,
    "gemma-2-9B": GEMMA2,
    "gemma-4-26B-A4B": GEMMA4,
    "Qwen3.5-397B-A17B": DELTA,
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": MAMBA,
    "DeepSeek-V4-Flash": COMPRESSED,
}


def _read(tmp_path: Path, config: dict[str, Any]) -> Model:
    path = tmp_path / "mine" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(config, indent=2))
    return read_config(path)


@pytest.mark.parametrize("model_id", SAME)
def test_a_configuration_gives_the_shape_of_the_catalogue(catalog: Catalog, tmp_path: Path, model_id: str) -> None:
    found, known = _read(tmp_path, SAME[model_id]), catalog.model(model_id)
    assert found.attention == known.attention
    assert (found.parameters(), found.active_parameters()) == (known.parameters(), known.active_parameters())
    assert found.kv_bytes(50_000, "fp8") == known.kv_bytes(50_000, "fp8")
    assert (found.dtype, found.context, found.moe_layers) == (known.dtype, known.context, known.moe_layers)


def test_a_configuration_is_an_overlay(tmp_path: Path) -> None:
    _read(tmp_path, LLAMA)
    found = Catalog.load(tmp_path / "mine" / "config.json").model("mine")
    assert found.head_dim == 128  # hidden size over heads
    assert found.source.grade == Grade.VENDOR
    assert _read(tmp_path, {**LLAMA, "_name_or_path": "acme/Llama-X"}).id == "Llama-X"


@pytest.mark.parametrize(
    ("stated", "dtype"),
    [
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "fp4"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float"}}}}, "fp8"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int"}}}}, "int4"),
        (None, "bf16"),
    ],
)  # fmt: skip
def test_quantised_weights(tmp_path: Path, stated: dict[str, Any] | None, dtype: str) -> None:
    assert _read(tmp_path, {**LLAMA, "quantization_config": stated}).dtype == dtype


def test_a_window_that_is_off_or_wider_than_the_context_is_none(tmp_path: Path) -> None:
    window = {**LLAMA, "sliding_window": 4096}
    assert _read(tmp_path, window).window_layers == 32
    assert _read(tmp_path, {**window, "use_sliding_window": False}).window_layers == 0
    assert _read(tmp_path, {**window, "sliding_window": 131072}).window_layers == 0
    assert _read(tmp_path, {**window, "sliding_window_pattern": 4}).window_layers == 24


@pytest.mark.parametrize(
    ("config", "key", "said"),
    [
        ({**LLAMA, "num_key_value_heads": 5}, "num_key_value_heads", ("does not divide", "32 heads, 5 KV heads")),
        ({**LLAMA, "hidden_size": 4100}, "hidden_size", ("no 'head_dim'", "hidden_size 4100, 32 heads")),
        ({**LLAMA, "vocab_size": -1}, "vocab_size", ("'vocab_size' is wrong", "-1", "at least 1")),
        ({**LLAMA, "hidden_size": 4096.5}, "hidden_size", ("'hidden_size' is wrong", "4096.5")),
        ({**LLAMA, "num_hidden_layers": "32"}, "num_hidden_layers", ("is wrong", "'32'")),
        ({**LLAMA, "num_hidden_layers": 0}, "num_hidden_layers", ("is wrong", "0")),
        ({k: v for k, v in LLAMA.items() if k != "vocab_size"}, "", ("'vocab_size' is missing",)),
        ({**MIXTRAL, "num_experts_per_tok": 9}, "num_experts_per_tok", ("more than there are experts", "9", "at most 8")),
        ({k: v for k, v in MIXTRAL.items() if k != "num_experts_per_tok"}, "", ("'num_experts_per_tok' is missing",)),
        ({**LATENT, "v_head_dim": None}, "", ("'v_head_dim' is missing",)),
        ({**OSS, "layer_types": ["full_attention"] * 35}, "layer_types", ("does not list every layer", "35 layers", "36")),
        ({**OSS, "layer_types": ["ring_attention"] * 36}, "layer_types", ("unknown kind of layer 'ring_attention'",)),
        ({**OSS, "sliding_window": 0}, "", ("need sliding_window",)),
        ({**LATENT, "index_topk": 64}, "", ("an index needs",)),
        ({**LLAMA, "quantization_config": {"quant_method": "magic"}}, "quantization_config", ("unknown quantisation", "magic")),
        ({**LLAMA, "torch_dtype": "fp6"}, "", ("unknown dtype 'fp6'",)),
    ],
)  # fmt: skip
def test_a_configuration_that_makes_no_sense(
    tmp_path: Path, config: dict[str, Any], key: str, said: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        _read(tmp_path, config)
    for part in said:
        assert part in str(caught.value)
    if key:
        line = next(i for i, text in enumerate(json.dumps(config, indent=2).splitlines(), 1) if f'"{key}"' in text)
        assert f"config.json:{line}" in str(caught.value.where)


@pytest.mark.parametrize(("text", "said"), [("{", "not JSON"), ("[1]", "must be an object"), ("", "not JSON")])
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=said):
        read_config(tmp_path / "config.json")
    with pytest.raises(InputError, match="cannot read the file"):
        read_config(tmp_path / "absent.json")
