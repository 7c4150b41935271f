"""Money per token, call and run: hand-worked and printed figures, and sums that must come out."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.hosted import TokenPrice
from heterarch.cost.config import EngineConfig
from heterarch.cost.engine import decode_s, prefill_s
from heterarch.cost.money.accounting import Accounting, MissingPriceError, Money, OwnerTerms, find_quote
from heterarch.cost.money.endpoint import binding_limit, calls_per_s
from heterarch.cost.money.operating import OperatingPoint, operating_point, widths
from heterarch.cost.money.sensitivity import Case, cases, ranking
from heterarch.cost.money.spot import Preemption
from heterarch.cost.money.tco import (
    Calls,
    OwnPrices,
    engine_seconds,
    marginal_cost,
    mean_usd_per_mtok,
    run_usd,
    token_prices,
    tokens_per_s_per_mw,
    usd_per_mtok,
)
from heterarch.cost.step import StepCost
from heterarch.errors import InputError
from heterarch.units import Grade, Source

SOURCE = Source(Grade.DECLARED, "test")
#: 1 ms a pass, 10 us a token, attention by pair and by token of context
COST = StepCost(1e-3, 1e-5, pair_s=1e-9, context_s=1e-8, sequence_s=1e-5)


def test_engine_seconds_by_hand() -> None:
    seconds = engine_seconds(COST, Calls(1000, 900, 10), 4, kv_load_s=1e-7)
    assert seconds.fresh_s == pytest.approx(1e-3 + 100e-5 + 100 * 50e-9 + 1e-5)
    assert seconds.cached_s == pytest.approx(100 * 900e-9 + 900e-7), "fresh tokens attend to it, and its KV is loaded"
    assert seconds.output_s == pytest.approx(10 * (1e-3 + 4e-5 + 4 * 1005e-8 + 4e-5) / 4)
    assert float(seconds.fresh_s + engine_seconds(COST, Calls(1000, 900), 1).cached_s) == pytest.approx(
        prefill_s(COST, 100, 900)
    )


TOKENS = st.integers(1, 5000)


@settings(deadline=None)
@given(
    calls=st.lists(st.tuples(TOKENS, st.integers(0, 100_000), st.integers(0, 3000), st.integers(1, 9)), min_size=1),
    batch=st.integers(1, 256),
    usd=st.floats(0.01, 100),
    load=st.sampled_from([0.0, 2e-6]),
)
def test_billing_by_tokens_returns_the_price_of_the_hours(
    calls: list[tuple[int, int, int, int]], batch: int, usd: float, load: float
) -> None:
    fresh, cached, output, count = np.array(calls, float).T
    workload = Calls(fresh + cached, cached, output, count)
    seconds = engine_seconds(COST, workload, batch, kv_load_s=load)
    prices = token_prices(seconds, workload, usd)
    hours = workload.total(seconds.total_s) / 3600
    assert run_usd(prices, workload) == pytest.approx(usd * hours, rel=1e-9)
    tokens = float(((fresh + cached + output) * count).sum())
    assert mean_usd_per_mtok(prices, workload) == pytest.approx(usd_per_mtok(usd, tokens / hours / 3600), rel=1e-9)
    assert min(prices.input_usd_per_mtok, prices.cached_usd_per_mtok, prices.output_usd_per_mtok) >= 0


def test_inferencex_form() -> None:
    assert usd_per_mtok(1.30, 1000) == pytest.approx(0.361, abs=5e-4)
    assert usd_per_mtok(1.95, 4000) == pytest.approx(0.135, abs=5e-4)
    assert tokens_per_s_per_mw(1000, 1730) == pytest.approx(1000 / 1.73 * 1000)


def test_cached_tokens_are_cheap_and_output_dear_on_a_real_engine(catalog: Catalog) -> None:
    config = EngineConfig(catalog.device("h100-sxm"), catalog.model("Meta-Llama-3.1-8B"))
    point = OperatingPoint(config, Calls(8000, 6000, 300), 16)
    prices = point.prices(2.29)
    assert 0 < prices.cached_usd_per_mtok < 0.2 * prices.input_usd_per_mtok < prices.output_usd_per_mtok
    usd = run_usd(prices, point.calls)
    assert usd == pytest.approx(2.29 * float(point.seconds.total_s) / 3600)
    assert point.tokens_per_s * float(point.seconds.total_s) == pytest.approx(8300)
    assert point.tpot_s > float(decode_s(point.cost, 16, 8150))
    run = Calls([8000.0, 9000.0], [6000.0, 8500.0], [300.0, 200.0], [3.0, 1.0])
    tools = run_usd(prices, run, tool_s=60, tool_usd_per_h=0.6) - run_usd(prices, run)
    assert tools == pytest.approx(0.01)


def test_hosted_api_bills_and_limits() -> None:
    price = TokenPrice(
        input_usd_per_mtok=3, cached_usd_per_mtok=0.3, output_usd_per_mtok=15, date="2026-01-01", source=SOURCE
    )
    run = Calls([10_000.0, 12_000.0], [0.0, 10_000.0], [500.0, 1000.0])
    assert run_usd(price, run) == pytest.approx((10_000 * 3 + 500 * 15 + 2000 * 3 + 10_000 * 0.3 + 1000 * 15) / 1e6)
    assert mean_usd_per_mtok(price, run) == pytest.approx(run_usd(price, run) / 23_500 * 1e6)
    assert binding_limit(600, 1_200_000, 3500, 500) == (5.0, "tokens/min")
    assert binding_limit(60, 1_200_000, 3500, 500) == (1.0, "requests/min")
    assert calls_per_s(None, None, 1, 1) == float("inf")


@pytest.mark.parametrize("bad", [{"prompt_tokens": 10, "cached_tokens": 10}, {"prompt_tokens": 5, "output_tokens": -1}])
def test_calls_that_cannot_be(bad: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Calls(**bad)


def test_marginal_cost_under_any_accounting(catalog: Catalog) -> None:
    device = catalog.device("mi300x")
    unit = marginal_cost(device, 1.12)
    assert (unit.usd_per_gb, unit.usd_per_gb_per_s) == (pytest.approx(1.12 / 192), pytest.approx(1.12 / 5300))
    assert unit.usd_per_tflops == pytest.approx(1.12 / 1307)
    assert marginal_cost(catalog.device("cpu-vcpu"), 0.01, "fp4").usd_per_tflops is None


def test_narrowest_engine_that_holds_the_batch(catalog: Catalog) -> None:
    config = EngineConfig(catalog.device("h100-sxm"), catalog.model("Meta-Llama-3.1-70B"), dtype="fp8")
    point = operating_point(widths(config), Calls(4000, 0, 500), 32)
    assert (point.config.tp, point.batch) == (2, 32)
    assert operating_point(widths(config, (2,)), Calls(4000, 0, 500), 1000).batch < 1000
    with pytest.raises(InputError, match="do not fit"):
        operating_point(widths(config, (1,)), Calls(4000, 0, 500), 32)


def test_cases_vary_only_what_an_accounting_depends_on() -> None:
    found = cases(list(Accounting), usd_per_kwh=[0.05, 0.3], utilisation=[0.3, 0.6, 0.9], years=[3, 4])
    counts = {name: sum(case.accounting is name for case in found) for name in Accounting}
    assert counts == {
        Accounting.OWNER_ANNUITY: 12,
        Accounting.PURCHASE_ONLY: 2,
        Accounting.SUNK: 2,
        Accounting.RENTAL: 1,
        Accounting.SPOT: 1,
        Accounting.FOUNDING_TABLE5: 1,
    }


def test_ranking_flips_with_the_accounting(catalog: Catalog) -> None:
    """H100 costs 1.56 times as much as Gaudi 3 under the annuity of the founding paper, but 2 times to buy."""
    model, site = catalog.model("Meta-Llama-3.1-8B"), catalog.site("us-average")
    names = ("a100-80-sxm", "h100-sxm", "b200", "mi300x", "gaudi3")
    points = [OperatingPoint(EngineConfig(catalog.device(name), model), Calls(4000, 0, 500), 32) for name in names]

    def money(case: Case, point: OperatingPoint) -> Money:
        return case.money(catalog, point.config.device.id, site, OwnerTerms(), Preemption())

    found = [ranking(case, points, money) for case in cases(list(Accounting), utilisation=[0.2, 0.9])]
    orders = {tuple(entry.usd_per_mtok) for entry in found if len(entry.usd_per_mtok) == len(names)}
    assert len(orders) > 1
    for entry in found:
        assert list(entry.usd_per_mtok.values()) == sorted(entry.usd_per_mtok.values())
        assert {*entry.usd_per_mtok, *entry.left_out} == set(names)
    rental = next(entry for entry in found if entry.case.accounting is Accounting.RENTAL)
    assert "no on-demand price for gaudi3" in rental.left_out["gaudi3"]
    dear, cheap = (entry for entry in found if entry.case.accounting is Accounting.OWNER_ANNUITY)
    assert all(dear.usd_per_mtok[name] > cheap.usd_per_mtok[name] for name in names)


def test_dearer_power_never_makes_an_owner_cheaper(catalog: Catalog) -> None:
    site = catalog.site("us-average")
    for accounting in (Accounting.OWNER_ANNUITY, Accounting.SUNK):
        usd = [
            case.money(catalog, "b200", site, OwnerTerms(), Preemption()).usd_per_h
            for case in cases([accounting], usd_per_kwh=[0.05, 0.12, 0.3])
        ]
        assert usd == sorted(usd)
    with pytest.raises(MissingPriceError):
        Case(Accounting.SPOT).money(catalog, "gaudi3", site, OwnerTerms(), Preemption())


# ---- Splitwise, arXiv 2311.18677: per-phase advantage of A100 and H100 by its own cost and power

POWER = {"a100-80gb": 24.8, "h100-80gb": 44.0}  # per server, normalised
DEVICE = {"a100-80gb": "a100-80-sxm", "h100-80gb": "h100-sxm"}


@pytest.mark.parametrize(
    ("phase", "prompt", "batch", "rates", "h100_per_cost", "h100_per_power"),
    [
        ("prompt", 2048, 1, (7_468, 14_971), 1 / 1.08, 1.13),
        ("prompt", 512, 16, (3_930, 10_090), 1.19, 1.45),
        ("token", 512, 1, (22, 34), 1 / 1.43, 1 / 1.18),
        ("token", 512, 16, (317, 468), 1 / 1.46, 1 / 1.20),
        ("token", 512, 64, (894, 1_276), 1 / 1.51, 1 / 1.24),
    ],
)
def test_splitwise_phases_of_llama_2_70b(
    catalog: Catalog,
    shared_data: Path,
    phase: str,
    prompt: int,
    batch: int,
    rates: tuple[int, int],
    h100_per_cost: float,
    h100_per_power: float,
) -> None:
    """Old devices win decode per dollar and per watt, new ones large-batch prefill; no simulator needed."""
    found = {}
    with (shared_data / "measured" / "iteration_splitwise.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            shape = [int(row[name]) for name in ("tensor_parallel", "prompt_size", "batch_size", "token_size")]
            if shape == [8, prompt, batch, 128]:
                tokens = prompt * batch if phase == "prompt" else batch
                found.setdefault(row["hardware"], []).append(tokens / float(row[f"{phase}_ms"]) * 1e3)
    rate = {hardware: median(values) for hardware, values in found.items()}
    assert [rate[name] for name in DEVICE] == pytest.approx(rates, rel=0.03)
    cost = {n: find_quote(catalog.device(d), "paper-cost", catalog.quotes_for(d)).usd for n, d in DEVICE.items()}
    per_mtok = {name: usd_per_mtok(cost[name], rate[name]) for name in DEVICE}
    assert per_mtok["a100-80gb"] / per_mtok["h100-80gb"] == pytest.approx(h100_per_cost, rel=0.03)
    ratio = rate["h100-80gb"] / rate["a100-80gb"] * POWER["a100-80gb"] / POWER["h100-80gb"]
    assert ratio == pytest.approx(h100_per_power, rel=0.03)


def test_splitwise_equal_budgets(catalog: Catalog) -> None:
    a100, h100 = (find_quote(catalog.device(d), "paper-cost", catalog.quotes_for(d)).usd for d in DEVICE.values())
    assert 86 * a100 <= 40 * h100 < 87 * a100
    assert 70 * POWER["a100-80gb"] <= 40 * POWER["h100-80gb"] < 71 * POWER["a100-80gb"]


def test_own_prices_are_billed_like_an_api() -> None:
    assert run_usd(OwnPrices(1.0, 0.1, 4.0), Calls(1_000_000, 500_000, 250_000)) == pytest.approx(0.5 + 0.05 + 1.0)
