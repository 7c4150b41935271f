"""What the columns of the table of models mean: rows in, models out, and when a shape contradicts itself."""

from __future__ import annotations

import re

from heterarch.catalog.dtype import canonical_dtype
from heterarch.catalog.model import Model
from heterarch.catalog.rows import Row, read_aliases
from heterarch.errors import InputError, Where
from heterarch.units import Grade, Source

_SHAPE = {
    **{name: name for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn_dense", "vocab")},
    **{name: name for name in ("experts", "top_k", "shared_experts", "moe_ffn", "first_k_dense")},
    **{name: name for name in ("q_lora_rank", "kv_lora_rank", "qk_nope_dim", "qk_rope_dim", "v_head_dim")},
    **{name: name for name in ("sliding_window", "context")},
}
#: columns that say how layers differ; they share one source
_ATTENTION = (
    *("window_layers", "linear_layers", "ffn_only_layers", "attention_only_layers", "global_kv_heads"),
    *("global_head_dim", "linear_heads", "linear_key_heads", "linear_key_dim", "linear_value_dim", "linear_conv"),
    *("index_heads", "index_head_dim", "index_topk", "o_groups", "o_lora_rank"),
)
_REQUIRED = ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocab")
MODEL_COLUMNS = (
    *("id", "family", *_SHAPE, "moe_every", "tied_emb", "native_dtype", "quant", "ffn_mats"),
    *(*_ATTENTION, "attn_gate", "compressed", "attention_source"),
    *("params_total_b", "params_active_b", "params_computed_b", "kv_bytes_per_token_bf16"),
    *("aliases", "source", "note"),
)


def read_model(row: Row) -> Model:
    """One model; raises InputError where its shape is incomplete, without a source, or contradicts itself."""
    row.required("source")
    for column in _REQUIRED:
        if row.required(column) and not row.integer(column):
            raise InputError(f"the column {column!r} must be above zero", where=row.where)
    if row.text("quant"):
        canonical_dtype(row.text("quant"))
    model = Model(
        id=row.required("id"),
        family=row.text("family"),
        moe_every=row.integer("moe_every", 1),
        tied_embeddings=_flag(row, "tied_emb"),
        native_dtype=canonical_dtype(row.text("native_dtype") or "bf16"),
        quant=row.text("quant"),
        ffn_matrices=row.integer("ffn_mats", 3),
        published_parameters=(row.number("params_total_b") or 0.0) * 1e9,
        published_active=(row.number("params_active_b") or 0.0) * 1e9,
        attention_gate=_flag(row, "attn_gate"),
        compressed=_read_compressed(row),
        source=read_model_source(row.text("source")),
        attention_source=read_attention_source(row),
        aliases=read_aliases(row),
        note=row.text("note"),
        **{name: row.integer(name) for name in (*_SHAPE, *_ATTENTION)},
    )
    check_shape(model, row.where)
    return model


def read_model_source(text: str) -> Source:
    """The source of a shape: ``grade: citation``, or a citation whose grade is vendor unless it says recalled."""
    grade, _, citation = text.partition(":")
    if grade in list(Grade) and citation.strip():
        return Source(Grade(grade), citation.strip())
    return Source(Grade.RECALLED if "recalled" in text else Grade.VENDOR, text)


def check_shape(model: Model, where: Where) -> None:
    """Raise InputError where the numbers of a model do not go together."""
    for wrong, what, observed, expected in _contradictions(model):
        if wrong:
            raise InputError(f"{model.id}: {what}", observed=observed, expected=expected, where=where)


def _contradictions(model: Model) -> tuple[tuple[bool, str, object, object], ...]:
    linear = (model.linear_heads, model.linear_key_heads, model.linear_key_dim, model.linear_value_dim)
    index = (model.index_heads, model.index_head_dim, model.index_topk)
    latent = (model.qk_rope_dim, model.qk_nope_dim, model.v_head_dim)
    return (
        (
            model.experts > 0 and not (0 < model.top_k <= model.experts and model.moe_ffn),
            "a model with experts needs moe_ffn and top_k within 1..experts",
            f"top_k {model.top_k}, experts {model.experts}, moe_ffn {model.moe_ffn}",
            None,
        ),
        (
            model.mla and not all(latent),
            "a model with kv_lora_rank needs qk_nope_dim, qk_rope_dim and v_head_dim",
            latent,
            None,
        ),
        (not model.ffn_dense and not model.experts, "a model needs ffn_dense or experts", "neither", None),
        (
            model.ffn_matrices not in (2, 3) or model.moe_every < 1 or model.heads % model.kv_heads > 0,
            "the shape contradicts itself",
            f"{model.ffn_matrices}, {model.moe_every}, {model.heads}/{model.kv_heads}",
            "ffn_mats 2 or 3, moe_every at least 1, heads a multiple of kv_heads",
        ),
        (
            model.full_layers < 0 or model.ffn_layers < model.first_k_dense,
            "more layers of some kinds than there are layers",
            f"{model.window_layers} with a window, {model.linear_layers} linear, {model.ffn_only_layers} without "
            f"attention, {model.attention_only_layers} without FFN, {model.compressed} compressed",
            f"at most {model.layers} in all",
        ),
        (
            model.window_layers + len(model.compressed) > 0 and not model.sliding_window,
            "layers with a window need sliding_window",
            0,
            "tokens",
        ),
        (
            model.linear_layers > 0 and not all(linear),
            "linear_layers need linear_heads, linear_key_heads, linear_key_dim and linear_value_dim",
            linear,
            "all above zero",
        ),
        (
            any(index) and not all(index),
            "an index needs index_heads, index_head_dim and index_topk",
            index,
            "all or none",
        ),
    )


def _flag(row: Row, column: str) -> bool:
    return row.text(column).lower() == "true"


def _read_compressed(row: Row) -> tuple[tuple[int, int], ...]:
    text = row.text("compressed")
    if not re.fullmatch(r"([1-9]\d*x[1-9]\d*(\s+|$))*", text):
        raise InputError(
            "the column 'compressed' is wrong",
            observed=repr(text),
            expected="layers x tokens per entry, such as 30x4 31x128",
            where=row.where,
        )
    return tuple((int(layers), int(ratio)) for layers, ratio in (part.split("x") for part in text.split()))


def read_attention_source(row: Row) -> Source | None:
    """The source of the columns that say how layers differ, None where the row fills none; InputError without one."""
    filled = [column for column in (*_ATTENTION, "attn_gate", "compressed") if row.text(column)]
    if not filled:
        return None
    grade, _, citation = row.text("attention_source").partition(":")
    if grade not in list(Grade) or not citation.strip():
        raise InputError(
            f"the number in column {filled[0]!r} has no source",
            observed=row.text("attention_source") or "nothing",
            expected="'grade: citation' in column 'attention_source'",
            where=row.where,
        )
    return Source(Grade(grade), citation.strip())
