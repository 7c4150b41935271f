"""Watts, joules and grams against the fits and by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.server import Site
from heterarch.cost.energy import engine_power_w, gco2e_per_h, joules_per_h, power_w
from heterarch.cost.engine import EngineConfig, decode_s, prefill_s, step_cost
from heterarch.errors import InputError
from heterarch.units import Grade, Source

SITE = Site(id="here", usd_per_kwh=0.1, pue=1.2, gco2e_per_kwh=400.0, sources={"*": Source(Grade.DECLARED, "test")})


@cache
def packaged() -> Catalog:
    return Catalog.load()


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
    prefill = float(engine_power_w(config, cost, 4096, prefill_s(cost, 4096)))
    decode = float(engine_power_w(config, cost, 64, decode_s(cost, 64, 4000)))
    assert decode < prefill <= 4 * (device.tdp_w or 0)
    rows = engine_power_w(config, cost, np.array([8, 64]), decode_s(cost, np.array([8, 64]), 4000))
    assert rows[1] == pytest.approx(decode)


def test_joules_and_grams_by_hand(catalog: Catalog) -> None:
    device = replace(catalog.device("h100-sxm"), embodied_kgco2e=164.0)
    assert joules_per_h(500, SITE) == pytest.approx(500 * 1.2 * 3600)
    assert gco2e_per_h(device, 500, SITE) == pytest.approx(0.5 * 1.2 * 400 + 164_000 / 35_040)
    assert gco2e_per_h(replace(device, embodied_kgco2e=None), 500, SITE) == pytest.approx(240)
    dark = Site(id="dark", usd_per_kwh=0.1, sources=SITE.sources)
    with pytest.raises(InputError, match="no known grid intensity of site dark"):
        gco2e_per_h(device, 500, dark)


@given(compute=st.floats(0, 1), memory=st.floats(0, 1), busy=st.floats(0, 1))
def test_power_stays_between_idle_and_limit(compute: float, memory: float, busy: float) -> None:
    for name in ("h100-sxm", "mi300x", "gaudi3", "rtx4090"):
        device = packaged().device(name)
        watts = float(power_w(device, compute, memory, busy))
        assert 0 < watts <= (device.tdp_w or 0) + 1e-9
