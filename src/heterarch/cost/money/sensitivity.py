"""How the ranking of devices by dollars changes with the accounting and with what an owner assumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.server import Site
from heterarch.cost.money.accounting import Accounting, MissingPriceError, Money, OwnerTerms, usd_per_device_h
from heterarch.cost.money.operating import OperatingPoint
from heterarch.cost.money.spot import Preemption
from heterarch.cost.money.tco import mean_usd_per_mtok
from heterarch.units import Grade, Source

#: what each accounting depends on beside the quote
DEPENDS: Mapping[Accounting, frozenset[str]] = MappingProxyType(
    {
        Accounting.RENTAL: frozenset(),
        Accounting.SPOT: frozenset(),
        Accounting.OWNER_ANNUITY: frozenset({"usd_per_kwh", "utilisation", "rate", "years"}),
        Accounting.PURCHASE_ONLY: frozenset({"years"}),
        Accounting.SUNK: frozenset({"usd_per_kwh"}),
        Accounting.FOUNDING_TABLE5: frozenset(),
    }
)


@dataclass(frozen=True, slots=True)
class Case:
    """An accounting with the assumptions it depends on; None where it depends on none of that kind."""

    accounting: Accounting
    usd_per_kwh: float | None = None
    utilisation: float | None = None
    rate: float | None = None
    years: float | None = None

    def money(self, rows: Catalog, device_id: str, site: Site, terms: OwnerTerms, preemption: Preemption) -> Money:
        """One hour of a device in this case; what the case leaves open is that of ``site`` and ``terms``.

        Raises:
            MissingPriceError: the catalogue has no price of the kind, or no power.
        """
        given = {name: getattr(self, name) for name in ("utilisation", "rate", "years")}
        return usd_per_device_h(
            rows.device(device_id),
            self.accounting,
            rows.quotes_for(device_id),
            site if self.usd_per_kwh is None else _at_price(site, self.usd_per_kwh),
            terms=replace(terms, **{name: value for name, value in given.items() if value is not None}),
            preemption=preemption,
        )


@dataclass(frozen=True)
class Ranking:
    """Devices of one case, cheapest first, with USD per million tokens; ``left_out``: why a device has no price."""

    case: Case
    usd_per_mtok: Mapping[str, float]
    left_out: Mapping[str, str]


def cases(
    accountings: Iterable[Accounting],
    *,
    usd_per_kwh: Sequence[float] = (),
    utilisation: Sequence[float] = (),
    rate: Sequence[float] = (),
    years: Sequence[float] = (),
) -> list[Case]:
    """Every combination of the values, once for each accounting that depends on them."""
    values = {"usd_per_kwh": usd_per_kwh, "utilisation": utilisation, "rate": rate, "years": years}
    found = []
    for accounting in accountings:
        axes = [tuple(given) if name in DEPENDS[accounting] and given else (None,) for name, given in values.items()]
        found += [Case(accounting, *combination) for combination in product(*axes)]
    return found


def ranking(
    case: Case,
    points: Iterable[OperatingPoint],
    money: Callable[[Case, OperatingPoint], Money],
) -> Ranking:
    """The points by USD per million tokens in one case; ``money`` prices a device-hour (see :meth:`Case.money`)."""
    usd: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for point in points:
        try:
            prices = point.prices(money(case, point).usd_per_h)
        except MissingPriceError as error:
            left_out[point.config.device.id] = error.what
            continue
        usd[point.config.device.id] = mean_usd_per_mtok(prices, point.calls)
    return Ranking(case, dict(sorted(usd.items(), key=lambda entry: entry[1])), left_out)


def _at_price(site: Site, usd_per_kwh: float) -> Site:
    given = {**site.sources, "usd_per_kwh": Source(Grade.DECLARED, "given")}
    return site.model_copy(update={"usd_per_kwh": usd_per_kwh, "sources": given})
