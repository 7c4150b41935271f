"""What fits beside the weights, and how many bytes are missing where they do not fit."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterarch.catalog.catalog import Catalog
from heterarch.cost.config import EngineConfig
from heterarch.cost.memory import kv_capacity_tokens, memory_fit

LLAMA = "Meta-Llama-3.1-70B"


@cache
def packaged() -> Catalog:
    return Catalog.load()


def test_kv_capacity_by_hand(catalog: Catalog) -> None:
    device = replace(catalog.device("h100-sxm"), mem_bytes=80_000_000_000)
    model = catalog.model(LLAMA)
    fit = memory_fit(EngineConfig(device, model, 4, dtype="fp8", kv_dtype="fp8"), batched_tokens=0)
    assert fit.usable_bytes == 72_000_000_000
    assert fit.weight_bytes == pytest.approx(70.55e9 / 4, rel=1e-3)
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
    assert third.weight_bytes == pytest.approx(whole.weight_bytes * 27 / 80, rel=1e-6)
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
