"""What fits beside the weights, and how many bytes are missing where they do not fit."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterarch.catalog.catalog import Catalog
from heterarch.cost.config import EngineConfig
from heterarch.cost.memory import cache_bytes, kv_capacity_tokens, longest_context, memory_fit, most_sequences

LLAMA = "Meta-Llama-3.1-70B"


@cache
def packaged() -> Catalog:
    return Catalog.load()


def test_kv_capacity_by_hand(catalog: Catalog) -> None:
    device = replace(catalog.device("h100-sxm"), mem_bytes=80_000_000_000)
    model = catalog.model(LLAMA)
    fit = memory_fit(EngineConfig(device, model, 4, dtype="fp8", kv_dtype="fp8"), batched_tokens=0)
    assert fit.usable_bytes == 72_000_000_000
    tables = 2 * model.vocab * model.hidden  # embedding and head stay in 16 bits
    assert fit.weight_bytes == pytest.approx((model.parameters() - tables + 2 * tables) / 4, rel=1e-6)
    assert fit.kv_bytes_per_token == 163_840 / 4
    assert fit.kv_tokens == int((fit.usable_bytes - fit.weight_bytes) / (163_840 / 4))
    assert fit.missing_bytes == 0


def test_kv_is_repeated_where_there_are_fewer_kv_heads_than_devices(catalog: Catalog) -> None:
    model = catalog.model("GLM-4-9B")
    fits = {tp: memory_fit(EngineConfig(catalog.device("h100-sxm"), model, tp)) for tp in (2, 8)}
    assert fits[8].kv_bytes_per_token == fits[2].kv_bytes_per_token == model.kv_bytes_per_token() / 2


def test_latent_kv_is_on_every_device(catalog: Catalog) -> None:
    model = catalog.model("DeepSeek-V3")
    fit = memory_fit(EngineConfig(catalog.device("h200-sxm"), model, 8, dtype="fp8"))
    assert fit.kv_bytes_per_token == model.kv_bytes_per_token() == 70_272


def test_stages_hold_their_layers_only(catalog: Catalog) -> None:
    model = catalog.model(LLAMA)
    whole, third = (memory_fit(EngineConfig(catalog.device("mi300x"), model, pp=pp), batched_tokens=0) for pp in (1, 3))
    model = catalog.model(LLAMA)
    table = 2 * model.vocab * model.hidden  # bytes; the first stage holds one, the last the other
    assert third.weight_bytes == pytest.approx((whole.weight_bytes - 2 * table) * 27 / 80 + table, rel=1e-6)
    assert third.kv_bytes_per_token == pytest.approx(whole.kv_bytes_per_token * 27 / 80)


def test_missing_bytes_are_told(catalog: Catalog) -> None:
    config = EngineConfig(catalog.device("rtx4090"), catalog.model(LLAMA))
    fit = memory_fit(config)
    assert fit.kv_tokens == kv_capacity_tokens(config) == 0
    assert fit.missing_bytes == fit.weight_bytes + fit.activation_bytes - fit.usable_bytes
    assert "do not fit" in fit.explain()
    assert "missing" in fit.explain()
    assert "fits" in memory_fit(EngineConfig(catalog.device("mi300x"), catalog.model(LLAMA))).explain()


def test_an_encoder_keeps_no_kv(catalog: Catalog) -> None:
    fit = memory_fit(EngineConfig(catalog.device("l4"), catalog.model("multilingual-e5-large")))
    assert (fit.kv_tokens, fit.missing_bytes, fit.kv_bytes_per_token) == (0, 0, 0)


def test_four_bit_weights_carry_their_scales_and_mxfp4_models_quantise_experts_only(catalog: Catalog) -> None:
    oss = memory_fit(EngineConfig(catalog.device("h100-sxm"), catalog.model("gpt-oss-120b"), dtype="fp4"))
    assert oss.weight_bytes == pytest.approx(65.2e9, rel=0.01)  # the published checkpoint: 65.2 GB
    r1 = EngineConfig(catalog.device("b200"), catalog.model("DeepSeek-R1"), 8, dtype="fp4")
    assert memory_fit(r1).weight_bytes * 8 == pytest.approx(671e9 * 0.5625, rel=0.01)


def test_attention_groups_repeat_attention_and_share_experts(catalog: Catalog) -> None:
    device, model = catalog.device("h200-sxm"), catalog.model("DeepSeek-V3")
    one = memory_fit(EngineConfig(device, model, 8, dtype="fp8"))
    groups = memory_fit(EngineConfig(device, model, 1, dtype="fp8", ep=8, attention_dp=8))
    other = model.parameters() - model.expert_parameters() + model.table_parameters()  # bytes: tables in 16 bits
    assert groups.weight_bytes - one.weight_bytes == pytest.approx(other * 7 / 8, rel=1e-6)
    # latent KV is on every device of a TP group, but only in its own attention group
    per_group = groups.free_bytes / groups.kv_bytes_per_token
    assert groups.kv_tokens == 8 * int(per_group) > 4 * one.kv_tokens
    assert most_sequences(EngineConfig(device, model, 1, dtype="fp8", attention_dp=8), 10_000) % 8 == 0


def test_experts_divide_alike_by_whole_experts_or_within_them(catalog: Catalog) -> None:
    device, model = catalog.device("h200-sxm"), catalog.model("DeepSeek-V3")
    fits = [memory_fit(EngineConfig(device, model, 8, dtype="fp8", ep=ep)) for ep in (1, 8)]
    assert fits[0].weight_bytes == fits[1].weight_bytes


def test_windows_and_states_are_taken_per_sequence(catalog: Catalog) -> None:
    device = catalog.device("h200-sxm")
    oss = EngineConfig(device, catalog.model("gpt-oss-120b"), dtype="fp4")
    fit = memory_fit(oss)
    assert fit.kv_bytes_per_token == 18 * 2 * 8 * 64 * 2
    assert fit.sequence_bytes == 18 * 2 * 8 * 64 * 2 * 128
    assert cache_bytes(oss, 10_000) == 10_000 * fit.kv_bytes_per_token + fit.sequence_bytes
    assert cache_bytes(oss, 100) == 2 * 100 * fit.kv_bytes_per_token

    hybrid = EngineConfig(device, catalog.model("Qwen3.5-397B-A17B"), 4, dtype="fp8")
    long, short = memory_fit(hybrid), memory_fit(hybrid, context=1000)
    assert long.sequence_bytes == pytest.approx(192.1e6 / 4, rel=1e-3)
    assert short.kv_tokens < long.kv_tokens / 3
    assert short.kv_tokens == pytest.approx(most_sequences(hybrid, 1000) * 1000, abs=1000)


@settings(deadline=None)
@given(
    context=st.integers(1, 131_072), model=st.sampled_from([LLAMA, "gpt-oss-120b", "gemma-3-27B", "Qwen3.5-397B-A17B"])
)
def test_the_longest_context_fits_and_one_token_more_does_not(context: int, model: str) -> None:
    config = EngineConfig(packaged().device("h200-sxm"), packaged().model(model), 4, dtype="fp8")
    batch = most_sequences(config, context)
    longest = longest_context(config, batch)
    assert longest >= context
    assert longest == config.model.context or most_sequences(config, longest + 1) < batch


def test_no_sequence_fits_beside_weights_that_do_not(catalog: Catalog) -> None:
    config = EngineConfig(catalog.device("rtx4090"), catalog.model(LLAMA))
    assert most_sequences(config, 1000) == longest_context(config, 1) == 0
    encoder = EngineConfig(catalog.device("l4"), catalog.model("multilingual-e5-large"))
    assert most_sequences(encoder, 512, batched_tokens=4096) == 4096
    assert longest_context(encoder, 8) == 514


@settings(deadline=None)
@given(used=st.floats(0.3, 1.0), tokens=st.integers(0, 100_000), tp=st.sampled_from([1, 2, 4, 8]))
def test_more_memory_never_holds_fewer_tokens(used: float, tokens: int, tp: int) -> None:
    config = EngineConfig(packaged().device("h200-sxm"), packaged().model(LLAMA), tp, dtype="fp8")
    less = memory_fit(config, batched_tokens=tokens, utilisation=used * 0.9)
    more = memory_fit(config, batched_tokens=tokens, utilisation=used)
    assert more.kv_tokens >= less.kv_tokens
    assert more.missing_bytes <= less.missing_bytes
    held = more.kv_tokens * more.kv_bytes_per_token
    assert more.kv_tokens == 0 or more.weight_bytes + more.activation_bytes + held <= more.usable_bytes + 1
    assert kv_capacity_tokens(config, batched_tokens=tokens + 8192, utilisation=used) <= more.kv_tokens
