"""Predictions from kernels alone against whole passes and whole engines that others measured; nothing is fitted here."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.engine import EngineConfig, decode_s, step_cost
from heterarch.cost.measured.served import predict, read_served
from heterarch.cost.step import step_time_s


def test_splitwise_passes_of_llama_2_70b(catalog: Catalog, shared_data: Path) -> None:
    """Eager kernels of 2023. Prompts beyond the peak (a batch cut upstream) are no measurement of their batch."""
    model = catalog.find_model("llama2-70b")
    prefill, decode = [], []
    with (shared_data / "measured" / "iteration_splitwise.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        device = catalog.find_device(row["hardware"])
        tp, batch, prompt = (int(row[name]) for name in ("tensor_parallel", "batch_size", "prompt_size"))
        cost = step_cost(EngineConfig(device, model, tp, graphs=False))
        seconds = step_time_s(cost, batch * prompt, batch * prompt**2 / 2, batch, 0)
        measured = float(row["prompt_ms"]) / 1e3
        if 2 * model.parameters() * batch * prompt / measured < tp * device.peak("bf16"):
            prefill.append(float(seconds) / measured)
        context = prompt + int(row["token_size"]) / 2
        decode.append(float(decode_s(cost, batch, context)) / (float(row["token_ms"]) / 1e3))
    assert len(prefill) + len(decode) > 140
    for name, ratios in (("prefill", prefill), ("decode", decode)):
        error = median(abs(ratio - 1) for ratio in ratios)
        assert error < 0.30, f"{name}: median error {error:.3f}, {min(ratios):.2f} to {max(ratios):.2f}"
        assert np.mean([0.5 <= ratio <= 2 for ratio in ratios]) > 0.85, name


@pytest.mark.parametrize(("device", "bound"), [("h100-sxm", 0.20), ("b200", 0.20), ("gb200-nvl72", 0.45)])
def test_time_per_token_of_engines_that_serve(catalog: Catalog, shared_data: Path, device: str, bound: float) -> None:
    """The closed form from kernels, without the correction fitted to these points. GB200 rows lack most sizes."""
    points, _ = read_served(shared_data / "measured" / "e2e_inferencex.csv", catalog)
    own = [point for point in points if point.device.id == device]
    errors = [abs(float(predict(point).tpot_s) / point.tpot_s - 1) for point in own]
    assert len(errors) > 100
    assert median(errors) < bound, f"median error {median(errors):.3f} of {len(errors)} points"
