"""The step cost: against printed passes, by hand, as a table, and what must hold for every configuration."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.device import Device
from heterarch.cost.efficiency import BY_CLASS, BY_DEVICE, Efficiency, eager, efficiency
from heterarch.cost.engine import (
    EngineConfig,
    decode_s,
    engine_configs,
    engine_table,
    prefill_s,
    step_cost,
    step_source,
)
from heterarch.cost.step import step_time_s
from heterarch.errors import InputError
from heterarch.units import Grade, Source

LLAMA, QWEN = "Meta-Llama-3.1-70B", "Qwen3-32B"
IDEAL = Efficiency(
    compute={"": 1.0},
    weight_bandwidth=1.0,
    attention_compute=1.0,
    attention_bandwidth={"": 1.0},
    elementwise_bandwidth=math.inf,
    kernel_s=0.0,
    step_s=0.0,
    sequence_s=0.0,
    link=1.0,
    all_reduce_s=0.0,
    all_reduce_device_s=0.0,
    hop_s=0.0,
    source=Source(Grade.DECLARED, "no losses"),
)


@cache
def packaged() -> Catalog:
    return Catalog.load()


@pytest.mark.parametrize(
    ("device", "model", "tp", "tokens", "printed_ms"),
    [
        ("h100-sxm", LLAMA, 1, 4000, 455.564),
        ("h100-sxm", LLAMA, 1, 512, 64.123),
        ("h100-sxm", LLAMA, 4, 4096, 190.4),
        ("h100-sxm", LLAMA, 8, 4096, 136.6),
        ("b200", LLAMA, 1, 4096, 236.6),
        ("h200-sxm", QWEN, 1, 4000, 268.116),
    ],
)
def test_prefill_of_aiconfigurator_points(
    catalog: Catalog, device: str, model: str, tp: int, tokens: int, printed_ms: float
) -> None:
    config = EngineConfig(catalog.device(device), catalog.model(model), tp, dtype="fp8", kv_dtype="fp8")
    assert prefill_s(step_cost(config), tokens) * 1e3 == pytest.approx(printed_ms, rel=0.20)


def test_decode_of_an_aiconfigurator_point(catalog: Catalog) -> None:
    config = EngineConfig(catalog.device("h100-sxm"), catalog.model(LLAMA), 4, dtype="fp8", kv_dtype="fp8")
    assert decode_s(step_cost(config), 76, 4250) * 1e3 == pytest.approx(17.427, rel=0.20)


def test_a_lossless_engine_is_the_plain_roofline(catalog: Catalog) -> None:
    device, model = catalog.device("h100-sxm"), catalog.model("Meta-Llama-3.1-8B")
    cost = step_cost(EngineConfig(device, model, efficiency=IDEAL))
    linear = model.linear_parameters()
    assert cost.weight_s == pytest.approx(2 * linear / device.mem_bytes_per_s)
    head = model.vocab * model.hidden
    assert cost.token_s == pytest.approx(2 * (linear - head) / device.peak("bf16"))
    assert cost.sequence_s == pytest.approx(2 * head / device.peak("bf16"))
    assert cost.context_s == pytest.approx(model.kv_bytes_per_token() / device.mem_bytes_per_s)
    assert cost.pair_s == pytest.approx(4 * 32 * 32 * 128 / device.peak("bf16"))
    assert (cost.fixed_s, cost.expert_s, cost.comm_s) == (0, 0, 0)
    batch, context = 4, 1000
    assert decode_s(cost, batch, context) == pytest.approx(
        cost.weight_s + batch * context * cost.context_s + batch * cost.sequence_s
    )


def test_tensor_parallelism_divides_work_and_adds_two_all_reduces_per_layer(catalog: Catalog) -> None:
    device, model = catalog.device("h100-sxm"), catalog.model(LLAMA)
    share = replace(IDEAL, all_reduce_s=5e-6, all_reduce_device_s=1e-6)
    one, four = (step_cost(EngineConfig(device, model, tp, efficiency=share)) for tp in (1, 4))
    for field in ("weight_s", "token_s", "pair_s", "context_s"):
        assert getattr(four, field) == pytest.approx(getattr(one, field) / 4)
    assert four.fixed_s == pytest.approx(2 * 80 * 7e-6)
    bus = 2 * (3 / 4) * 8192 * 2
    assert four.comm_s == pytest.approx(2 * 80 * bus / (device.scaleup_bytes_per_s or 0))


def test_kv_heads_bound_how_far_context_divides(catalog: Catalog) -> None:
    model = catalog.model("GLM-4-9B")
    assert model.kv_heads == 2
    two, eight = (step_cost(EngineConfig(catalog.device("h100-sxm"), model, tp, efficiency=IDEAL)) for tp in (2, 8))
    assert eight.context_s == pytest.approx(two.context_s)


def test_latent_attention_reads_its_small_kv_on_every_device(catalog: Catalog) -> None:
    device, model = catalog.device("h200-sxm"), catalog.model("DeepSeek-V3")
    cost = step_cost(EngineConfig(device, model, 8, dtype="fp8", efficiency=IDEAL))
    read = 61 * (512 + 64) * 2 / device.mem_bytes_per_s
    absorbed = 61 * 2 * 128 * (2 * 512 + 64) / (8 * device.peak("bf16"))
    assert cost.context_s == pytest.approx(max(read, absorbed))
    alone = step_cost(EngineConfig(device, model, 1, dtype="fp8", efficiency=IDEAL))
    assert alone.context_s == pytest.approx(max(read, 8 * absorbed))


def test_experts_are_read_as_tokens_need_them(catalog: Catalog) -> None:
    model = catalog.model("Qwen3-235B-A22B")
    cost = step_cost(EngineConfig(catalog.device("h200-sxm"), model, 8, dtype="fp8", efficiency=IDEAL))
    assert cost.expert_share == pytest.approx(8 / 128)
    bandwidth = 8 * catalog.device("h200-sxm").mem_bytes_per_s
    assert cost.expert_s == pytest.approx(model.expert_parameters() / bandwidth)
    one = step_time_s(cost, 1, 0, 0, 0)
    assert one == pytest.approx(cost.weight_s + cost.expert_s * 8 / 128 + cost.comm_s)
    many = cost.weight_s + cost.expert_s
    assert step_time_s(cost, 200, 0, 0, 0) - 200 * cost.comm_s == pytest.approx(many, rel=1e-4)
    active = model.active_parameters() - 2 * model.vocab * model.hidden
    assert cost.token_s == pytest.approx(2 * active / (8 * catalog.device("h200-sxm").peak("fp8")), rel=1e-3)


def test_pipeline_keeps_the_pass_and_divides_what_tokens_add(catalog: Catalog) -> None:
    device, model = catalog.device("h100-sxm"), catalog.model(LLAMA)
    one, four = (step_cost(EngineConfig(device, model, 1, pp, efficiency=IDEAL)) for pp in (1, 4))
    assert four.weight_s == pytest.approx(one.weight_s)
    for field in ("token_s", "pair_s", "context_s"):
        assert getattr(four, field) == pytest.approx(getattr(one, field) / 4)
    moe = catalog.model("Mixtral-8x7B-v0.1")
    share = step_cost(EngineConfig(device, moe, 1, 4, efficiency=IDEAL)).expert_share
    assert (1 - share) ** 100 == pytest.approx((1 - 2 / 8) ** 25)


def test_a_format_the_device_lacks_is_stored_narrow_and_computed_wide(catalog: Catalog) -> None:
    device, model = catalog.device("a100-80-sxm"), catalog.model("Meta-Llama-3.1-8B")
    wide, narrow = (step_cost(EngineConfig(device, model, dtype=dtype)) for dtype in ("bf16", "fp8"))
    assert narrow.token_s == pytest.approx(wide.token_s)
    assert narrow.weight_s == pytest.approx(wide.weight_s / 2)


def test_eager_launches_cost_what_weight_reads_do_not_hide(catalog: Catalog) -> None:
    device, model = catalog.device("h100-sxm"), catalog.model(LLAMA)
    slow = eager(efficiency(device))
    graph = step_cost(EngineConfig(device, model, 8, efficiency=replace(slow, launch_s=0.0)))
    launched = step_cost(EngineConfig(device, model, 8, efficiency=slow))
    assert launched.fixed_s - slow.step_s + launched.weight_s == pytest.approx(80 * 10 * slow.launch_s)
    assert launched.fixed_s > graph.fixed_s
    single = step_cost(EngineConfig(device, model, 1, efficiency=slow))
    hidden = step_cost(EngineConfig(device, model, 1, efficiency=replace(slow, launch_s=0.0)))
    assert single.fixed_s == pytest.approx(hidden.fixed_s), "at TP 1 the device is slower than the host"


def test_the_table_equals_one_config_at_a_time(catalog: Catalog) -> None:
    devices = [catalog.device(name) for name in ("h100-sxm", "b200", "mi300x", "gaudi3", "rtx4090")]
    models = [catalog.model(name) for name in (LLAMA, "Qwen3-30B-A3B", "DeepSeek-V3", "GLM-4-9B")]
    configs = list(engine_configs(devices, models, pp=(1, 2)))
    table = engine_table(configs)
    assert len(table) + len(table.left_out) == len(configs)
    assert len(table) > 50
    for index, config in enumerate(table.configs):
        alone = step_cost(config)
        assert table.row(index) == pytest.approx(alone)
        assert table.devices[index] == config.devices
        assert table.kv_bytes_per_token[index] == config.model.kv_bytes_per_token(config.kv_dtype)
    seconds = decode_s(table.columns(), np.array([1, 8, 64])[None, :], 2000)
    assert seconds.shape == (len(table), 3)
    assert seconds[3, 2] == pytest.approx(float(decode_s(step_cost(table.configs[3]), 64, 2000)))
    part = table.take([5, 2])
    assert part.configs == (table.configs[5], table.configs[2])
    assert part.row(1) == table.row(2)


def test_what_cannot_run_is_left_out_with_its_reason(catalog: Catalog) -> None:
    small, unknown = catalog.device("rtx4090"), catalog.device("ascend-910b")
    configs = [
        EngineConfig(small, catalog.model(LLAMA)),
        EngineConfig(unknown, catalog.model("Qwen3-8B")),
        EngineConfig(small, catalog.model("Qwen3-0.6B")),
    ]
    table = engine_table(configs)
    assert table.configs == (configs[2],)
    reasons = [left.reason for left in table.left_out]
    assert "missing" in reasons[0]
    assert "no peak is known" in reasons[1]
    assert len(engine_table([])) == 0


@pytest.mark.parametrize(("tp", "pp", "text"), [(3, 1, "does not divide the 64"), (1, 81, "more than the 80 layers")])
def test_impossible_splits(catalog: Catalog, tp: int, pp: int, text: str) -> None:
    with pytest.raises(InputError, match=text):
        EngineConfig(catalog.device("h100-sxm"), catalog.model(LLAMA), tp, pp)
    with pytest.raises(InputError, match="at least 1"):
        EngineConfig(catalog.device("h100-sxm"), catalog.model(LLAMA), 0)


def test_a_prediction_says_what_it_rests_on(catalog: Catalog) -> None:
    model = catalog.model("Meta-Llama-3.1-8B")
    fitted = step_source(EngineConfig(catalog.device("h100-sxm"), model))
    assert fitted.grade is Grade.DERIVED
    assert "aiconfigurator-core" in fitted.citation
    assert step_source(EngineConfig(catalog.device("gaudi3"), model)).grade is Grade.GUESS


def test_every_device_has_shares_with_a_source(catalog: Catalog) -> None:
    classes = {device.device_class for device in catalog.devices.values()}
    assert classes <= set(BY_CLASS)
    assert set(BY_DEVICE) <= set(catalog.devices)
    for share in (*BY_CLASS.values(), *BY_DEVICE.values()):
        values = (*share.compute.values(), *share.attention_bandwidth.values(), share.weight_bandwidth, share.link)
        assert all(0 < value <= 1 for value in values)
        assert share.source.citation


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_more_work_never_takes_less_time(data: Any) -> None:
    device: Device = packaged().device(data.draw(st.sampled_from(["h100-sxm", "b200", "gaudi3", "mi300x"])))
    model = packaged().model(data.draw(st.sampled_from([LLAMA, "Qwen3-30B-A3B", "DeepSeek-V3", "gpt-oss-20b"])))
    tp, pp = data.draw(st.sampled_from([1, 2, 4, 8])), data.draw(st.sampled_from([1, 2]))
    cost = step_cost(EngineConfig(device, model, tp, pp, data.draw(st.sampled_from(["bf16", "fp8"]))))
    assert all(math.isfinite(value) and value >= 0 for value in cost)
    batch, context = data.draw(st.integers(1, 512)), data.draw(st.integers(1, 200_000))
    assert decode_s(cost, batch + 1, context) >= decode_s(cost, batch, context)
    assert decode_s(cost, batch, context + 1) >= decode_s(cost, batch, context)
    assert prefill_s(cost, context + 1) >= prefill_s(cost, context)
    assert prefill_s(cost, batch, context + 1) >= prefill_s(cost, batch, context)
    whole, split = prefill_s(cost, 2 * batch), prefill_s(cost, batch) + prefill_s(cost, batch, batch)
    assert split >= whole * (1 - 1e-9), "chunks cost at least as much as the whole"


def test_four_bit_weights_compute_in_16_bits_where_the_device_has_no_fp4() -> None:
    catalog = Catalog.load()
    model = catalog.model("Meta-Llama-3.1-8B")
    formats = {
        (name, dtype): EngineConfig(catalog.device(name), model, dtype=dtype).compute_dtype
        for name in ("h100-sxm", "b200")
        for dtype in ("fp4", "mxfp4", "fp8", "bf16")
    }
    assert [formats["h100-sxm", d] for d in ("fp4", "mxfp4", "fp8", "bf16")] == ["bf16", "bf16", "fp8", "bf16"]
    assert [formats["b200", d] for d in ("fp4", "mxfp4", "fp8", "bf16")] == ["fp4", "fp4", "fp8", "bf16"]
