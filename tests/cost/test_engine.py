"""The step cost of engines: one at a time, as a table, what it rests on, and what must hold for every configuration."""

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
from heterarch.cost.engine import (
    EngineConfig,
    decode_s,
    engine_configs,
    engine_table,
    prefill_s,
    step_cost,
    step_source,
)
from heterarch.errors import InputError
from heterarch.units import Grade

LLAMA8, LLAMA70 = "Meta-Llama-3.1-8B", "Meta-Llama-3.1-70B"


@cache
def packaged() -> Catalog:
    return Catalog.load()


# ---- what an engine is


@pytest.mark.parametrize(
    ("model", "fields", "text"),
    [
        (LLAMA70, {"tp": 3}, "does not divide the 64"),
        (LLAMA70, {"pp": 81}, "more than the 80 layers"),
        (LLAMA70, {"tp": 0}, "tp of at least 1"),
        (LLAMA70, {"attention_dp": 0}, "attention_dp of at least 1"),
        (LLAMA70, {"tp": 8, "ep": 8}, "ep 8 does not divide the experts"),
        ("DeepSeek-V3", {"tp": 8, "ep": 3}, "ep 3 does not divide the experts"),
        ("DeepSeek-V3", {"tp": 4, "ep": 8}, "tp x attention_dp = 4 devices"),
    ],
)
def test_impossible_splits(catalog: Catalog, model: str, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        EngineConfig(catalog.device("h100-sxm"), catalog.model(model), **fields)
    assert text in str(caught.value)


def test_devices_of_an_engine_and_its_name(catalog: Catalog) -> None:
    config = EngineConfig(catalog.device("h200-sxm"), catalog.model("DeepSeek-V3"), 2, 2, "fp8", attention_dp=4, ep=8)
    assert (config.group, config.devices) == (8, 16)
    assert config.name == "h200-sxm TP2 PP2 DP4 EP8 fp8"
    assert EngineConfig(catalog.device("b200"), catalog.model(LLAMA8)).name == "b200 TP1 bf16"


def test_four_bit_weights_compute_in_16_bits_where_the_device_has_no_fp4(catalog: Catalog) -> None:
    formats = {
        name: [
            EngineConfig(catalog.device(name), catalog.model(LLAMA8), dtype=dtype).compute_dtype
            for dtype in ("fp4", "mxfp4", "fp8", "bf16")
        ]
        for name in ("a100-80-sxm", "h100-sxm", "b200")
    }
    assert formats == {
        "a100-80-sxm": ["bf16", "bf16", "bf16", "bf16"],
        "h100-sxm": ["bf16", "bf16", "fp8", "bf16"],
        "b200": ["fp4", "fp4", "fp8", "bf16"],
    }


def test_four_bit_weights_decode_faster_and_prefill_no_faster_on_hopper(catalog: Catalog) -> None:
    wide, narrow = (
        step_cost(EngineConfig(catalog.device("h100-sxm"), catalog.model(LLAMA70), 4, dtype=dtype))
        for dtype in ("bf16", "fp4")
    )
    assert decode_s(narrow, 8, 500) < 0.6 * decode_s(wide, 8, 500)
    assert prefill_s(narrow, 8192) == pytest.approx(prefill_s(wide, 8192), rel=0.25)


# ---- the table


def test_the_table_equals_one_config_at_a_time(catalog: Catalog) -> None:
    devices = [catalog.device(name) for name in ("h100-sxm", "b200", "gaudi3", "rtx4090")]
    models = [catalog.model(name) for name in (LLAMA70, "Qwen3-30B-A3B", "DeepSeek-V3")]
    configs = list(engine_configs(devices, models, tp=(1, 8), pp=(1, 2)))
    table = engine_table(configs)
    assert len(table) + len(table.left_out) == len(configs) == 96
    assert len(table) > 40
    for index, config in enumerate(table.configs):
        for alone, row in zip(step_cost(config), table.row(index), strict=True):
            assert row == pytest.approx(alone)
        assert table.devices[index] == config.devices
        assert table.kv_bytes_per_token[index] == config.model.kv_bytes_per_token(config.kv_dtype)
        assert table.kv_tokens[index] > 0
    seconds = decode_s(table.columns(), np.array([1, 8, 64])[None, :], 2000)
    assert seconds.shape == (len(table), 3)
    assert seconds[3, 2] == pytest.approx(float(decode_s(step_cost(table.configs[3]), 64, 2000)))
    part = table.take([5, 2])
    assert part.configs == (table.configs[5], table.configs[2])
    assert all(np.array_equal(a, b) for a, b in zip(part.row(1), table.row(2), strict=True))
    assert part.left_out == table.left_out


def test_what_cannot_run_is_left_out_with_its_reason(catalog: Catalog) -> None:
    small, unknown = catalog.device("rtx4090"), catalog.device("ascend-910b")
    configs = [
        EngineConfig(small, catalog.model(LLAMA70)),
        EngineConfig(unknown, catalog.model("Qwen3-8B")),
        EngineConfig(small, catalog.model("Qwen3-0.6B")),
    ]
    table = engine_table(configs)
    assert table.configs == (configs[2],)
    reasons = {left.config: left.reason for left in table.left_out}
    assert "missing" in reasons[configs[0]]
    assert "no peak is known" in reasons[configs[1]]
    assert len(engine_table([])) == 0


def test_encoders_have_a_row(catalog: Catalog) -> None:
    config = EngineConfig(catalog.device("l4"), catalog.model("multilingual-e5-large"))
    table = engine_table([config])
    assert table.configs == (config,)
    assert table.kv_bytes_per_token.tolist() == [0]
    assert prefill_s(table.row(0), 512) > 0


def test_all_splits_that_divide_the_model(catalog: Catalog) -> None:
    found = engine_configs(
        [catalog.device("h100-sxm")], [catalog.model("Phi-4")], dtypes=("bf16",), tp=(1, 2, 3, 8), pp=(1, 50)
    )
    assert [(config.tp, config.pp) for config in found] == [(1, 1), (2, 1), (8, 1)], "40 heads, 40 layers"


# ---- what it rests on


def test_a_prediction_says_what_it_rests_on(catalog: Catalog) -> None:
    model = catalog.model(LLAMA8)
    sources = {
        name: step_source(EngineConfig(catalog.device(name), model, dtype="fp8"))
        for name in ("h100-sxm", "h200-sxm", "gaudi3", "l40s")
    }
    assert sources["h100-sxm"].grade is Grade.DERIVED
    assert "on h100-sxm" in sources["h100-sxm"].citation
    assert sources["h200-sxm"].grade is Grade.DERIVED
    assert "a chip of the same architecture" in sources["h200-sxm"].citation
    assert sources["gaudi3"].grade is Grade.GUESS
    assert "gaudi3" not in sources["gaudi3"].citation.split(";")[0] or "class" in sources["gaudi3"].citation
    assert sources["l40s"].grade is Grade.GUESS
    assert "other architectures" in sources["l40s"].citation


def test_a_changed_device_changes_the_prediction(catalog: Catalog) -> None:
    """What-if: the same id with twice the bandwidth is another device."""
    device, model = catalog.device("h100-sxm"), catalog.model(LLAMA8)
    faster = replace(device, mem_bytes_per_s=2 * device.mem_bytes_per_s)
    before, after = (decode_s(step_cost(EngineConfig(one, model)), 1, 1000) for one in (device, faster))
    assert after < 0.7 * before


# ---- what must hold for all


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_more_work_never_takes_less_time(data: Any) -> None:
    device: Device = packaged().device(data.draw(st.sampled_from(["h100-sxm", "b200", "gaudi3", "mi300x"])))
    model = packaged().model(data.draw(st.sampled_from([LLAMA70, "Qwen3-30B-A3B", "DeepSeek-V3", "gpt-oss-20b"])))
    tp, pp = data.draw(st.sampled_from([1, 8])), data.draw(st.sampled_from([1, 2]))
    cost = step_cost(EngineConfig(device, model, tp, pp, data.draw(st.sampled_from(["bf16", "fp8"]))))
    assert all(math.isfinite(value) and value >= 0 for value in cost._replace(bends_s=0.0))
    batch, context = data.draw(st.integers(1, 512)), data.draw(st.integers(1, 200_000))
    slack = 1 - 1e-9
    assert decode_s(cost, batch + 1, context) >= decode_s(cost, batch, context) * slack
    assert decode_s(cost, batch, context + 1) >= decode_s(cost, batch, context) * slack
    assert prefill_s(cost, context + 1) >= prefill_s(cost, context) * slack
    assert prefill_s(cost, batch, context + 1) >= prefill_s(cost, batch, context) * slack
    whole, split = prefill_s(cost, 2 * batch), prefill_s(cost, batch) + prefill_s(cost, batch, batch)
    assert split >= 0.9 * whole, "chunks cost nearly as much as the whole at least"
