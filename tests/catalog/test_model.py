"""Models: parameters and KV from the shape, against what their makers publish."""

from __future__ import annotations

import csv
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterarch.catalog import BYTES_PER_VALUE, Catalog, Model, bytes_per_value, canonical_dtype
from heterarch.catalog.catalog import DATA
from heterarch.errors import InputError, UnknownNameError
from heterarch.units import Grade

#: published rounded ("1 T", "1.7 B"), or with parts that the shape leaves out (MTP head, vision tower)
NOT_WITHIN_1_PERCENT = {
    *("MiMo-7B-Base", "Llama-4-Scout-17B-16E-Instruct", "Kimi-K2-Instruct", "Kimi-K2.5", "Phi-2", "OPT-13B"),
    *("gemma-4-26B-A4B", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "DeepSeek-V4-Pro", "Qwen3-1.7B"),
}
#: published rounded to a digit ("A3B")
ROUNDED_ACTIVE = {"Qwen3-Next-80B-A3B", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "gemma-4-26B-A4B"}
NOT_UNIFORM = {
    *("gpt-oss-120b", "gpt-oss-20b", "gemma-2-9B", "gemma-2-27B", "gemma-3-27B", "gemma-4-26B-A4B"),
    *("Llama-4-Maverick-17B-128E-Instruct", "Llama-4-Scout-17B-16E-Instruct", "DeepSeek-V3.2", "GLM-5"),
    *("Qwen3.5-397B-A17B", "Qwen3-Next-80B-A3B", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"),
    *("DeepSeek-V4-Pro", "DeepSeek-V4-Flash"),
}


@cache
def packaged() -> Catalog:
    return Catalog.load()


def _rows() -> list[dict[str, str]]:
    with (DATA / "models.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_parameters_match_what_is_published(catalog: Catalog) -> None:
    close = {
        model.id
        for model in catalog.models.values()
        if abs(model.parameters() / model.published_parameters - 1) <= 0.01
    }
    assert len(close) >= 59
    assert set(catalog.models) - close == NOT_WITHIN_1_PERCENT
    for model_id in NOT_WITHIN_1_PERCENT:
        model = catalog.model(model_id)
        assert model.parameters() == pytest.approx(model.published_parameters, rel=0.09), model_id


def test_parameters_match_the_self_check_column(catalog: Catalog) -> None:
    computed = {row["id"]: float(row["params_computed_b"]) for row in _rows() if row["params_computed_b"]}
    assert len(computed) == 51
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


def test_layers_that_differ_say_where_that_comes_from(catalog: Catalog) -> None:
    differ = {m.id for m in catalog.models.values() if [part.kind for part in m.attention] != ["full"]}
    assert differ == NOT_UNIFORM == {m.id for m in catalog.models.values() if m.attention_source}
    assert all(catalog.model(model_id).attention_source.grade == Grade.RECALLED for model_id in differ)


@pytest.mark.parametrize(
    ("model", "kinds", "growth", "fixed"),
    [
        ("Meta-Llama-3.1-8B", {"full": 32}, 131_072, 0),
        ("gpt-oss-120b", {"full": 18, "window": 18}, 36_864, 36_864 * 128),
        ("gemma-2-9B", {"full": 21, "window": 21}, 172_032, 172_032 * 4096),
        ("gemma-3-27B", {"full": 10, "window": 52}, 10 * 8192, 52 * 8192 * 1024),
        # full layers: 2 KV heads of 512; windows: 8 of 256
        ("gemma-4-26B-A4B", {"full": 5, "window": 25}, 5 * 4096, 25 * 8192 * 1024),
        # 128 index values of 8 bits and a scale beside each latent of 576 values
        ("DeepSeek-V3.2", {"sparse": 61}, 61 * (576 * 2 + 132), 0),
        ("GLM-5", {"sparse": 78}, 78 * (576 * 2 + 132), 0),
        # 64 states of 128 x 128 in 32 bits, and 3 inputs of the convolution of 12,288 channels
        ("Qwen3.5-397B-A17B", {"full": 15, "linear": 45}, 30_720, 45 * (64 * 128 * 128 * 4 + 3 * 12_288 * 2)),
        (
            "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
            {"full": 6, "linear": 23},
            6144,
            23 * (64 * 64 * 128 * 4 + 3 * 6144 * 2),
        ),
        # every layer keeps 128 tokens; entries of 4 tokens have an index key, those of 128 have none
        (
            "DeepSeek-V4-Pro",
            {"compressed": 61},
            30 * (1024 + 132) / 4 + 31 * 1024 / 128,
            61 * 128 * 1024,
        ),
    ],
)
def test_the_cache_of_layers_that_differ(
    catalog: Catalog, model: str, kinds: dict[str, int], growth: float, fixed: int
) -> None:
    found = catalog.model(model)
    layers: dict[str, int] = {}
    for part in found.attention:
        layers[part.kind] = layers.get(part.kind, 0) + part.layers
    assert layers == kinds
    assert found.kv_growth_bytes() == growth
    tokens = 65_536
    assert found.kv_bytes(tokens) == round(fixed + growth * tokens)


def test_within_the_window_the_cache_grows_with_every_layer(catalog: Catalog) -> None:
    oss = catalog.model("gpt-oss-20b")
    assert oss.kv_bytes(100) == 100 * oss.kv_bytes_per_token()
    assert oss.kv_bytes(100, "fp8") == 100 * oss.kv_bytes_per_token("fp8")
    assert oss.kv_bytes(0) == 0


def test_active_parameters_of_mixtures_match_what_is_published(catalog: Catalog) -> None:
    mixtures = [m for m in catalog.models.values() if m.experts]
    assert len(mixtures) >= 22
    for model in mixtures:
        active, published = model.active_parameters(), model.published_active
        if model.id in ROUNDED_ACTIVE:
            assert active == pytest.approx(published, rel=0.3), model.id
            continue
        # some publish their active parameters without the embedding, or without both tables
        without = (0, model.vocab * model.hidden, 2 * model.vocab * model.hidden)
        assert any(math.isclose(active - part, published, rel_tol=0.035) for part in without), model.id


def test_attention_work_of_full_layers(catalog: Catalog) -> None:
    llama = catalog.model("Meta-Llama-3.1-8B")
    each = 32 * 4 * 32 * 128  # layers x 4 x heads x head size
    assert llama.attention_flops(1000) == each * 1000**2 / 2
    assert llama.attention_flops(1000, done=500) == each * (1000 * 500 + 1000**2 / 2)
    assert llama.attention_flops(1, done=8000) == pytest.approx(each * 8000.5)
    (latent,) = catalog.model("DeepSeek-V3").attention
    assert latent.prefill_flops == 2 * 128 * (192 + 128)  # uncompressed
    assert latent.decode_flops == 2 * 128 * (576 + 512)  # absorbed


def test_attention_work_is_bounded_by_window_selection_and_state(catalog: Catalog) -> None:
    full, window = catalog.model("gpt-oss-120b").attention
    assert (window.attended(50), window.attended(10_000)) == (50, 128)
    assert window.pairs(10_000) == 128**2 / 2 + (10_000 - 128) * 128
    assert full.pairs(10_000) == 10_000**2 / 2
    (sparse,) = catalog.model("DeepSeek-V3.2").attention
    assert sparse.attended(100_000) == 2048
    index = 61 * 2 * 64 * 128  # the index scans every token
    assert sparse.flops(1, 100_000) == pytest.approx(61 * sparse.decode_flops * 2048 + index * 100_000.5)
    selected, dense = catalog.model("DeepSeek-V4-Pro").attention
    assert selected.attended(1_000_000) == 128 + 1024
    lengths = np.array([10.0, 1000.0, 1e6])
    assert list(selected.pairs(lengths, 50)) == [selected.pairs(length, 50) for length in lengths]
    assert list(selected.attended(lengths)) == [selected.attended(length) for length in lengths]
    assert dense.attended(1_280_000) == 128 + 10_000
    _, state = catalog.model("Qwen3.5-397B-A17B").attention
    assert state.flops(1, 10) == state.flops(1, 100_000) > 0


@settings(deadline=None)
@given(
    model=st.sampled_from(sorted(NOT_UNIFORM | {"DeepSeek-V3", "Qwen3-8B"})),
    tokens=st.integers(0, 200_000),
    more=st.integers(1, 50_000),
)
def test_the_cache_and_the_work_never_shrink(model: str, tokens: int, more: int) -> None:
    found = packaged().model(model)
    assert found.kv_bytes(tokens) <= found.kv_bytes(tokens + more)
    for part in found.attention:
        assert part.pairs(more, tokens) >= 0
        assert part.pairs(tokens + more) == pytest.approx(part.pairs(tokens) + part.pairs(more, tokens))
        assert part.attended(tokens) <= part.attended(tokens + more)
    whole = sum(part.kept_bytes(tokens, "bf16", 1) for part in found.attention)
    split = sum(part.kept_bytes(tokens, "bf16", 8) for part in found.attention)
    assert whole / 8 <= split * (1 + 1e-9)
    assert split <= whole


def test_weights_split_into_what_every_pass_reads_and_the_experts(catalog: Catalog) -> None:
    for model in catalog.models.values():
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
