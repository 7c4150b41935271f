"""How layers of a ``config.json`` differ (windows, states, an index, compression), and the format of its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from heterarch.catalog.config_keys import Keys
from heterarch.catalog.dtype import BYTES_PER_VALUE
from heterarch.errors import InputError, UnknownNameError

Fields = dict[str, Any]

#: every n-th layer has full attention where the configuration of that model type does not say
_PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4, "gpt_oss": 2}
#: what ``layer_types`` calls a layer -> its kind here
_LAYER_TYPES = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "window",
    "chunked_attention": "window",
    "linear_attention": "linear",
    "mamba": "linear",
    "moe": "ffn",
    "mlp": "ffn",
}
_PATTERN_LETTERS = {"*": "full", "M": "linear", "E": "ffn", "-": "ffn"}


def layer_kinds(keys: Keys, layers: int, kind: str) -> Fields:
    """The fields of a model that say how its layers differ."""
    window = keys.integer("attention_chunk_size", "sliding_window", default=0)
    found: Fields = {
        "index_heads": keys.integer("index_n_heads", default=0),
        "index_head_dim": keys.integer("index_head_dim", default=0),
        "index_topk": keys.integer("index_topk", default=0),
        "sliding_window": window,
    }
    if keys.find("compress_ratios"):
        ratios = Counter(keys.cells["compress_ratios"][:layers])
        return found | {
            "window_layers": ratios.pop(0, 0),
            "compressed": tuple((count, ratio) for ratio, count in sorted(ratios.items())),
            "o_groups": keys.integer("o_groups", least=1),
            "o_lora_rank": keys.integer("o_lora_rank", least=1),
        }
    kinds = Counter(_kinds(keys, layers, kind, window))
    alone = bool(kinds["ffn"])  # where some layers are FFNs alone, the others have none
    return found | {
        "window_layers": kinds["window"],
        "linear_layers": kinds["linear"],
        "ffn_only_layers": kinds["ffn"],
        "attention_only_layers": layers - kinds["ffn"] if alone else 0,
    }


def _kinds(keys: Keys, layers: int, kind: str, window: int) -> list[str]:
    """The kind of each layer: listed, by a pattern, or all alike."""
    if keys.find("layer_types", "hybrid_override_pattern"):
        return _listed_kinds(keys, layers)
    interval = keys.integer("full_attention_interval", default=4 if kind.startswith("qwen3_next") else 0)
    if interval:
        return ["full" if (i + 1) % interval == 0 else "linear" for i in range(layers)]
    context = keys.integer("max_position_embeddings", default=0)
    if not window or keys.cells.get("use_sliding_window") is False or (context and window >= context):
        return ["full"] * layers
    pattern = keys.integer("sliding_window_pattern", default=4 if kind == "llama4_text" else _PATTERNS.get(kind, 0))
    return ["full" if pattern and (i + 1) % pattern == 0 else "window" for i in range(layers)]


def _listed_kinds(keys: Keys, layers: int) -> list[str]:
    name = keys.find("layer_types", "hybrid_override_pattern") or ""
    listed, known = keys.cells[name], _LAYER_TYPES if name == "layer_types" else _PATTERN_LETTERS
    if len(listed) != layers:
        raise InputError(
            f"the key {name!r} does not list every layer",
            observed=f"{len(listed)} layers",
            expected=f"num_hidden_layers, {layers}",
            where=keys.where(name),
        )
    for layer in listed:
        if layer not in known:
            raise UnknownNameError("kind of layer", str(layer), known, where=keys.where(name))
    return [known[layer] for layer in listed]


def states(keys: Keys) -> Fields:
    """The fields of a gated delta net or of Mamba-2; none where there are none."""
    if keys.find("linear_num_value_heads"):
        names = ("num_value_heads", "num_key_heads", "key_head_dim", "value_head_dim", "conv_kernel_dim")
        sizes = [keys.integer(f"linear_{name}", least=1) for name in names]
    elif keys.find("mamba_num_heads"):
        names = ("mamba_num_heads", "n_groups", "ssm_state_size", "mamba_head_dim", "conv_kernel")
        sizes = [keys.integer(name, least=1) for name in names]
    else:
        return {}
    fields = ("linear_heads", "linear_key_heads", "linear_key_dim", "linear_value_dim", "linear_conv")
    return dict(zip(fields, sizes, strict=True))


def quantisation(keys: Keys) -> str:
    """The format of quantised weights, empty where there is none."""
    stated = keys.cells.get("quantization_config")
    if not isinstance(stated, dict):
        return ""
    method = str(stated.get("quant_method", "")).lower()
    names = (method, str(stated.get("quant_algo", "")).lower())
    for name in names:
        if name in (*BYTES_PER_VALUE, "mxfp4", "nvfp4"):
            return name
    bits, kind = _bits(stated)
    for width, name in (((4, "float"), "fp4"), ((8, "float"), "fp8"), ((4, "int"), "int4"), ((8, "int"), "int8")):
        if (bits, kind) == width:
            return name
    where = keys.locate(("quantization_config",))
    raise InputError(
        "unknown quantisation", observed=method or stated, expected="fp8, mxfp4, awq, gptq, ...", where=where
    )


def _bits(stated: Mapping[str, Any]) -> tuple[int, str]:
    """(bits, int or float) of weights, as AWQ, GPTQ and compressed-tensors state them."""
    groups = stated.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    source = first["weights"] if isinstance(first, dict) and isinstance(first.get("weights"), dict) else stated
    return int(source.get("num_bits", source.get("bits", source.get("w_bit", 0))) or 0), str(source.get("type", "int"))
