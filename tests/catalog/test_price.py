"""Quotes: dated, of one kind, per hour or per device."""

from __future__ import annotations

from pathlib import Path

import pytest

from heterarch.catalog import QUOTE_KINDS, Catalog
from heterarch.errors import InputError
from heterarch.units import Grade

PRICES = "device_id,provider,kind,usd_per_device_hour,usd_per_device,date,grade,source\n"


@pytest.mark.parametrize(
    ("device", "usd"),
    [("a40", 3000), ("a100-80-sxm", 8000), ("gaudi3", 12500), ("mi300x", 20000), ("h100-sxm", 25000), ("b200", 40000)],
)
def test_purchase_prices_of_the_founding_paper(catalog: Catalog, device: str, usd: float) -> None:
    quote = catalog.quotes_for(device, "purchase")[0]
    assert (quote.usd, quote.unit, quote.date, quote.provider) == (usd, "usd_per_device", "2025-06", "resellers")
    assert "2507.19635 Table 5" in quote.source.citation


def test_list_prices_of_devices_are_quotes(catalog: Catalog) -> None:
    (quote,) = catalog.quotes_for("rtx4090", "purchase")
    assert (quote.usd, quote.date, quote.source.grade) == (1599, "2022", Grade.RECALLED)
    assert [q.usd for q in catalog.quotes_for("gaudi3", "purchase")] == [12500, 15625]  # newest first


def test_quotes_are_ordered_newest_then_cheapest(catalog: Catalog) -> None:
    quotes = catalog.quotes_for("h100-sxm", "on-demand")
    assert [(q.provider, q.usd) for q in quotes] == [("verda", 2.29), ("hyperstack", 2.4), ("nebius", 2.95)]
    assert {q.kind for q in catalog.quotes_for("h100-sxm")} == set(QUOTE_KINDS)
    assert catalog.quotes_for("h100-sxm", "no such kind") == ()


def test_grades_follow_the_kind(catalog: Catalog) -> None:
    grades = {q.kind: q.source.grade for q in catalog.quotes_for("h100-sxm")}
    assert grades["on-demand"] == Grade.VENDOR
    assert grades["owner-neocloud"] == grades["rental-3yr"] == Grade.DERIVED
    assert grades["paper-cost"] == Grade.DECLARED


def test_a_vcpu_can_be_rented_and_bought(catalog: Catalog) -> None:
    kinds = {q.kind for q in catalog.quotes_for("cpu-vcpu")}
    assert {"on-demand", "spot", "purchase"} <= kinds


def test_a_users_quote_is_added_and_replaces_its_like(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(
        PRICES + "t4,us,on-demand,0.3,,2026-10-01,declared,contract\n"
        "h100-sxm,verda,spot,0.9,,2026,,price list\n"
        "t4,us,purchase,,900,2026,,invoice\n"
    )
    mine = Catalog.load(path)
    (hourly,) = mine.quotes_for("t4", "on-demand")
    assert (hourly.usd, hourly.unit, hourly.source.grade) == (0.3, "usd_per_device_h", Grade.DECLARED)
    assert [q.usd for q in mine.quotes_for("h100-sxm", "spot")] == [0.9, 1.25]
    assert mine.quotes_for("t4", "purchase")[0].unit == "usd_per_device"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("t5,us,spot,1,,2026,,x", "unknown device 't5'"),
        ("t4,us,spots,1,,2026,,x", "unknown kind of quote 'spots'"),
        ("t4,us,spot,,,2026,,x", "needs a price"),
        ("t4,us,spot,1,5,2026,,x", "needs a price"),
        ("t4,us,purchase,1,,2026,,x", "needs a price in 'usd_per_device'"),
        ("t4,us,spot,1,,,,x", "'date' must not be empty"),
        ("t4,us,spot,1,,last May,,x", "the date is not ISO"),
        ("t4,us,spot,1,,2026,sure,x", "unknown grade 'sure'"),
        ("t4,us,spot,1,,2026,,", "'source' must not be empty"),
        ("t4,,spot,1,,2026,,x", "'provider' must not be empty"),
    ],
)
def test_a_wrong_quote_is_refused_with_its_line(tmp_path: Path, row: str, said: str) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(PRICES + row + "\n")
    with pytest.raises(InputError, match=said) as caught:
        Catalog.load(path)
    assert str(caught.value.where) == f"{path}:2"
