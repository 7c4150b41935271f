"""Laws against the numbers that their papers print, their authors' code produces, or their traces measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterarch.catalog.model import Model
from heterarch.cost.laws import (
    DecodeLaw,
    PowerRamp,
    decode_tokens_per_s,
    ecologits,
    fit_decode_law,
    fit_prefill_law,
    offload_tokens_per_s,
    overlap_capacity_factor,
    parallelism_per_kv_token,
    reasoning_cost,
    sparse_kv_reads,
)
from heterarch.errors import InputError


def qwen3(layers: int, heads: int) -> Model:
    return Model("qwen3", "qwen3", layers, 1024, heads, 8, 128, 3072, 151_936)


@pytest.mark.parametrize(
    ("model", "parameters", "trials", "output", "compute", "memory", "total", "linear_percent"),
    [
        (qwen3(28, 16), 0.752e9, 1, 8192, 21, 2_435, 2_456, 1),
        (qwen3(40, 40), 14.77e9, 1, 8192, 273, 3_479, 3_752, 6),
        (qwen3(40, 40), 14.77e9, 1, 32768, 1_422, 51_024, 52_446, 2),
        (qwen3(40, 40), 14.77e9, 8, 8192, 2_183, 25_126, 27_309, 7),
        (qwen3(64, 64), 32.76e9, 1, 32768, 3_308, 81_639, 84_947, 3),
    ],
)
def test_kinetics_golden_values(
    model: Model,
    parameters: float,
    trials: int,
    output: int,
    compute: int,
    memory: int,
    total: int,
    linear_percent: int,
) -> None:
    """Output of the authors' function at 512 prompt tokens, in TFLOP, rounded."""
    cost = reasoning_cost(model, 512, output, trials=trials, parameters=parameters)
    assert cost.compute_flops / 1e12 == pytest.approx(compute, abs=0.6)
    assert cost.memory_flops / 1e12 == pytest.approx(memory, abs=0.6)
    assert cost.eflops / 1e12 == pytest.approx(total, abs=0.8)
    assert round(100 * cost.linear_flops / cost.eflops) == linear_percent


def test_intensity_is_flop_per_byte_of_a_named_device_and_kv_format() -> None:
    """562.5 FLOP/byte is B200 in FP8; with 2 bytes per element of KV."""
    wide = reasoning_cost(qwen3(40, 40), 512, 8192, flops_per_byte=4.5e15 / 8e12)
    assert wide.eflops == reasoning_cost(qwen3(40, 40), 512, 8192).eflops
    narrow = reasoning_cost(qwen3(40, 40), 512, 8192, kv_dtype="fp8")
    assert narrow.memory_flops == wide.memory_flops / 2


@settings(deadline=None)
@given(budget=st.integers(1, 500), prompt=st.integers(0, 600), output=st.integers(1, 400))
def test_sparse_reads_are_the_sum_over_steps(budget: int, prompt: int, output: int) -> None:
    assert sparse_kv_reads(budget, prompt, output) == sum(min(budget, prompt + t) for t in range(output))


def test_sparse_reads_of_the_published_case() -> None:
    assert sparse_kv_reads(1024, 512, 8192) == 8_257_280
    assert sparse_kv_reads(1024, 512, 8192) < 1024 * 8192 < 8_519_680, "the authors' code adds the triangle"


def test_moe_lens_golden_values() -> None:
    assert parallelism_per_kv_token(98, 32) == pytest.approx(0.03456, abs=5e-6)
    assert parallelism_per_kv_token(98, 32, closed_form=True) == pytest.approx(0.03564, abs=5e-5)
    assert parallelism_per_kv_token(98, 32) == 130 / sum(98 + j for j in range(33))
    mixtral = {"kv_tokens": 70e9 / 131_072, "weight_bytes": 94e9, "io_bytes_per_s": 19.5e9}
    assert mixtral["kv_tokens"] == pytest.approx(534_058, abs=1)
    assert offload_tokens_per_s(98, 32, **mixtral, closed_form=True) == pytest.approx(3_948, rel=1e-3)
    assert offload_tokens_per_s(98, 32, **mixtral) == pytest.approx(3_828, rel=1e-3)
    assert offload_tokens_per_s(98, 32, **mixtral, compute_tokens_per_s=1000.0) == 1000
    assert overlap_capacity_factor(98, 256) == pytest.approx(1.566, abs=5e-4)


