"""Predictions against real measurements; bounds are generous, the errors found are in the assertion messages."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import median

import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.efficiency import eager, efficiency
from heterarch.cost.engine import EngineConfig, decode_s, prefill_s, step_cost
from heterarch.cost.step import StepCost, step_time_s

DEVICES = {"a100-80gb": "a100-80-sxm", "h100-80gb": "h100-sxm", "h100_sxm": "h100-sxm", "b200_sxm": "b200"}
#: model, hardware, precision -> catalogue model and dtype of the aggregated InferenceX points that are compared
POINTS = {
    ("meta-llama/Llama-3.1-70B", "h100_sxm", "fp8"): ("Meta-Llama-3.1-70B", "fp8"),
    ("meta-llama/Llama-3.1-70B", "b200_sxm", "fp8"): ("Meta-Llama-3.1-70B", "fp8"),
    ("meta-llama/Llama-3.1-70B", "b200_sxm", "fp4"): ("Meta-Llama-3.1-70B", "fp4"),
    ("meta-llama/Llama-3.1-8B-Instruct", "h100_sxm", ""): ("Meta-Llama-3.1-8B", "bf16"),
    ("Qwen/Qwen3-235B-A22B-FP8", "h100_sxm", "fp8"): ("Qwen3-235B-A22B", "fp8"),
    ("deepseek-ai/DeepSeek-R1", "b200_sxm", "fp8"): ("DeepSeek-R1", "fp8"),
    ("deepseek-ai/DeepSeek-R1", "b200_sxm", "fp4"): ("DeepSeek-R1", "fp4"),
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_splitwise_passes_of_llama_2_70b(catalog: Catalog, shared_data: Path) -> None:
    """Eager kernels of 2023. Prompts beyond the peak (a batch cut upstream) are no measurement of their batch."""
    model = catalog.model("Llama-2-70B")
    ratios: list[float] = []
    for row in rows(shared_data / "measured" / "iteration_splitwise.csv"):
        device = catalog.device(DEVICES[row["hardware"]])
        tp, batch, prompt = (int(row[name]) for name in ("tensor_parallel", "batch_size", "prompt_size"))
        cost = step_cost(EngineConfig(device, model, tp, efficiency=eager(efficiency(device))))
        seconds = step_time_s(cost, batch * prompt, batch * prompt**2 / 2, batch, 0)
        measured = float(row["prompt_ms"]) / 1e3
        if 2 * model.parameters() * batch * prompt / measured < tp * device.peak("bf16"):
            ratios.append(float(seconds) / measured)
        context = prompt + int(row["token_size"]) / 2
        ratios.append(float(decode_s(cost, batch, context)) / (float(row["token_ms"]) / 1e3))
    errors = [abs(ratio - 1) for ratio in ratios]
    within = sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios)
    assert len(ratios) > 140
    assert median(errors) < 0.30, f"median error {median(errors):.3f}"
    assert within > 0.90, f"{within:.3f} of the rows within a factor of 2"
    assert all(0.3 < ratio < 2 for ratio in ratios), sorted(ratios)


@pytest.mark.parametrize("point", sorted(POINTS), ids=lambda point: f"{point[0].split('/')[-1]}-{point[1]}-{point[2]}")
def test_tpot_of_aggregated_inferencex_points(catalog: Catalog, shared_data: Path, point: tuple[str, str, str]) -> None:
    """TPOT of a full engine: a decode iteration, and the prefill work that its sequences bring per output token."""
    model, dtype = POINTS[point]
    kv_dtype = "bf16" if dtype == "bf16" else "fp8"
    errors = []
    for row in rows(shared_data / "measured" / "e2e_inferencex.csv"):
        if (row["model"], row["hardware"], row["precision"]) == point and _plain(row):
            tp = int(float(row["tp_size"]))
            config = EngineConfig(
                catalog.device(DEVICES[point[1]]), catalog.model(model), tp, dtype=dtype, kv_dtype=kv_dtype
            )
            errors.append(abs(_tpot_s(step_cost(config), row) / (float(row["tpot_ms"]) / 1e3) - 1))
    assert len(errors) > 20
    assert median(errors) < 0.25, f"median error {median(errors):.3f} over {len(errors)} points"


def _plain(row: dict[str, str]) -> bool:
    sizes = [float(row[name] or 1) for name in ("attention_dp_size", "pp_size")]
    return row["mode"] == "agg" and bool(row["batch_size"]) and sizes == [1, 1]


def _tpot_s(cost: StepCost, row: dict[str, str]) -> float:
    batch, prompt, output = (float(row[name]) for name in ("batch_size", "isl", "osl"))
    iteration = decode_s(cost, batch, prompt + output / 2)
    return float(iteration + batch * prefill_s(cost, prompt) / output)
