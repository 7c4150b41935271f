"""What a device costs per hour under a named accounting; the ranking of hardware flips with it, so none is implied."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from heterarch.catalog.device import Device
from heterarch.catalog.fleet import PriceOverride
from heterarch.catalog.price import Quote
from heterarch.catalog.server import Site
from heterarch.cost.money.spot import Preemption
from heterarch.errors import InputError
from heterarch.units import YEAR_H, Grade, Source, weakest

MONTHS = 12
#: facility power of a server device with its share of server and network, per watt of TDP, where it is not known
FACILITY_PER_TDP = 2.2
FACILITY_SOURCE = Source(Grade.GUESS, "facility power 2.2 x TDP, the median of the 8-GPU servers where it is known")
_IN_SERVERS = ("gpu-dc", "accelerator")
Power = Literal["tdp", "wall"]


class Accounting(StrEnum):
    """Which costs count, and when.

    ``RENTAL``, ``SPOT``: the quoted price of an hour. ``OWNER_ANNUITY``: purchase repaid with interest in equal
    monthly payments, power and operation. ``PURCHASE_ONLY``: purchase spread evenly, nothing else. ``SUNK``: the
    hardware is paid for; power and operation only. ``FOUNDING_TABLE5``: the $/h printed in arXiv 2507.19635, table 5,
    which is power and compound interest without the principal.
    """

    FOUNDING_TABLE5 = "founding-table5"
    OWNER_ANNUITY = "owner-annuity"
    RENTAL = "rental"
    SPOT = "spot"
    PURCHASE_ONLY = "purchase-only"
    SUNK = "sunk"


#: the kind of quote that each accounting reads; None where it needs no quote
QUOTE_KIND: Mapping[Accounting, str | None] = MappingProxyType(
    {
        Accounting.FOUNDING_TABLE5: "purchase",
        Accounting.OWNER_ANNUITY: "purchase",
        Accounting.RENTAL: "on-demand",
        Accounting.SPOT: "spot",
        Accounting.PURCHASE_ONLY: "purchase",
        Accounting.SUNK: None,
    }
)


_UNIT: Mapping[Accounting, str] = MappingProxyType(
    {a: "usd_per_device" if kind == "purchase" else "usd_per_device_h" for a, kind in QUOTE_KIND.items()}
)


class MissingPriceError(InputError):
    """An accounting needs a quote or a figure that the catalogue does not have for a device."""


@dataclass(frozen=True, slots=True)
class OwnerTerms:
    """How an owner counts; the defaults are those of arXiv 2507.19635, section 5 (4 years at 8 %).

    ``rate``: interest per year. ``utilisation``: share of the hours over which capital is spread. ``resale_usd``: what
    the device sells for, at the end of ``years`` (annuity) or today (sunk: spread evenly over ``years``).
    ``server_usd``: the device's share of server and network, bought with it. ``operation_usd_per_h``: space, staff,
    licences. ``power``: bill the device alone ("tdp") or its share of the facility ("wall").
    """

    rate: float = 0.08
    years: float = 4.0
    utilisation: float = 1.0
    resale_usd: float = 0.0
    server_usd: float = 0.0
    operation_usd_per_h: float = 0.0
    power: Power = "wall"


@dataclass(frozen=True, slots=True)
class Money:
    """USD per device-hour, split into what it pays for, with the quote it rests on.

    ``lost_usd_per_h``: what the paid time that preemption wastes adds to an hour of useful work; 0 unless it was asked
    for.
    """

    usd_per_h: float
    capital_usd_per_h: float
    energy_usd_per_h: float
    operation_usd_per_h: float
    accounting: Accounting
    source: Source
    quote: Quote | None = None
    lost_usd_per_h: float = 0.0


def usd_per_device_h(
    device: Device,
    accounting: Accounting | str,
    quotes: Iterable[Quote],
    site: Site | None = None,
    *,
    terms: OwnerTerms | None = None,
    kind: str | None = None,
    provider: str | None = None,
    preemption: Preemption | None = None,
) -> Money:
    """What one hour of ``device`` costs.

    Args:
        device: the catalogue row.
        accounting: which costs count.
        quotes: any quotes; those of other devices and kinds are not used.
        site: power price and PUE; needed where power is billed (owner-annuity, sunk).
        terms: how an owner counts.
        kind: read this kind of quote in place of the accounting's own ("rental-3yr" for rental).
        provider: only this provider's quotes. The cheapest quote that is left is used.
        preemption: count an hour of useful work in place of a paid one, where a spot quote is read.

    Raises:
        MissingPriceError: no quote of the kind, no site, or no known power. Names what is there.
    """
    chosen = Accounting(accounting)
    wanted = kind or QUOTE_KIND[chosen]
    quote = find_quote(device, wanted, quotes, provider, chosen) if wanted else None
    if quote and quote.unit != _UNIT[chosen]:
        raise InputError(
            f"the accounting {chosen} cannot read a {quote.kind} quote",
            observed=f"{quote.usd} {quote.unit}",
            expected=_UNIT[chosen],
        )
    money = _METHODS[chosen](device, quote, site, terms or OwnerTerms())
    return _per_useful_h(money, preemption) if preemption and money.accounting is Accounting.SPOT else money


def find_quote(
    device: Device, kind: str, quotes: Iterable[Quote], provider: str | None = None, accounting: str = ""
) -> Quote:
    """The cheapest quote of ``kind`` for ``device``; kinds are never mixed.

    Raises:
        MissingPriceError: there is none; the message lists the kinds that there are.
    """
    own = [quote for quote in quotes if quote.device_id == device.id]
    fitting = [q for q in own if q.kind == kind and provider in (None, q.provider)]
    if not fitting:
        there = ", ".join(sorted({f"{quote.kind} ({quote.provider})" for quote in own})) or "no quotes"
        raise MissingPriceError(
            f"no {kind} price for {device.id}" + (f" from {provider}" if provider else ""),
            observed=there,
            expected=f"a quote of kind {kind}" + (f" for the accounting {accounting}" if accounting else ""),
            fix="choose another accounting, or give a price for the device in the fleet",
        )
    return min(fitting, key=lambda quote: (quote.usd, quote.provider))


def own_quotes(device_id: str, price: PriceOverride) -> tuple[Quote, ...]:
    """The quotes that a fleet's own price stands for: an hourly price for rental and spot, a purchase price.

    Pass them in place of the catalogue's quotes of that device.
    """
    given = {"on-demand": price.usd_per_device_h, "spot": price.usd_per_device_h, "purchase": price.usd_per_device}
    return tuple(
        Quote(
            device_id,
            "the fleet",
            kind,
            usd,
            "usd_per_device" if kind == "purchase" else "usd_per_device_h",
            price.date or "undated",
            price.source,
        )
        for kind, usd in given.items()
        if usd is not None
    )


def capital_recovery_factor(rate: float, years: float, payments_per_year: int = 1) -> float:
    """Share of a loan to pay per year, in ``payments_per_year`` equal payments in arrears.

    i (1 + i)^n / ((1 + i)^n - 1) = i / (1 - (1 + i)^-n) with i = rate / payments and n = years x payments, times
    payments; 1 / years at no interest.
    """
    interest = rate / payments_per_year
    if interest == 0:
        return 1 / years
    discounted = -math.expm1(-years * payments_per_year * math.log1p(interest))
    return rate / discounted


def annuity_usd_per_h(usd: float, terms: OwnerTerms) -> float:
    """Equal monthly payments for ``usd``, less what the resale at the end is worth today, per used hour."""
    present = usd - terms.resale_usd / math.pow(1 + terms.rate / MONTHS, MONTHS * terms.years)
    share = capital_recovery_factor(terms.rate, terms.years, MONTHS)
    return present * share / (YEAR_H * terms.utilisation)


def energy_usd_per_h(device: Device, site: Site, power: Power = "wall") -> float:
    """Power x PUE x price at full load.

    The wall power is that of the catalogue; of a data-centre accelerator without one :data:`FACILITY_PER_TDP` times the
    TDP, so that it is not cheaper than its neighbours for being less known; of others the TDP.

    Raises:
        MissingPriceError: the catalogue knows neither.
    """
    return _watts(device, power) / 1000 * site.pue * site.usd_per_kwh


def _hourly(device: Device, quote: Quote | None, site: Site | None, terms: OwnerTerms) -> Money:
    assert quote is not None
    kind = Accounting.SPOT if quote.kind == "spot" else Accounting.RENTAL
    return Money(quote.usd, quote.usd, 0.0, 0.0, kind, quote.source, quote)


def _per_useful_h(money: Money, preemption: Preemption) -> Money:
    usd = money.usd_per_h / preemption.useful_share
    source = Source(
        weakest(money.source.grade, preemption.source.grade), f"{money.source.citation}; {preemption.source.citation}"
    )
    return replace(money, usd_per_h=usd, lost_usd_per_h=usd - money.usd_per_h, source=source)


def _owner_annuity(device: Device, quote: Quote | None, site: Site | None, terms: OwnerTerms) -> Money:
    assert quote is not None
    capital = annuity_usd_per_h(quote.usd + terms.server_usd, terms)
    return _owned(device, Accounting.OWNER_ANNUITY, capital, quote, _site(device, site), terms)


def _sunk(device: Device, quote: Quote | None, site: Site | None, terms: OwnerTerms) -> Money:
    capital = terms.resale_usd / (terms.years * YEAR_H * terms.utilisation)
    return _owned(device, Accounting.SUNK, capital, quote, _site(device, site), terms)


def _purchase_only(device: Device, quote: Quote | None, site: Site | None, terms: OwnerTerms) -> Money:
    assert quote is not None
    usd = quote.usd / (terms.years * YEAR_H)
    return Money(usd, usd, 0.0, 0.0, Accounting.PURCHASE_ONLY, quote.source, quote)


def _founding_table5(device: Device, quote: Quote | None, site: Site | None, terms: OwnerTerms) -> Money:
    """TDP_kW x 0.40 + P (e^(0.08 x 4) - 1) / (4 x 8760): recovered from the printed column, 5 of 6 to the cent."""
    assert quote is not None
    interest = quote.usd * (math.exp(0.08 * 4) - 1) / (4 * YEAR_H)
    energy = _watts(device, "tdp") / 1000 * 0.40
    return Money(interest + energy, interest, energy, 0.0, Accounting.FOUNDING_TABLE5, quote.source, quote)


_Method = Callable[[Device, Quote | None, Site | None, OwnerTerms], Money]
_METHODS: Mapping[Accounting, _Method] = MappingProxyType(
    {
        Accounting.FOUNDING_TABLE5: _founding_table5,
        Accounting.OWNER_ANNUITY: _owner_annuity,
        Accounting.RENTAL: _hourly,
        Accounting.SPOT: _hourly,
        Accounting.PURCHASE_ONLY: _purchase_only,
        Accounting.SUNK: _sunk,
    }
)


def _owned(
    device: Device, accounting: Accounting, capital: float, quote: Quote | None, site: Site, terms: OwnerTerms
) -> Money:
    energy = energy_usd_per_h(device, site, terms.power)
    sources: Sequence[Source] = [
        site.source("usd_per_kwh"),
        *([quote.source] if quote else []),
        *([FACILITY_SOURCE] if terms.power == "wall" and _is_estimated(device) else []),
    ]
    source = Source(weakest(*(s.grade for s in sources)), "; ".join(s.citation for s in sources))
    total = capital + energy + terms.operation_usd_per_h
    return Money(total, capital, energy, terms.operation_usd_per_h, accounting, source, quote)


def _watts(device: Device, power: Power) -> float:
    watts = device.tdp_w
    if power == "wall":
        watts = FACILITY_PER_TDP * watts if watts and _is_estimated(device) else device.wall_w or watts
    if not watts:
        raise MissingPriceError(
            f"no known power of {device.id}",
            expected="tdp_w or wall_w in the catalogue row",
            fix="add a row with the TDP and its source in an overlay",
        )
    return watts


def _is_estimated(device: Device) -> bool:
    return not device.wall_w and device.device_class in _IN_SERVERS


def _site(device: Device, site: Site | None) -> Site:
    if site is None:
        raise MissingPriceError(
            f"no site, so no power price for {device.id}", fix="name the site in the fleet, or choose rental or spot"
        )
    return site
