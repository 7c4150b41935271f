"""Models: parameters and KV from the shape, against what their makers publish."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from heterarch.catalog import BYTES_PER_VALUE, Catalog, Model, bytes_per_value, canonical_dtype
from heterarch.catalog.catalog import DATA
from heterarch.errors import InputError, UnknownNameError
from heterarch.units import Grade

#: published rounded (Kimi: "1 T"), with parts that the shape leaves out (MTP head, vision tower), or not at all
NOT_WITHIN_1_PERCENT = {
    "MiMo-7B-Base",
    "Llama-4-Scout-17B-16E-Instruct",
    "Kimi-K2-Instruct",
    "Kimi-K2.5",
    "Phi-2",
    "OPT-13B",
}
NOT_PUBLISHED = {"MiniMax-M2.5", "GLM-5", "DeepSeek-V4-Pro"}
HYBRID = {"Qwen3.5-397B-A17B", "gemma-4-26B-A4B", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "DeepSeek-V4-Pro"}


def _rows() -> list[dict[str, str]]:
    with (DATA / "models.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_parameters_match_what_is_published(catalog: Catalog) -> None:
    close = {
        model.id
        for model in catalog.models.values()
        if model.uniform
        and model.published_parameters
        and abs(model.parameters() / model.published_parameters - 1) <= 0.01
    }
    assert len(close) >= 38
    assert set(catalog.models) - close == NOT_WITHIN_1_PERCENT | NOT_PUBLISHED | HYBRID


def test_parameters_match_the_self_check_column(catalog: Catalog) -> None:
    computed = {row["id"]: float(row["params_computed_b"]) for row in _rows() if row["params_computed_b"]}
    assert len(computed) == 47
    for model_id, billions in computed.items():
        assert math.isclose(catalog.model(model_id).parameters() / 1e9, billions, abs_tol=0.006)


def test_kv_bytes_match_the_column_exactly(catalog: Catalog) -> None:
    column = {row["id"]: int(row["kv_bytes_per_token_bf16"]) for row in _rows() if row["kv_bytes_per_token_bf16"]}
    assert len(column) == 45
    assert {key: catalog.model(key).kv_bytes_per_token() for key in column} == column


@pytest.mark.parametrize(
    ("model", "dtype", "kv_bytes"),
    [
        ("Llama-2-70B", "bf16", 327_680),  # grouped-query: an eighth of full multi-head
        ("Meta-Llama-3.1-70B", "fp8", 163_840),
        ("DeepSeek-V3", "bf16", 70_272),  # MLA: 61 x (512 + 64) x 2
        ("DeepSeek-V3", "fp8", 35_136),
        ("multilingual-e5-large", "bf16", 0),
    ],
)
def test_kv_bytes_follow_the_real_attention(catalog: Catalog, model: str, dtype: str, kv_bytes: int) -> None:
    assert catalog.model(model).kv_bytes_per_token(dtype) == kv_bytes


def test_hybrid_attention_has_no_computable_kv(catalog: Catalog) -> None:
    assert {model.id for model in catalog.models.values() if not model.uniform} == HYBRID
    for model_id in HYBRID:
        with pytest.raises(InputError, match="cannot be computed: its layers differ"):
            catalog.model(model_id).kv_bytes_per_token()
    assert catalog.model("Qwen3.5-397B-A17B").parameters() == 397 * 10**9
    assert catalog.model("Qwen3.5-397B-A17B").active_parameters() == 17 * 10**9
    with pytest.raises(InputError, match="neither published nor computable"):
        catalog.model("DeepSeek-V4-Pro").parameters()


def test_active_parameters_of_mixtures_match_what_is_published(catalog: Catalog) -> None:
    mixtures = [m for m in catalog.models.values() if m.uniform and m.experts and m.published_active]
    assert len(mixtures) >= 14
    for model in mixtures:
        # gpt-oss publishes its active parameters without the embedding tables
        tables = model.vocab * model.hidden if model.family == "gpt" else 0
        assert math.isclose(model.active_parameters() - tables, model.published_active, rel_tol=0.035), model.id


def test_weights_split_into_what_every_pass_reads_and_the_experts(catalog: Catalog) -> None:
    for model in catalog.models.values():
        if not model.uniform:
            continue
        total = model.linear_parameters() + model.expert_parameters()
        unread = 0 if model.tied_embeddings and not model.encoder else model.vocab * model.hidden
        assert total + unread == model.parameters(), model.id
        assert model.active_parameters() <= model.parameters()


def test_layers_of_mixtures(catalog: Catalog) -> None:
    assert catalog.model("DeepSeek-V3").moe_layers == 58  # 3 of 61 are dense
    assert catalog.model("Llama-4-Maverick-17B-128E-Instruct").moe_layers == 24  # every second of 48
    assert catalog.model("Qwen3-8B").moe_layers == 0
    assert catalog.model("Qwen3-8B").expert_parameters() == 0


def test_attention_width(catalog: Catalog) -> None:
    assert catalog.model("Meta-Llama-3.1-70B").attention_dim() == 8192
    assert catalog.model("Qwen3-32B").attention_dim() == 64 * 128  # wider than its hidden 5120
    assert catalog.model("DeepSeek-V3").attention_dim() == 128 * (128 + 64 + 128) // 2


@pytest.mark.parametrize(
    ("dtype", "width"), [("bf16", 2), ("fp8", 1), ("int8", 1), ("fp4", 0.5), ("int4", 0.5), ("fp32", 4)]
)
def test_weight_bytes(catalog: Catalog, dtype: str, width: float) -> None:
    model = catalog.model("Meta-Llama-3.1-8B")
    assert model.weight_bytes(dtype) == model.parameters() * width
    assert BYTES_PER_VALUE[dtype] == width


def test_published_formats(catalog: Catalog) -> None:
    formats = {key: catalog.model(key).dtype for key in ("DeepSeek-V3", "gpt-oss-20b", "Llama-2-7B", "Grok-1")}
    assert formats == {"DeepSeek-V3": "fp8", "gpt-oss-20b": "fp4", "Llama-2-7B": "bf16", "Grok-1": "int8"}
    assert canonical_dtype("torch.bfloat16") == "bf16"
    assert bytes_per_value("mxfp4") == 0.5
    with pytest.raises(UnknownNameError):
        canonical_dtype("fp6")


def test_sources(catalog: Catalog) -> None:
    assert catalog.model("Qwen3-8B").source.grade == Grade.VENDOR
    assert catalog.model("BLOOM-176B").source.grade == Grade.RECALLED


def _model(text: str, tmp_path: Path) -> Model:
    path = tmp_path / "models.csv"
    path.write_text(text)
    return Catalog.load(path).model("mine")


HEADER = "id,layers,hidden,heads,kv_heads,head_dim,ffn_dense,vocab,experts,top_k,moe_ffn,kv_lora_rank,source\n"


def test_a_users_own_model(tmp_path: Path) -> None:
    model = _model(HEADER + "mine,2,64,4,2,16,128,512,,,,,measured: config.json\n", tmp_path)
    # per layer: q, o 64 x 64, k, v 64 x 32, three 64 x 128 matrices; two tables of 512 x 64
    assert model.parameters() == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128) + 2 * 512 * 64
    assert model.source.grade == Grade.MEASURED


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("mine,2,64,4,2,16,128,512,,,,,", "'source' must not be empty"),
        ("mine,2,64,4,2,16,,512,,,,,x", "needs ffn_dense or experts"),
        ("mine,2,64,4,2,16,128,512,8,9,32,,x", "top_k within 1..experts"),
        ("mine,2,64,4,2,16,128,512,,,,8,x", "needs qk_nope_dim"),
        ("mine,2,64,4,3,16,128,512,,,,,x", "multiple of kv_heads"),
        ("mine,2.5,64,4,2,16,128,512,,,,,x", "whole number"),
        ("mine,-2,64,4,2,16,128,512,,,,,x", "not negative"),
        ("mine,0,64,4,2,16,128,512,,,,,x", "above zero"),
        (",2,64,4,2,16,128,512,,,,,x", "'id' must not be empty"),
    ],
)
def test_a_shape_that_makes_no_sense_is_refused_with_its_line(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        _model(HEADER + row + "\n", tmp_path)
    assert str(caught.value.where).endswith("models.csv:2")