@pytest.mark.parametrize(
    ("batch", "tpot_ms", "tokens_per_s"),
    [(128, 46.8, 2733), (112, 47.4, 2360), (96, 49.4, 1943), (24, 24.6, 974), (8, 14.9, 538)],
)
def test_cloudmatrix_rows_obey_littles_law(batch: int, tpot_ms: float, tokens_per_s: float) -> None:
    assert decode_tokens_per_s(batch, tpot_ms / 1e3) == pytest.approx(tokens_per_s, rel=0.003)


@pytest.mark.parametrize(
    ("billions", "gpus", "wh", "seconds", "embodied"),
    [(8, 1, 0.0371, 22.4, 0.00365), (70, 4, 0.274, 43.5, 0.0283), (405, 16, 3.806, 157.1, 0.409)],
)
def test_ecologits_points(billions: float, gpus: int, wh: float, seconds: float, embodied: float) -> None:
    estimate = ecologits(billions, billions, 500)
    assert estimate.gpus == gpus
    assert estimate.wh == pytest.approx(wh, rel=2e-3)
    assert estimate.latency_s == pytest.approx(seconds, abs=0.06)
    assert estimate.embodied_gco2e == pytest.approx(embodied, rel=3e-3)


def edge(shared_data: Path, name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((shared_data / "measured" / "edgereasoning" / name).read_text())
    return data


def test_edge_prefill_law_left_out_one_by_one(shared_data: Path) -> None:
    for name, trace in edge(shared_data, "prefill.json")["data"].items():
        tokens, seconds = np.array(trace["input_tokens"]), np.array(trace["ttft_ms"]) / 1e3
        errors = []
        for index in range(len(tokens)):
            kept = np.arange(len(tokens)) != index
            predicted = fit_prefill_law(tokens[kept], seconds[kept]).seconds(tokens[index])
            errors.append(abs(float(predicted) / seconds[index] - 1))
        assert np.median(errors) < 0.05, f"{name}: {np.median(errors):.3f}"


PUBLISHED = {
    "DeepSeek-R1-Distill-Qwen-1.5B": DecodeLaw(1.497e-7, 0.02363),
    "DeepSeek-R1-Distill-Llama-8B": DecodeLaw(6.920e-7, 0.10038),
    "DeepSeek-R1-Distill-Qwen-14B": DecodeLaw(1.130e-6, 0.18655),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_edge_decode_law_and_energy(shared_data: Path, name: str) -> None:
    """The published law, one fitted on the shorter half of the answers, and the energy of the fitted ramps."""
    rows = [row for row in edge(shared_data, "decode_parameters.json")[name] if row["decode_time"]]
    prompt, output, seconds = (
        np.array([row[key] for row in rows], float) for key in ("input_tokens", "output_tokens", "decode_time")
    )
    assert np.median(np.abs(PUBLISHED[name].seconds(prompt, output) / seconds - 1)) < 0.05
    short = output <= np.median(output)
    fitted = fit_decode_law(prompt[short], output[short], seconds[short])
    assert np.median(np.abs(fitted.seconds(prompt[~short], output[~short]) / seconds[~short] - 1)) < 0.05
    ramped = [row for row in rows if row["P_inf"] and row["output_tokens"] > 64]
    assert len(ramped) > 100
    for row in ramped:
        ramp = PowerRamp(row["P_inf"], row["delta_P"], row["tau"])
        assert ramp.joules(row["decode_time"]) == pytest.approx(row["decode_energy"], rel=0.02)


@settings(deadline=None)
@given(steady=st.floats(5, 60), share=st.floats(0, 1), tau=st.floats(0.1, 5), seconds=st.floats(0.1, 50))
def test_ramp_energy_is_the_integral_of_power(steady: float, share: float, tau: float, seconds: float) -> None:
    ramp = PowerRamp(steady, share * steady, tau)
    t = np.linspace(0, seconds, 20_001)
    assert ramp.joules(seconds) == pytest.approx(np.trapezoid(ramp.watts(t), t), rel=1e-3)


def test_a_fit_is_exact_on_its_own_law_and_ignores_a_wild_point() -> None:
    tokens = np.arange(100, 4000, 128)
    seconds = fit_prefill_law(tokens, 1e-8 * (np.ceil(tokens / 128) * 128) ** 2 + 1e-4 * tokens + 0.02).seconds(tokens)
    wild = seconds.copy()
    wild[7] *= 10
    assert fit_prefill_law(tokens, wild).seconds(tokens) == pytest.approx(seconds, rel=0.03)
    with pytest.raises(InputError, match="too few"):
        fit_prefill_law([1, 2, 3], [1.0, 1.0, 1.0])
    with pytest.raises(InputError, match="not above 0"):
        fit_decode_law([1, 1], [1, 2], [0.0, 1.0])
