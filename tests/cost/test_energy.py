"""Watts, joules and grams against the fits and by hand."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.server import Site
from heterarch.cost.energy import (
    call_j,
    decode_j,
    embodied_gco2e_per_h,
    engine_power_w,
    gco2e_per_h,
    grid_gco2e_per_kwh,
    idle_w,
    joules_per_h,
    power_model,
    power_w,
    prefill_j,
)
from heterarch.cost.engine import EngineConfig, decode_s, prefill_s, step_cost
from heterarch.cost.money.operating import OperatingPoint
from heterarch.cost.money.tco import Calls
from heterarch.errors import InputError
from heterarch.units import Grade, Source

SITE = Site(id="here", usd_per_kwh=0.1, pue=1.2, gco2e_per_kwh=400.0, sources={"*": Source(Grade.DECLARED, "test")})


@cache
def packaged() -> Catalog:
    return Catalog.load()


@pytest.mark.parametrize(
    ("device", "grade"),
    [
        ("h200-sxm", "fitted"), ("b200", "fitted"), ("a100-80-sxm", "fitted"), ("h100-sxm", "derived"),
        ("gb200-nvl72", "derived"), ("a100-40-sxm", "derived"), ("mi300x", "guess"),
    ],
)  # fmt: skip
def test_power_is_fitted_only_where_it_was_measured(catalog: Catalog, device: str, grade: str) -> None:
    assert power_model(catalog.device(device)).source.grade == grade


@pytest.mark.parametrize(
    ("device", "tdp", "compute", "memory", "watts"),
    [
        ("h200-sxm", 700, 0.1, 0.2, 249 + 57.1 + 38),
        ("h200-sxm", 700, 0.9, 0.5, 700),
        ("b200", 1000, 0.2, 0.3, 428 + 153.8 + 86.1),
    ],
)
def test_power_is_the_fit_up_to_the_limit(
    catalog: Catalog, device: str, tdp: float, compute: float, memory: float, watts: float
) -> None:
    row = replace(catalog.device(device), tdp_w=tdp, idle_w=75.0)
    assert float(power_w(row, compute, memory)) == pytest.approx(watts)
    assert float(power_w(row, compute, memory, busy=0.0)) == 75.0
    assert float(power_w(row, compute, memory, busy=0.5)) == pytest.approx(75 + (watts - 75) / 2)


def test_power_needs_a_tdp(catalog: Catalog) -> None:
    with pytest.raises(InputError, match="no known TDP"):
        power_w(replace(catalog.device("b200"), tdp_w=None))


def test_prefill_draws_more_than_decode_and_both_less_than_the_limit(catalog: Catalog) -> None:
    device = catalog.device("h100-sxm")
    config = EngineConfig(device, catalog.model("Meta-Llama-3.1-70B"), 4, dtype="fp8", kv_dtype="fp8")
    cost = step_cost(config)
    prefill = float(engine_power_w(config, 4096, prefill_s(cost, 4096)))
    decode = float(engine_power_w(config, 64, decode_s(cost, 64, 4000)))
    assert decode < prefill <= 4 * (device.tdp_w or 0)
    rows = engine_power_w(config, np.array([8, 64]), decode_s(cost, np.array([8, 64]), 4000))
    assert rows[1] == pytest.approx(decode)


def test_joules_and_grams_by_hand(catalog: Catalog) -> None:
    device = replace(catalog.device("h100-sxm"), embodied_kgco2e=164.0)
    assert joules_per_h(500, SITE) == pytest.approx(500 * 1.2 * 3600)
    assert gco2e_per_h(device, 500, SITE) == pytest.approx(0.5 * 1.2 * 400 + 164_000 / 35_040)
    assert gco2e_per_h(replace(device, embodied_kgco2e=None), 500, SITE) == pytest.approx(240)
    dark = Site(id="dark", usd_per_kwh=0.1, sources=SITE.sources)
    with pytest.raises(InputError, match="no known grid intensity of site dark"):
        gco2e_per_h(device, 500, dark)


@settings(deadline=None)
@given(compute=st.floats(0, 1), memory=st.floats(0, 1), busy=st.floats(0, 1))
def test_power_stays_between_idle_and_limit(compute: float, memory: float, busy: float) -> None:
    for name in ("h100-sxm", "mi300x", "gaudi3", "rtx4090"):
        device = packaged().device(name)
        watts = float(power_w(device, compute, memory, busy))
        assert 0 < watts <= (device.tdp_w or 0) + 1e-9


@settings(deadline=None)
@given(
    tokens=st.integers(1, 20_000),
    step_s=st.floats(1e-5, 10),
    pairs=st.floats(0, 1e10),
    context=st.floats(0, 1e7),
    tp=st.sampled_from([1, 2, 4, 8]),
    name=st.sampled_from(["h100-sxm", "a100-80-sxm", "b200", "mi300x", "gaudi3"]),
)
def test_no_engine_draws_more_than_its_limit_however_short_the_iteration(
    tokens: int, step_s: float, pairs: float, context: float, tp: int, name: str
) -> None:
    config = EngineConfig(packaged().device(name), packaged().model("Meta-Llama-3.1-8B"), tp)
    watts = float(engine_power_w(config, tokens, step_s, pairs=pairs, context=context))
    assert tp * idle_w(config.device) - 1e-6 <= watts <= tp * (config.device.tdp_w or 0) + 1e-6


def test_long_contexts_draw_more_than_the_linear_layers_alone(catalog: Catalog) -> None:
    config = EngineConfig(catalog.device("h100-sxm"), catalog.model("Meta-Llama-3.1-8B"))
    seconds = decode_s(step_cost(config), 64, 16_000)
    assert engine_power_w(config, 64, seconds, context=64 * 16_000) > 1.1 * engine_power_w(config, 64, seconds)


def test_joules_of_a_call_are_its_prefill_and_its_output(catalog: Catalog) -> None:
    config = EngineConfig(catalog.device("h100-sxm"), catalog.model("Meta-Llama-3.1-8B"))
    cost = step_cost(config)
    call = Calls(4000, 1000, 200)
    joules = float(call_j(config, cost, call, 16))
    parts = prefill_j(config, cost, 3000, 1000) + 200 * decode_j(config, cost, 16, 4100)
    assert joules == pytest.approx(float(parts))
    assert decode_j(config, cost, 64, 4100) < decode_j(config, cost, 1, 4100), "a batch shares the weight reads"
    assert float(prefill_j(config, cost, 3000)) / 3000 < float(decode_j(config, cost, 16, 4100))
    point = OperatingPoint(config, call, 16)
    assert point.watts <= config.device.tdp_w
    assert point.joules == pytest.approx(joules)
    operational, embodied = point.gco2e(SITE, 100.0)
    assert operational == pytest.approx(joules * 1.2 / 3.6e6 * 100)
    seconds = float(point.seconds.total_s)
    assert embodied == pytest.approx(164_000 / (4 * 8760 * 3600) * seconds, rel=1e-6)


def test_power_of_llama_2_70b_on_a100(catalog: Catalog, shared_data: Path) -> None:
    """Mean power of whole runs, nearly all decode; the share of the prefill weighed in."""
    device, model, errors = catalog.device("a100-80-sxm"), catalog.model("Llama-2-70B"), []
    with (shared_data / "measured" / "iteration_splitwise.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if not row["avg_power_tdp_frac"] or float(row["avg_power_tdp_frac"]) < 0.2:
                continue  # missing, or a run that idled
            tp, prompt, batch, output = (
                int(row[name]) for name in ("tensor_parallel", "prompt_size", "batch_size", "token_size")
            )
            config = EngineConfig(device, model, tp)
            prefill, step, whole = (float(row[name]) / 1e3 for name in ("prompt_ms", "token_ms", "e2e_ms"))
            pairs, context = batch * prompt**2 / 2, batch * (prompt + output / 2)
            decode = engine_power_w(config, batch, step, context=context)
            joules = prefill * engine_power_w(config, batch * prompt, prefill, pairs=pairs) + (whole - prefill) * decode
            errors.append(abs(joules / whole / tp / 400 / float(row["avg_power_tdp_frac"]) - 1))
    assert len(errors) == 20
    assert median(errors) < 0.05, errors


def test_intensity_of_a_window_by_hand() -> None:
    day = [100.0] * 12 + [300.0] * 12
    assert grid_gco2e_per_kwh(SITE) == 400
    assert grid_gco2e_per_kwh(SITE, day) == 100
    assert grid_gco2e_per_kwh(SITE, day, 11.5, 1.0) == pytest.approx(200)
    assert grid_gco2e_per_kwh(SITE, day, 23.0, 2.0) == pytest.approx(200), "it repeats"
    assert grid_gco2e_per_kwh(SITE, day, 5.0, 240.0) == pytest.approx(200)
    assert gco2e_per_h(replace(packaged().device("h100-sxm"), embodied_kgco2e=None), 1000, SITE, grid=100.0) == 120
    with pytest.raises(InputError, match="length above 0"):
        grid_gco2e_per_kwh(SITE, day, hours=0)


@settings(deadline=None)
@given(st.lists(st.floats(0, 900), min_size=1, max_size=168), st.floats(0, 400), st.floats(0.1, 400))
def test_intensity_of_a_window_is_between_the_extremes(hourly: list[float], start: float, hours: float) -> None:
    assert min(hourly) - 1e-6 <= grid_gco2e_per_kwh(SITE, hourly, start, hours) <= max(hourly) + 1e-6


def test_real_weeks_show_when_to_run(shared_data: Path) -> None:
    with (shared_data / "traces" / "carbon_intensity" / "weekly_hourly.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for zone in {row["zone"] for row in rows}:
        week = [float(row["gco2_per_kwh"]) for row in rows if row["zone"] == zone and row["gco2_per_kwh"]]
        windows = [grid_gco2e_per_kwh(SITE, week, start, 4.0) for start in range(len(week))]
        assert np.mean(windows) == pytest.approx(np.mean(week))
        assert min(windows) < 0.7 * np.mean(week)


def test_embodied_share_of_an_hour(catalog: Catalog) -> None:
    device = replace(catalog.device("h100-sxm"), embodied_kgco2e=164.0)
    assert embodied_gco2e_per_h(device) == pytest.approx(164_000 / 35_040)
    assert embodied_gco2e_per_h(device, 8.0) == pytest.approx(164_000 / 70_080)
    assert embodied_gco2e_per_h(replace(device, embodied_kgco2e=None)) == 0
