"""Models from the ``config.json`` of a checkpoint, as Hugging Face writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from heterarch.catalog.config_keys import Keys, read_keys
from heterarch.catalog.config_layers import layer_kinds, quantisation, states
from heterarch.catalog.dtype import canonical_dtype
from heterarch.catalog.model import Model
from heterarch.catalog.model_table import check_shape
from heterarch.errors import InputError, Where
from heterarch.units import Grade, Source

Fields = dict[str, Any]

_TIED = {
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "gemma4",
    "gemma4_text",
    "gpt2",
    "opt",
    "bloom",
    "cohere",
    "cohere2",
}
_PLAIN_FFN = {"gpt2", "opt", "bloom", "phi", "gpt_neox", "falcon", "nemotron", "nemotron_h", "starcoder2"}
_ENCODERS = {"bert", "roberta", "xlm-roberta", "modernbert"}


def read_config(path: Path | str, model_id: str = "") -> Model:
    """The model that a ``config.json`` describes; of a multimodal one, its language model.

    Args:
        path: the file.
        model_id: its name; else what the file says, or the name of its folder.

    Raises:
        InputError: unreadable, a key missing, of the wrong kind or negative, or sizes that contradict each other; with
            file, line, key, observed and expected.
    """
    keys = read_keys(path)
    layers = keys.integer("num_hidden_layers", "n_layer", "num_layers", least=1)
    kind = keys.text("model_type")
    source = Source(Grade.VENDOR, f"configuration of the checkpoint, {Path(path).name}")
    model = Model(
        id=model_id or _name(keys, Path(path)),
        family="embedding" if kind in _ENCODERS else kind,
        layers=layers,
        vocab=keys.integer("vocab_size", least=1),
        tied_embeddings=bool(keys.cells.get("tie_word_embeddings", kind in _TIED)),
        ffn_matrices=2 if kind in _PLAIN_FFN | _ENCODERS else 3,
        native_dtype=canonical_dtype(keys.text("dtype", "torch_dtype", default="bfloat16")),
        quant=quantisation(keys),
        context=keys.integer("max_position_embeddings", "n_positions", "max_seq_len", default=0),
        source=source,
        attention_source=source,
        **_heads(keys),
        **_ffn(keys, kind),
        **_latent(keys),
        **layer_kinds(keys, layers, kind),
        **states(keys),
    )
    check_shape(model, Where(str(path)))
    return model


def _name(keys: Keys, path: Path) -> str:
    named = keys.text("_name_or_path").rstrip("/").rsplit("/", 1)[-1]
    return named or (path.resolve().parent.name if path.name == "config.json" else path.stem)


def _heads(keys: Keys) -> Fields:
    hidden = keys.integer("hidden_size", "n_embd", "d_model", least=1)
    heads = keys.integer("num_attention_heads", "n_head", least=1)
    kv_heads = keys.integer("num_key_value_heads", default=heads, least=1)
    if heads % kv_heads:
        raise InputError(
            "the key 'num_key_value_heads' does not divide the attention heads",
            observed=f"{heads} heads, {kv_heads} KV heads",
            expected="a divisor",
            where=keys.where("num_key_value_heads"),
        )
    if keys.find("head_dim", "kv_lora_rank") is None and hidden % heads:
        raise InputError(
            "the key 'hidden_size' is not heads x head size, and there is no 'head_dim'",
            observed=f"hidden_size {hidden}, {heads} heads",
            expected="a multiple, or the key 'head_dim'",
            where=keys.where("hidden_size"),
        )
    return {
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": keys.integer("head_dim", default=hidden // heads, least=1),
        "global_kv_heads": keys.integer("num_global_key_value_heads", default=0),
        "global_head_dim": keys.integer("global_head_dim", default=0),
        "attention_gate": bool(keys.cells.get("attn_output_gate", keys.text("model_type").startswith("qwen3_next"))),
    }


def _ffn(keys: Keys, kind: str) -> Fields:
    experts = keys.integer("n_routed_experts", "num_experts", "num_local_experts", default=0)
    dense = keys.integer("intermediate_size_mlp", "intermediate_size", "n_inner", "ffn_dim", default=0)
    dense = dense or (0 if experts else 4 * keys.integer("hidden_size", "n_embd", "d_model"))
    if not experts:
        return {"ffn_dense": dense}
    names = ("num_experts_per_tok", "top_k_experts", "moe_topk")
    top_k = keys.integer(*names, least=1)
    if top_k > experts:
        raise InputError(
            f"the key {keys.find(*names)!r} is more than there are experts",
            observed=top_k,
            expected=f"at most {experts}",
            where=keys.where(keys.find(*names) or ""),
        )
    width = keys.integer("moe_intermediate_size", "intermediate_size", least=1)
    shared = keys.integer("moe_shared_expert_intermediate_size", "shared_expert_intermediate_size", default=0)
    if kind.startswith("gemma4"):
        shared = dense  # beside the experts of each layer
    return {
        "ffn_dense": dense,
        "experts": experts,
        "top_k": top_k,
        "moe_ffn": width,
        "shared_experts": round(shared / width)
        or keys.integer("n_shared_experts", default=1 if kind == "llama4_text" else 0),
        "first_k_dense": keys.integer("first_k_dense_replace", default=0),
        "moe_every": max(1, keys.integer("decoder_sparse_step", "interleave_moe_layer_step", default=1)),
    }


def _latent(keys: Keys) -> Fields:
    found = {
        "q_lora_rank": keys.integer("q_lora_rank", default=0),
        "kv_lora_rank": keys.integer("kv_lora_rank", default=0),
    }
    if not found["kv_lora_rank"]:
        return found
    names = {"qk_nope_dim": "qk_nope_head_dim", "qk_rope_dim": "qk_rope_head_dim", "v_head_dim": "v_head_dim"}
    return found | {name: keys.integer(key, least=1) for name, key in names.items()}
