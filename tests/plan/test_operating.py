"""Operating points: rates, batches and hits agree with each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.engine import EngineConfig, engine_table
from heterarch.plan.mix import Mix, mix_of
from heterarch.plan.operating import Engine, Model, prefill_seconds
from heterarch.plan.walk import walk
from heterarch.workload.distribution import lognormal

from .programs import SMALL, looped, lower, workload


@pytest.fixture(scope="module")
def mix() -> Mix:
    flat, _ = lower(looped)
    load = workload(rate_per_s=2.0, requests=4.0).model_copy(update={"think_s": lognormal(p50=30.0, p95=300.0)})
    seen = walk(flat, load, requests=200)
    op = flat.names.index("step.decode")
    return mix_of(SMALL, load.requests_per_s * seen.runs[op], seen.calls, [op])


@pytest.fixture(scope="module")
def engine() -> Engine:
    catalog = Catalog.load()
    config = EngineConfig(catalog.device("a100-80-sxm"), catalog.model(SMALL))
    table = engine_table([config])
    return Engine(config, table.row(0), int(table.kv_tokens[0]), int(table.kv_bytes_per_token[0]), 1.3, "a100-80-sxm")


def with_kv(engine: Engine, tokens: int) -> Engine:
    return Engine(engine.config, engine.cost, tokens, engine.kv_bytes_per_token, engine.usd_per_h, engine.supply)


@pytest.mark.parametrize("role", ["decode", "mixed"])
def test_batch_and_rate_are_inverse(mix: Mix, engine: Engine, role: str) -> None:
    model = Model(engine, mix, role)
    for batch in (0.5, 4.0, 30.0):
        rate = model.rate_at_batch(batch)
        point = model.point(rate)
        assert point is not None
        assert point.batch == pytest.approx(batch, rel=2e-2), (
            "steps of the kernels: near it other batches carry as much"
        )
        assert point.batch == pytest.approx(rate * mix.mean_output * point.tpot_s, rel=1e-3)  # Little's law


def test_prefill_is_as_busy_as_asked(mix: Mix, engine: Engine) -> None:
    model = Model(engine, mix, "prefill")
    rates = []
    for busy in (0.3, 0.6, 0.85):
        point = model.point(model.rate_at_busy(busy))
        assert point is not None
        assert point.busy == pytest.approx(busy, rel=0.02)  # 800 rows
        rates.append(point.calls_per_s)
        assert point.wait_s > 0
    assert rates == sorted(rates)


def test_less_kv_memory_means_shorter_stay_and_more_prefill(mix: Mix, engine: Engine) -> None:
    ages, services = [], []
    for tokens in (engine.kv_tokens, 60_000, 20_000):
        model = Model(with_kv(engine, tokens), mix, "mixed")
        point = model.point(2.0)
        assert point is not None
        ages.append(point.age_s)
        services.append(float(point.service.mean()))
    assert ages == sorted(ages, reverse=True)
    assert services == sorted(services)
    assert services[-1] > services[0]


def test_too_much_load_or_too_long_calls_have_no_point(mix: Mix, engine: Engine) -> None:
    assert Model(engine, mix, "mixed").point(1e5) is None
    assert Model(with_kv(engine, 1000), mix, "mixed").point(0.1) is None
    assert Model(with_kv(engine, 1000), mix, "prefill").point(0.1) is None
    assert Model(with_kv(engine, 1000), mix, "decode").most_sequences == 0.0


def test_chunks_add_up(engine: Engine) -> None:
    cost = engine.cost
    one, two = (prefill_seconds(cost, np.array([n]), np.zeros(1), 2048)[0] for n in (2048.0, 4096.0))
    attention = cost.pair_s * (4096**2 - 2 * 2048**2) / 2
    assert two == pytest.approx(2 * one + attention)
    beside = prefill_seconds(cost, np.array([2048.0]), np.zeros(1), 2048, 32.0, 1000.0)[0]
    assert beside > one


def test_an_engine_without_decode_recomputes_the_last_answer(mix: Mix) -> None:
    again = np.isfinite(mix.gap_s)
    assert np.allclose(mix.found(False)[again] - mix.found(True)[again], 50.0)
    assert math.isclose(mix.share(mix.output, int(mix.op[0])), 1.0)
