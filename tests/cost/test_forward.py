"""The kernels of a pass: their FLOP and bytes by hand, and what tensor, expert and data parallelism make of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterarch.catalog.catalog import Catalog
from heterarch.cost.config import EngineConfig
from heterarch.cost.document import Calibration
from heterarch.cost.engine import step_cost
from heterarch.cost.forward import (
    Call,
    decode_calls,
    head_calls,
    joint_decode_s,
    kernel_of,
    kernels_of,
    linear_calls,
    pass_s,
    prefill_calls,
)
from heterarch.cost.kernels.base import Floats
from heterarch.cost.kernels.families import FAMILIES
from heterarch.cost.kernels.moe import load
from heterarch.cost.library import Library
from heterarch.cost.step import step_time_s

from .conftest import NO_HOST, Ideal, ideal_library, lossless

LLAMA8, LLAMA70 = "Meta-Llama-3.1-8B", "Meta-Llama-3.1-70B"
ONE = np.ones(1)


def at(value: float) -> Floats:
    return np.array([float(value)])


def work(calls: Iterable[Call], family: str = "") -> tuple[float, float]:
    """(FLOP, bytes) of all launches, or of those of one family."""
    chosen = [call for call in calls if family in ("", call.family)]
    works = [FAMILIES[call.family].work(call.shapes, call.dtype) for call in chosen]
    flops = sum(call.count * float(done.flops[0]) for call, done in zip(chosen, works, strict=True))
    return flops, sum(call.count * float(done.bytes[0]) for call, done in zip(chosen, works, strict=True))


def linear(config: EngineConfig, tokens: float, family: str = "") -> tuple[float, float]:
    return work(linear_calls(config, at(tokens)), family)


def parts(calls: Iterable[Call]) -> dict[str, Call]:
    return {call.part: call for call in calls}


@pytest.mark.parametrize("name", [LLAMA8, "Qwen3-32B", "GLM-4-9B", "gemma-3-27B", "Phi-2", "OPT-13B"])
@pytest.mark.parametrize("tp", [1, 2])
def test_dense_layers_take_two_flop_per_weight_and_token(ideal: Ideal, name: str, tp: int) -> None:
    config = ideal("h100-sxm", name, tp)
    weights = (config.model.linear_parameters() - config.model.vocab * config.model.hidden) / tp
    flops, moved = linear(config, 64, "gemm")
    assert flops == pytest.approx(2 * weights * 64)
    assert 2 * weights < moved < 2 * weights * 1.1, "weights are read once, activations of 64 tokens are small"


def test_the_gemms_of_a_layer_by_hand(ideal: Ideal) -> None:
    calls = parts(linear_calls(ideal("h100-sxm", LLAMA70, 4), at(7)))
    shapes = {
        name: [float(np.max(call.shapes[size])) for size in "mnk"]
        for name, call in calls.items()
        if call.family == "gemm"
    }
    assert shapes == {
        "qkv projection": [7, (64 + 2 * 8) * 128 / 4, 8192],
        "attention output": [7, 8192, 8192 / 4],
        "dense FFN up": [7, 2 * 28672 / 4, 8192],
        "dense FFN down": [7, 8192, 28672 / 4],
    }
    assert {calls[name].count for name in shapes} == {80}


def test_plain_feed_forward_layers_have_two_matrices(ideal: Ideal) -> None:
    calls = parts(linear_calls(ideal("h100-sxm", "OPT-13B"), ONE))
    assert calls["dense FFN up"].shapes["n"] == calls["dense FFN down"].shapes["k"] == 20480


@pytest.mark.parametrize(
    "name",
    [
        "DeepSeek-V3",
        "Kimi-K2.5",
        "Qwen3-235B-A22B",
        "gpt-oss-120b",
        "GLM-4.5",
        "Qwen3-Next-80B-A3B",
        "DeepSeek-V4-Flash",
    ],
)
def test_all_but_the_experts_take_two_flop_per_weight(ideal: Ideal, name: str) -> None:
    config = ideal("h200-sxm", name)
    weights = config.model.linear_parameters() - config.model.vocab * config.model.hidden
    assert linear(config, 16, "gemm")[0] == pytest.approx(2 * weights * 16)


def test_tensor_parallelism_divides_work_and_adds_two_all_reduces_per_layer(ideal: Ideal) -> None:
    one, four = ideal("h100-sxm", LLAMA70, 1), ideal("h100-sxm", LLAMA70, 4)
    assert linear(four, 256, "gemm")[0] == pytest.approx(linear(one, 256, "gemm")[0] / 4)
    for calls in (decode_calls, prefill_calls):
        whole, quarter = (work(calls(config, at(4096), at(4096))) for config in (one, four))
        assert quarter == pytest.approx((whole[0] / 4, whole[1] / 4))
    reduce = parts(linear_calls(four, at(256)))["all-reduce"]
    assert (reduce.count, reduce.link) == (2 * 80, True)
    assert float(reduce.shapes["message_bytes"][0]) == 256 * 8192 * 2
    assert linear(four, 256, "all_reduce")[1] == pytest.approx(2 * 80 * 2 * (3 / 4) * 256 * 8192 * 2)
    link = one.device.scaleup_bytes_per_s or 0.0
    assert pass_s(four, [reduce]) == pytest.approx(linear(four, 256, "all_reduce")[1] / link)
    assert not any(call.link for call in linear_calls(one, at(256)))


def test_groups_beyond_the_scale_up_domain_use_slower_links(ideal: Ideal) -> None:
    inside, beyond = ideal("h100-sxm", LLAMA70, 8), ideal("h100-sxm", LLAMA70, 16)
    nic = (inside.device.nic_bytes_per_s or 0.0) * 0.9
    rates = [
        kernel_of(config, parts(linear_calls(config, at(64)))["all-reduce"]).bandwidth for config in (inside, beyond)
    ]
    assert rates == [inside.device.scaleup_bytes_per_s, pytest.approx(nic)]


def test_kv_heads_bound_how_far_context_divides(ideal: Ideal) -> None:
    """GLM-4-9B has two KV heads: TP 8 reads as much context per device as TP 2."""
    reads = {
        tp: np.diff([work(decode_calls(ideal("h100-sxm", "GLM-4-9B", tp), ONE, at(c)))[1] for c in (1000, 2000)])[0]
        for tp in (1, 2, 8)
    }
    assert reads[1] == pytest.approx(1000 * 40 * 2 * 2 * 128 * 2)
    assert reads[8] == reads[2] == pytest.approx(reads[1] / 2)


def test_a_narrow_cache_is_read_faster(ideal: Ideal) -> None:
    for wide, narrow in (("bf16", "fp8"), ("bf16", "int8")):
        reads = [
            work(decode_calls(ideal("h100-sxm", LLAMA8, kv_dtype=dtype), at(8), at(2**17)))[1]
            for dtype in (wide, narrow)
        ]
        assert reads[1] == pytest.approx(reads[0] / 2, rel=1e-3)


def test_latent_attention_reads_its_small_kv_on_every_device(ideal: Ideal) -> None:
    absorbed = 1000 * 61 * 2 * 128 * (2 * 512 + 64)
    for tp in (1, 8):
        config = ideal("h200-sxm", "DeepSeek-V3", tp, dtype="fp8")
        flops, read = np.diff([work(decode_calls(config, ONE, at(c))) for c in (1000, 2000)], axis=0)[0]
        assert read == pytest.approx(1000 * 61 * (512 + 64) * 2)
        assert absorbed / tp <= flops <= absorbed, "16 heads do not fill a tile"
        context = pass_s(config, decode_calls(config, np.ones(2), np.array([1e6, 2e6])))
        assert np.diff(context)[0] == pytest.approx(1e6 * max(read / 4.8e12, flops / 989e12) / 1000)


def test_latent_prefill_is_uncompressed_in_16_bits(ideal: Ideal) -> None:
    config = ideal("h200-sxm", "DeepSeek-V3", 8, kv_dtype="fp8")
    (call,) = prefill_calls(config, at(1024), at(1024))
    assert (call.family, call.dtype) == ("attention_prefill", "bf16")
    pairs = 1024 * (1024 + 1025 / 2)
    assert work([call])[0] == pytest.approx(61 * 2 * 16 * (128 + 64 + 128) * pairs)
    (decode,) = decode_calls(config, ONE, at(1024))
    assert decode.dtype == "fp8"


def test_a_window_bounds_what_a_token_reads(ideal: Ideal) -> None:
    config = ideal("h100-sxm", "gemma-3-27B")
    calls = {long: parts(decode_calls(config, at(4), at(long))) for long in (8192, 65536)}
    assert calls[8192].keys() == {"attention", "window attention"}
    window = [work([found["window attention"]]) for found in calls.values()]
    assert window[0] == window[1]
    assert work([calls[65536]["attention"]])[1] > 7 * work([calls[8192]["attention"]])[1]
    assert [calls[8192][name].count for name in ("attention", "window attention")] == [10, 52]


def test_linear_attention_costs_a_constant_per_sequence(catalog: Catalog) -> None:
    library = ideal_library(catalog, free=())
    config = EngineConfig(
        catalog.device("h200-sxm"), catalog.model("Qwen3-Next-80B-A3B"), 2, library=library, host=NO_HOST
    )
    state = next(part for part in config.model.attention if part.state_values)
    reads = {long: parts(decode_calls(config, at(8), at(long)))["linear attention"] for long in (1024, 2**17)}
    assert reads[1024].count == state.layers == 36
    assert reads[1024].shapes == reads[2**17].shapes
    bytes_moved = 36 * 8 * 2 * 4 * state.state_values / 2  # read and written in 32 bits, over two devices
    assert work([reads[1024]])[1] == pytest.approx(bytes_moved)
    assert pass_s(config, [reads[1024]]) == pytest.approx(bytes_moved / config.device.mem_bytes_per_s)


def test_selecting_attention_meets_at_most_its_top_k(ideal: Ideal) -> None:
    config = ideal("h200-sxm", "DeepSeek-V3.2", 8, dtype="fp8")
    near, far = (parts(decode_calls(config, ONE, at(long)))["sparse attention"] for long in (2048, 2**17))
    assert far.shapes["context"] == pytest.approx(near.shapes["context"], abs=1)
    short = parts(decode_calls(config, ONE, at(500)))["sparse attention"]
    assert short.shapes["context"] == pytest.approx(500, abs=1)


def test_a_prompt_touches_a_state_once_per_chunk(ideal: Ideal) -> None:
    config = ideal("h200-sxm", "Qwen3-Next-80B-A3B")
    touched = [
        parts(prefill_calls(config, at(long), at(0)))["linear attention"].shapes["values"] for long in (32, 64, 6400)
    ]
    assert touched[0] == touched[1]
    assert touched[2] == pytest.approx(100 * touched[1])


def test_an_index_scores_every_token_on_every_device(ideal: Ideal) -> None:
    config = ideal("h200-sxm", "DeepSeek-V3.2", 8, dtype="fp8")
    decode = [work([parts(decode_calls(config, ONE, at(long)))["attention index"]]) for long in (10_000, 110_000)]
    flops, read = np.diff(decode, axis=0)[0]
    assert read == pytest.approx(61 * 100_000 * 128), "one 8-bit key per token"
    assert flops >= 61 * 100_000 * 2 * 64 * 128
    prompt = parts(prefill_calls(config, at(4096), at(8192)))["attention index"]
    pairs = 4096 * (8192 + 4096 / 2)
    assert work([prompt])[0] == pytest.approx(61 * 2 * 64 * 128 * pairs, rel=1e-3)
    assert "attention index" not in parts(decode_calls(ideal("h200-sxm", "DeepSeek-V3"), ONE, ONE))


def test_encoders_have_no_head_and_keep_no_cache(ideal: Ideal) -> None:
    config = ideal("h100-sxm", "multilingual-e5-large")
    assert list(head_calls(config, at(8))) == []
    weights = config.model.linear_parameters()
    assert linear(config, 512, "gemm")[0] == pytest.approx(2 * weights * 512)


def test_the_head_is_computed_for_the_sampled_tokens_alone(ideal: Ideal) -> None:
    (head,) = head_calls(ideal("h100-sxm", LLAMA8, 2, dtype="fp8"), at(16))
    assert head.dtype == "bf16", "tables stay in 16 bits"
    assert (float(head.shapes["m"][0]), head.shapes["n"], head.shapes["k"], head.count) == (16, 128256 / 2, 4096, 1)


# ---- experts


def test_experts_are_read_as_tokens_need_them(ideal: Ideal) -> None:
    config = ideal("h200-sxm", "Qwen3-235B-A22B", 8)
    per_device = config.model.expert_parameters() / 8
    read = {tokens: linear(config, tokens, "moe") for tokens in (1, 8, 4096)}
    assert read[1][1] == pytest.approx(2 * per_device * 8 / 128, rel=0.01)
    assert read[1][1] < read[8][1] < 2 * per_device < read[4096][1]
    assert all(flops == pytest.approx(2 * per_device * 8 / 128 * tokens) for tokens, (flops, _) in read.items())
    loads = load(np.array([1.0, 8.0, 4096.0]), np.full(3, 8.0), np.full(3, 128.0), ONE, np.full(3, 1.01))
    assert 8 == loads.active[0] < loads.active[1] < 64, "tokens share experts"
    assert loads.active[2] == pytest.approx(128)


def test_eight_bit_experts_are_scaled_by_block(ideal: Ideal) -> None:
    calls = parts(linear_calls(ideal("h200-sxm", "DeepSeek-V3", 8, dtype="fp8"), at(64)))
    assert calls["experts"].dtype == "fp8-block"
    assert {calls[name].dtype for name in ("attention output", "shared experts up", "dense FFN up")} == {"fp8"}
    assert {calls[name].dtype for name in ("router", "latent up projection")} == {"bf16"}


def test_leading_dense_layers_and_shared_experts(ideal: Ideal) -> None:
    calls = parts(linear_calls(ideal("h200-sxm", "DeepSeek-V3", 8), at(64)))
    counts = {name: calls[name].count for name in ("dense FFN up", "shared experts up", "experts", "router")}
    assert counts == {"dense FFN up": 3, "shared experts up": 58, "experts": 58, "router": 58}
    assert calls["all-reduce"].count == 61 + 3
    assert calls["expert all-reduce"].count == 58


def test_whole_experts_on_devices_that_share_attention_need_no_dispatch(ideal: Ideal) -> None:
    inside, whole = (ideal("h200-sxm", "DeepSeek-V3", 8, ep=ep) for ep in (1, 8))
    assert {call.part for call in linear_calls(whole, ONE) if call.link} == {"all-reduce", "expert all-reduce"}
    shapes = [parts(linear_calls(config, ONE))["experts"].shapes for config in (inside, whole)]
    assert [(one["moe_tp_size"], one["moe_ep_size"]) for one in shapes] == [(8, 1), (1, 8)]
    assert linear(whole, 512, "moe")[0] > linear(inside, 512, "moe")[0], "one device is loaded more than the others"


def test_attention_groups_divide_tokens_and_repeat_attention_weights(ideal: Ideal) -> None:
    tensor, groups = ideal("h200-sxm", "DeepSeek-V3", 8), ideal("h200-sxm", "DeepSeek-V3", attention_dp=8, ep=8)
    assert tensor.devices == groups.devices == 8
    name = "attention output"
    split, repeated = (parts(linear_calls(config, at(512)))[name].shapes for config in (tensor, groups))
    assert (float(split["m"][0]), split["k"]) == (512, 128 * 128 / 8)
    assert (float(repeated["m"][0]), repeated["k"]) == (64, 128 * 128)
    own = parts(decode_calls(groups, at(64), at(1000)))["attention"].shapes
    assert (own["batch"], own["heads"]) == (8, 128)
    assert float(next(iter(head_calls(groups, at(64)))).shapes["m"][0]) == 8
    assert parts(linear_calls(groups, at(512)))["experts"].shapes["num_tokens"] == 512, "experts see all tokens"
    lone = parts(linear_calls(groups, at(4)))["attention output"].shapes
    assert lone["m"] == 1, "the busiest group has a token at least"


def test_experts_of_attention_groups_are_reached_by_all_to_all(ideal: Ideal) -> None:
    config = ideal("h200-sxm", "DeepSeek-V3", attention_dp=8, ep=8)
    links = [call for call in linear_calls(config, at(512)) if call.link]
    assert [(call.part, call.count) for call in links] == [("expert all-to-all", 58)] * 2
    reached = 8 * (1 - (7 / 8) ** 8)  # devices among which the 8 experts of a token lie
    for call in links:
        assert call.shapes["message_bytes"] == pytest.approx(64 * 7168 * 2 * reached)
    sent = 58 * 2 * 64 * 7168 * 2 * reached * 7 / 8
    assert pass_s(config, links) == pytest.approx(sent / (config.device.scaleup_bytes_per_s or 0.0))


def test_experts_split_inside_are_gathered_and_scattered(ideal: Ideal) -> None:
    links = [call for call in linear_calls(ideal("h200-sxm", "DeepSeek-V3", 2, attention_dp=4), at(512)) if call.link]
    assert [call.part for call in links] == [
        "all-reduce",
        "expert all-gather",
        "expert reduce-scatter",
        "expert all-gather",
    ]
    assert [call.shapes["devices"] for call in links] == [2, 4, 8, 2]


# ---- formats


@pytest.mark.parametrize(
    ("device", "model", "dtype", "dense", "experts"),
    [
        ("h100-sxm", LLAMA8, "bf16", "bf16", "bf16"),
        ("h100-sxm", LLAMA8, "fp8", "fp8", "fp8-block"),
        ("h100-sxm", LLAMA8, "fp4", "mxfp4", "mxfp4"),
        ("b200", LLAMA8, "fp4", "fp4", "fp4"),
        ("h100-sxm", "gpt-oss-20b", "mxfp4", "bf16", "mxfp4"),
        ("b200", "gpt-oss-20b", "mxfp4", "bf16", "mxfp4"),
        ("b200", "gpt-oss-20b", "bf16", "bf16", "bf16"),
        ("b200", "Kimi-K2.5", "int4", "int4", "int4"),
    ],
)
def test_kernel_formats(ideal: Ideal, device: str, model: str, dtype: str, dense: str, experts: str) -> None:
    calls = parts(linear_calls(ideal(device, model, dtype=dtype), ONE))
    assert calls["attention output"].dtype == dense
    if "experts" in calls:
        assert calls["experts"].dtype == experts


def test_a_format_the_device_lacks_is_stored_narrow_and_computed_wide(ideal: Ideal) -> None:
    """A100 has no 8-bit floats: twice as fast where weights are read, as fast where they are multiplied."""
    wide, narrow = (ideal("a100-80-sxm", LLAMA8, dtype=dtype) for dtype in ("bf16", "fp8"))
    assert wide.compute_dtype == narrow.compute_dtype == "bf16"
    seconds = {
        tokens: [pass_s(config, linear_calls(config, at(tokens)))[0] for config in (wide, narrow)]
        for tokens in (1, 8192)
    }
    assert seconds[1][1] == pytest.approx(seconds[1][0] / 2, rel=0.01)
    assert seconds[8192][1] == pytest.approx(seconds[8192][0])


# ---- which kernels run


def test_an_all_reduce_takes_the_faster_of_two_kernels(ideal: Ideal) -> None:
    config = ideal("h100-sxm", LLAMA70, 4)
    assert len(kernels_of(config, parts(linear_calls(config, ONE))["all-reduce"])) == 2
    (gemm,) = kernels_of(config, parts(linear_calls(config, ONE))["attention output"])
    assert gemm.family.name == "gemm"


@pytest.mark.parametrize(("device", "counted"), [("h100-sxm", False), ("mi300x", False), ("arc-pro-b60", True)])
def test_launches_of_measurements_count_only_where_engines_wait_for_them(
    catalog: Catalog, device: str, counted: bool
) -> None:
    fits = [lossless("gemm", device, host_s=1.0)]
    library = Library([Calibration(name="eager", date="2026-01-01", fits=fits)], catalog.devices)
    config = EngineConfig(catalog.device(device), catalog.model(LLAMA8), library=library)
    (call,) = [call for call in linear_calls(config, ONE) if call.part == "attention output"]
    assert bool(kernel_of(config, call).seconds(call.shapes)[0] >= 1.0) is counted


@pytest.mark.parametrize(
    ("model", "device", "dtype", "engine", "backend"),
    [
        ("gemma-4-26B-A4B", "b200", "bf16", "vllm", "vllm-cutlass"),
        ("gemma-4-26B-A4B", "b200", "bf16", "sglang", "vllm"),
        ("Qwen3-30B-A3B", "b200", "bf16", "vllm", "vllm"),
        ("Qwen3-30B-A3B", "h100-sxm", "fp4", "vllm", "vllm-marlin"),
        ("gpt-oss-20b", "h100-sxm", "fp4", "vllm", "vllm"),
    ],
)
def test_experts_run_on_the_kernels_that_the_engine_has_for_the_model(
    catalog: Catalog, model: str, device: str, dtype: str, engine: str, backend: str
) -> None:
    config = EngineConfig(catalog.device(device), catalog.model(model), dtype=dtype, engine=engine)
    citation = kernel_of(config, parts(linear_calls(config, ONE))["experts"]).source.citation
    assert citation.startswith(f"{backend} ")


@settings(max_examples=40, deadline=None)
@given(tokens=st.lists(st.floats(1, 20_000), min_size=1, max_size=4), tp=st.sampled_from([1, 2, 8]))
def test_a_pass_is_the_sum_of_its_kernels(ideal: Ideal, tokens: list[float], tp: int) -> None:
    for name in (LLAMA8, "DeepSeek-V3", "gpt-oss-20b"):
        config = ideal("h100-sxm", name, tp)
        calls = list(linear_calls(config, np.array(tokens)))
        alone = sum(
            call.count * kernel.seconds(call.shapes) for call in calls for kernel in kernels_of(config, call)[:1]
        )
        assert pass_s(config, calls) == pytest.approx(np.broadcast_to(alone, len(tokens)))


def test_decodes_beside_a_prompt(catalog: Catalog) -> None:
    """Real vLLM kernels, microseconds of one layer with a chunk of 256 tokens beside 128 decodes of 1,024 tokens."""
    for device, model, tp, together, apart in (
        ("rtx-pro-6000-se", "Llama-3.1-8B", 1, 699.0, 416.0),
        ("rtx-pro-6000-se", "Qwen3-32B", 2, 674.9, 240.0),
        ("rtx4090", "Llama-3.1-8B", 1, 1495.4, 621.2),
    ):
        config = EngineConfig(catalog.find_device(device), catalog.find_model(model), tp, engine="vllm")
        layers, n, k = config.model.layers, np.full(1, 128.0), np.full(1, 1024.0)
        alone = pass_s(config, decode_calls(config, n, k)) + pass_s(config, prefill_calls(config, 2 * n, 0 * n))
        assert float(alone[0]) / layers * 1e6 == pytest.approx(apart, rel=0.12)
        beside = joint_decode_s(config) * 128 * 1024 + pass_s(config, prefill_calls(config, 2 * n, 0 * n))[0]
        assert float(beside) / layers * 1e6 == pytest.approx(together, rel=0.25)
        cost = step_cost(config)
        assert step_time_s(cost, 384, 1.0, 128, 131072) > 1.1 * step_time_s(cost, 384, 0.0, 128, 131072)


def test_launches_are_apart_on_other_generations_and_engines(catalog: Catalog) -> None:
    model = catalog.model("Meta-Llama-3.1-8B")
    assert joint_decode_s(EngineConfig(catalog.device("h100-sxm"), model)) == 0
    assert joint_decode_s(EngineConfig(catalog.device("a100-80-sxm"), model, engine="sglang")) == 0
    assert joint_decode_s(EngineConfig(catalog.device("a100-80-sxm"), model, engine="vllm")) > 0


def test_kv_is_read_from_memory(catalog: Catalog) -> None:
    """A cache that holds the KV of one layer is full of other layers when the next pass comes."""
    config = EngineConfig(catalog.device("rtx-pro-6000-se"), catalog.model("Meta-Llama-3.1-8B"), engine="vllm")
    for batch, context, measured in ((16, 1024, 60.3), (64, 512, 127.4), (128, 1024, 404.9)):  # us, by vLLM's profiler
        calls = decode_calls(config, np.full(1, float(batch)), np.full(1, float(context)))
        assert float(pass_s(config, calls)[0]) / 32 * 1e6 == pytest.approx(measured, rel=0.12)


def test_staged_collectives_take_the_link_twice(catalog: Catalog) -> None:
    config = EngineConfig(catalog.device("rtx-pro-6000-se"), catalog.model("Qwen3-32B"), 2, engine="vllm")
    calls = [call for call in linear_calls(config, np.full(1, 2048.0)) if call.link]
    direct, staged = (pass_s(replace(config, peers=peers), calls)[0] for peers in (True, False))
    assert staged == pytest.approx(2 * direct, rel=0.25)
    with_link = replace(config, device=catalog.device("h100-sxm"), peers=False)
    assert not with_link.staged
    assert EngineConfig(catalog.device("rtx4090"), catalog.model("Meta-Llama-3.1-8B"), 2).staged
