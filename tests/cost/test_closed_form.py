"""The closed form of an iteration: exact where kernels have no losses, near the sum of kernels where they have."""

from __future__ import annotations

from typing import Any

import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.closed_form import closed_form
from heterarch.cost.config import EngineConfig
from heterarch.cost.engine import decode_s, prefill_s
from heterarch.cost.explain import explain
from heterarch.cost.host import Host
from heterarch.cost.step import step_time_s
from heterarch.units import Grade, Source

from .conftest import NO_HOST, Ideal

LLAMA8, LLAMA70 = "Meta-Llama-3.1-8B", "Meta-Llama-3.1-70B"
BYTES_PER_S, FLOPS_PER_S = 3.35e12, 989e12  # h100-sxm


def host(**seconds: float) -> Host:
    fields = {"step_s": 0.0, "sequence_s": 0.0, "hop_s": 0.0, "launch_s": 0.0} | seconds
    return Host(**fields, source=Source(Grade.DECLARED, "by hand"))


def test_a_decode_step_is_weights_once_and_context(ideal: Ideal) -> None:
    config = ideal("h100-sxm", LLAMA8)
    model, cost = config.model, closed_form(config)
    read = 2 * model.linear_parameters() / BYTES_PER_S
    assert cost.context_s == pytest.approx(model.kv_bytes_per_token() / BYTES_PER_S)
    context = 4 * 3000 * cost.context_s
    assert decode_s(cost, 4, 3000) == pytest.approx(read + context, rel=0.01), "activations of 4 tokens are small"


def test_a_long_prefill_is_two_flop_per_weight_and_its_pairs(ideal: Ideal) -> None:
    config = ideal("h100-sxm", LLAMA8)
    model, cost = config.model, closed_form(config)
    weights = model.linear_parameters() - model.vocab * model.hidden
    for done in (0, 20_000):
        pairs = 8192 * (done + 8192 / 2)
        by_hand = (
            2 * weights * 8192 + 4 * 32 * 4096 * pairs
        ) / FLOPS_PER_S + 2 * model.vocab * model.hidden / BYTES_PER_S
        assert prefill_s(cost, 8192, done) == pytest.approx(by_hand, rel=0.02)
    assert cost.pair_s == pytest.approx(4 * 32 * 4096 / FLOPS_PER_S, rel=0.05)


def test_tensor_parallelism_divides_and_adds_all_reduces(ideal: Ideal) -> None:
    one, four = (closed_form(ideal("h100-sxm", LLAMA70, tp)) for tp in (1, 4))
    assert four.context_s == pytest.approx(one.context_s / 4, rel=0.01)
    assert four.pair_s == pytest.approx(one.pair_s / 4, rel=0.04), "short chunks of few heads do not fill a device"
    sums = 2 * 80 * 2 * (3 / 4) * 4096 * 8192 * 2 / 450e9
    assert prefill_s(four, 4096) == pytest.approx(prefill_s(one, 4096) / 4 + sums, rel=0.02)


def test_pipeline_keeps_the_pass_and_divides_what_tokens_add(ideal: Ideal) -> None:
    one, four = (closed_form(ideal("h100-sxm", LLAMA70, 1, pp)) for pp in (1, 4))
    assert step_time_s(four, 1, 0, 0, 0) == pytest.approx(step_time_s(one, 1, 0, 0, 0), rel=0.01)
    for name in ("pair_s", "context_s"):
        assert getattr(four, name) == pytest.approx(getattr(one, name) / 4)
    hops = 3 * 2048 * 8192 * 2 / 450e9
    assert step_time_s(four, 8192, 0, 0, 0) == pytest.approx(step_time_s(one, 2048, 0, 0, 0) + hops, rel=0.01)


def test_host_work_counts_once_per_step_sequence_and_hop(ideal: Ideal) -> None:
    busy = host(step_s=1.0, sequence_s=0.1, hop_s=0.01, launch_s=100.0)
    without, with_host = (closed_form(ideal("h100-sxm", LLAMA70, 1, 3, host=one)) for one in (NO_HOST, busy))
    assert decode_s(with_host, 8, 100) - decode_s(without, 8, 100) == pytest.approx(1.0 + 0.8 + 0.02)


def test_launches_hide_behind_device_time(ideal: Ideal) -> None:
    """At TP 8 a pass of one token launches kernels for longer than it computes; a long prefill does not."""
    slow = host(launch_s=40e-6)
    graph, eager = (closed_form(ideal("h100-sxm", LLAMA70, 8, host=slow, graphs=graphs)) for graphs in (True, False))
    launches = 80 * 11 + 1  # in a layer 4 GEMM, 2 norms, rope, activation, attention, 2 all-reduces; and the head
    assert decode_s(eager, 1, 16) == pytest.approx(launches * 40e-6, rel=0.01)
    assert decode_s(eager, 1, 16) > 4 * decode_s(graph, 1, 16)
    assert prefill_s(eager, 8192) == pytest.approx(prefill_s(graph, 8192), rel=0.01)


def test_encoders_pay_no_decode(ideal: Ideal) -> None:
    cost = closed_form(ideal("h100-sxm", "multilingual-e5-large"))
    assert (cost.context_s, cost.sequence_s) == (0, 0)
    assert prefill_s(cost, 512) > 0


def test_what_a_prompt_takes_per_token_is_not_paid_by_decoding_sequences(ideal: Ideal) -> None:
    config = ideal("h200-sxm", "Qwen3-Next-80B-A3B", 2)
    found = explain(config, 256, 2000)
    assert found.closed_form_s == pytest.approx(found.seconds, rel=0.02)


@pytest.mark.parametrize("device", ["h100-sxm", "a100-80-sxm", "b200", "l40s", "mi300x", "gaudi3"])
@pytest.mark.parametrize("model", [LLAMA8, LLAMA70, "Qwen3-30B-A3B", "DeepSeek-V3", "gpt-oss-120b", "GLM-4-9B"])
def test_it_is_near_the_sum_of_kernels(catalog: Catalog, device: str, model: str) -> None:
    for tp, dtype in ((1, "bf16"), (4, "fp8")):
        config = EngineConfig(catalog.device(device), catalog.model(model), tp, dtype=dtype)
        for batch, context, prefill, cached in GRID:
            found = explain(config, batch, context, prefill, cached)
            assert found.closed_form_s == pytest.approx(found.seconds, rel=0.10), (config.name, batch, context, prefill)


GRID = [
    (8, 2048, 0, 0),
    (16, 16384, 0, 0),
    (64, 1024, 0, 0),
    (0, 1, 512, 0),
    (0, 1, 2048, 0),
    (0, 1, 2048, 8192),
    (32, 2048, 2048, 4096),
]


@pytest.mark.parametrize("split", [{"pp": 4}, {"tp": 4, "pp": 2}, {"attention_dp": 8, "ep": 8}, {"tp": 8, "ep": 8}])
def test_it_is_near_the_sum_of_kernels_under_every_split(catalog: Catalog, split: dict[str, Any]) -> None:
    config = EngineConfig(catalog.device("h200-sxm"), catalog.model("DeepSeek-V3"), dtype="fp8", **split)
    for batch, context, prefill in ((1, 1024, 0), (64, 4096, 0), (0, 1, 4096), (128, 2048, 2048)):
        found = explain(config, batch, context, prefill)
        assert found.closed_form_s == pytest.approx(found.seconds, rel=0.10), (batch, context, prefill)
