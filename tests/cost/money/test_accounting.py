"""Dollars per hour against printed figures and by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.fleet import PriceOverride
from heterarch.catalog.price import Quote
from heterarch.catalog.server import Site
from heterarch.cost.money.accounting import (
    Accounting,
    MissingPriceError,
    OwnerTerms,
    annuity_usd_per_h,
    capital_recovery_factor,
    energy_usd_per_h,
    find_quote,
    own_quotes,
    usd_per_device_h,
)
from heterarch.cost.money.spot import Preemption
from heterarch.cost.money.tco import marginal_cost
from heterarch.errors import InputError
from heterarch.units import Grade, Source

SOURCE = Source(Grade.DECLARED, "test")
SITE = Site(id="here", usd_per_kwh=0.08, pue=1.25, sources={"*": SOURCE})
BILL_TDP = OwnerTerms(power="tdp")

# arXiv 2507.19635, table 5: purchase USD, printed $/h; our full annuity + energy
TABLE5 = {
    "a40": (3_000, 0.15, 0.220),
    "a100-80-sxm": (8_000, 0.25, 0.428),
    "gaudi3": (12_500, 0.49, 0.778),
    "mi300x": (20_000, 0.52, 0.969),
    "h100-sxm": (25_000, 0.60, 1.116),
    "b200": (40_000, 0.83, 1.738),
}


def purchase(device: str, usd: float, kind: str = "purchase", provider: str = "shop") -> Quote:
    unit = "usd_per_device" if kind == "purchase" else "usd_per_device_h"
    return Quote(device, provider, kind, usd, unit, "2025-06", SOURCE)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(set(TABLE5) - {"h100-sxm"}))
def test_founding_table_5_to_the_cent(catalog: Catalog, name: str) -> None:
    price, printed, _ = TABLE5[name]
    money = usd_per_device_h(catalog.device(name), "founding-table5", [purchase(name, price)])
    assert money.usd_per_h == pytest.approx(printed, abs=0.006)


def test_founding_table_5_h100_matches_only_at_30000(catalog: Catalog) -> None:
    device = catalog.device("h100-sxm")
    usd = [usd_per_device_h(device, "founding-table5", [purchase(device.id, p)]).usd_per_h for p in (25_000, 30_000)]
    assert usd == pytest.approx([0.549, 0.603], abs=0.0005)


@pytest.mark.parametrize("name", sorted(TABLE5))
def test_full_annuity_column_is_monthly_payments(catalog: Catalog, name: str) -> None:
    price, _, printed = TABLE5[name]
    money = usd_per_device_h(
        catalog.device(name), "owner-annuity", [purchase(name, price)], catalog.site("founding-paper"), terms=BILL_TDP
    )
    assert money.usd_per_h == pytest.approx(printed, rel=0.005)
    yearly = price * capital_recovery_factor(0.08, 4) / 8760 + money.energy_usd_per_h
    assert yearly > money.usd_per_h * 1.01, "yearly payments do not give the printed column"


@pytest.mark.parametrize(
    ("name", "annuity", "bought"),
    [("h100-sxm", 1.1161, 0.7135), ("b200", 1.7377, 1.1416), ("gaudi3", 0.7780, 0.3567), ("mi300x", 0.9688, 0.5708)],
)
def test_recomputed_accountings_to_four_places(catalog: Catalog, name: str, annuity: float, bought: float) -> None:
    device, quotes = catalog.device(name), [purchase(name, TABLE5[name][0])]
    site = catalog.site("founding-paper")
    owned = usd_per_device_h(device, Accounting.OWNER_ANNUITY, quotes, site, terms=BILL_TDP)
    assert owned.usd_per_h == pytest.approx(annuity, abs=5e-5)
    assert usd_per_device_h(device, Accounting.PURCHASE_ONLY, quotes).usd_per_h == pytest.approx(bought, abs=5e-5)


@pytest.mark.parametrize("name", sorted(TABLE5))
def test_packaged_quotes_give_table_5(catalog: Catalog, name: str) -> None:
    quote = find_quote(catalog.device(name), "purchase", catalog.quotes_for(name))
    assert quote.usd == TABLE5[name][0]


def test_capital_recovery_factor_check_values() -> None:
    factor = capital_recovery_factor(0.08, 4)
    assert factor == pytest.approx(0.30192, abs=5e-6)
    assert 30_000 * factor / 8760 == pytest.approx(1.034, abs=5e-4)
    assert 30_000 * capital_recovery_factor(0.0, 4) / 8760 == pytest.approx(0.856, abs=5e-4)


def test_energy_check_value(catalog: Catalog) -> None:
    device = replace(catalog.device("h100-sxm"), wall_w=1730.0, tdp_w=700.0)
    assert energy_usd_per_h(device, SITE) == pytest.approx(0.173)
    assert energy_usd_per_h(device, SITE, "tdp") == pytest.approx(0.7 * 1.25 * 0.08)


@pytest.mark.parametrize(
    ("name", "mem_gb", "gb_per_s", "per_gb_per_s", "per_gb"),
    [
        ("a40", 48, 696, 4.31, 62.5),
        ("a100-80-sxm", 80, 2039, 3.92, 100.0),
        ("gaudi3", 128, 3700, 3.38, 97.7),
        ("mi300x", 192, 5300, 3.77, 104.2),
        ("h100-sxm", 80, 3350, 7.46, 312.5),
        ("b200", 192, 8000, 5.00, 208.3),
    ],
)
def test_marginal_costs_of_figure_4(
    catalog: Catalog, name: str, mem_gb: int, gb_per_s: int, per_gb_per_s: float, per_gb: float
) -> None:
    device = replace(catalog.device(name), mem_bytes=mem_gb * 10**9, mem_bytes_per_s=gb_per_s * 1e9)
    cost = marginal_cost(device, TABLE5[name][0])
    assert round(cost.usd_per_gb_per_s or 0, 2) == per_gb_per_s
    assert round(cost.usd_per_gb or 0, 1) == per_gb


def test_sunk_counts_power_and_operation_only(catalog: Catalog) -> None:
    device = replace(catalog.device("h100-sxm"), wall_w=1730.0)
    money = usd_per_device_h(device, "sunk", [], SITE, terms=OwnerTerms(operation_usd_per_h=0.1))
    assert money.usd_per_h == pytest.approx(0.173 + 0.1)
    assert money.capital_usd_per_h == 0
    sold = usd_per_device_h(device, "sunk", [], SITE, terms=OwnerTerms(resale_usd=35_040, years=4))
    assert sold.capital_usd_per_h == pytest.approx(1.0)


def test_rental_and_spot_take_the_cheapest_quote_of_their_kind(catalog: Catalog) -> None:
    device = catalog.device("h100-sxm")
    quotes = [
        purchase(device.id, 3.0, "on-demand", "a"),
        purchase(device.id, 2.0, "on-demand", "b"),
        purchase(device.id, 0.5, "spot", "a"),
        purchase("b200", 0.1, "on-demand", "b"),
    ]
    assert usd_per_device_h(device, "rental", quotes).usd_per_h == 2.0
    assert usd_per_device_h(device, "rental", quotes, provider="a").usd_per_h == 3.0
    assert usd_per_device_h(device, "spot", quotes).usd_per_h == 0.5


def test_preemption_raises_the_price_of_a_useful_spot_hour_only(catalog: Catalog) -> None:
    device = catalog.device("h100-sxm")
    quotes = [purchase(device.id, 3.0, "on-demand"), purchase(device.id, 0.8, "spot")]
    terms = Preemption(per_h=0.5, restart_s=300, lost_s=60)
    money = usd_per_device_h(device, "spot", quotes, preemption=terms)
    assert money.usd_per_h == pytest.approx(0.8 * math.exp(0.05))
    assert money.lost_usd_per_h == pytest.approx(money.usd_per_h - 0.8)
    assert money.source.grade is Grade.GUESS
    assert usd_per_device_h(device, "rental", quotes, preemption=terms).usd_per_h == 3.0
    assert usd_per_device_h(device, "spot", quotes).usd_per_h == 0.8, "as quoted, where it is not asked for"


def test_a_missing_kind_is_never_replaced_by_another(catalog: Catalog) -> None:
    device = catalog.device("mi300x")
    quotes = [purchase(device.id, 20_000), purchase(device.id, 1.55, "rental-3yr", "lessor")]
    with pytest.raises(MissingPriceError) as caught:
        usd_per_device_h(device, "rental", quotes)
    text = str(caught.value)
    assert "mi300x" in text
    assert "on-demand" in text
    assert "purchase (shop), rental-3yr (lessor)" in text
    assert usd_per_device_h(device, "rental", quotes, kind="rental-3yr").usd_per_h == 1.55


def test_the_fleets_own_price_stands_for_quotes(catalog: Catalog) -> None:
    price = PriceOverride(usd_per_device_h=1.1, usd_per_device=9_000, date="2026-01", source=SOURCE)
    device = catalog.device("mi300x")
    quotes = own_quotes(device.id, price)
    assert usd_per_device_h(device, "rental", quotes).usd_per_h == 1.1
    assert usd_per_device_h(device, "spot", quotes).usd_per_h == 1.1
    assert find_quote(device, "purchase", quotes).usd == 9_000
    bought = PriceOverride(usd_per_device=9_000, source=SOURCE)
    with pytest.raises(MissingPriceError):
        usd_per_device_h(device, "rental", own_quotes(device.id, bought))


def test_a_price_per_device_is_not_read_as_a_price_per_hour(catalog: Catalog) -> None:
    device = catalog.device("mi300x")
    with pytest.raises(InputError, match="cannot read a purchase quote"):
        usd_per_device_h(device, "rental", [purchase(device.id, 20_000)], kind="purchase")


def test_ownership_without_a_site_or_power_says_so(catalog: Catalog) -> None:
    device = catalog.device("mi300x")
    with pytest.raises(MissingPriceError, match="no site"):
        usd_per_device_h(device, "sunk", [])
    with pytest.raises(MissingPriceError, match="no known power of mi300x"):
        usd_per_device_h(replace(device, tdp_w=None, wall_w=None), "sunk", [], SITE)


def test_money_adds_up_and_carries_its_weakest_source(catalog: Catalog) -> None:
    device = catalog.device("b200")
    money = usd_per_device_h(device, "owner-annuity", [purchase("b200", 40_000)], SITE)
    parts = money.capital_usd_per_h + money.energy_usd_per_h + money.operation_usd_per_h + money.lost_usd_per_h
    assert money.usd_per_h == pytest.approx(parts)
    assert money.source.grade is Grade.DECLARED
    assert money.quote is not None
    assert money.quote.usd == 40_000


@settings(deadline=None)
@given(
    rate=st.floats(0, 0.3, allow_subnormal=False),
    years=st.integers(1, 10),
    usd=st.floats(1, 1e6),
    payments=st.sampled_from([1, 4, 12]),
)
def test_payments_discount_to_the_principal(rate: float, years: int, usd: float, payments: int) -> None:
    payment = usd * capital_recovery_factor(rate, years, payments) / payments
    worth = sum(payment / (1 + rate / payments) ** n for n in range(1, years * payments + 1))
    assert worth == pytest.approx(usd, rel=1e-6)


@settings(deadline=None)
@given(resale=st.floats(0, 20_000), used=st.floats(0.1, 1))
def test_resale_lowers_and_idle_hours_raise_the_annuity(resale: float, used: float) -> None:
    plain = annuity_usd_per_h(25_000, OwnerTerms())
    assert annuity_usd_per_h(25_000, OwnerTerms(resale_usd=resale)) <= plain
    assert annuity_usd_per_h(25_000, OwnerTerms(utilisation=used)) == pytest.approx(plain / used)


def test_unknown_facility_power_is_estimated_from_the_tdp(catalog: Catalog) -> None:
    """A device is not cheaper than its neighbours because less is known of it."""
    gaudi = catalog.device("gaudi3")
    assert gaudi.wall_w is None
    assert energy_usd_per_h(gaudi, SITE) == pytest.approx(2.2 * energy_usd_per_h(gaudi, SITE, "tdp"))
    known = [d for d in catalog.devices.values() if d.wall_w and d.tdp_w and d.device_class == "gpu-dc"]
    assert 1.85 < min(d.wall_w / d.tdp_w for d in known) < 2.2 < max(d.wall_w / d.tdp_w for d in known) < 2.5
    money = usd_per_device_h(gaudi, "owner-annuity", [purchase("gaudi3", 12_500)], SITE)
    assert "facility power 2.2 x TDP" in money.source.citation
    assert money.source.grade == "guess"
    vcpu = catalog.device("cpu-vcpu")  # its price stands for a share of a server, not for an accelerator in one
    assert energy_usd_per_h(vcpu, SITE) == energy_usd_per_h(vcpu, SITE, "tdp")
