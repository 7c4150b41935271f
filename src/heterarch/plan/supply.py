"""What the fleet supplies, at which price: device types to buy engines from, CPUs for tools, hosted APIs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.device import Device
from heterarch.catalog.fleet import Fleet, FleetDevice
from heterarch.catalog.price import Quote
from heterarch.cost.money.accounting import (
    QUOTE_KIND,
    Accounting,
    MissingPriceError,
    OwnerTerms,
    own_quotes,
    usd_per_device_h,
)
from heterarch.errors import InputError
from heterarch.plan.document import LeftOut

CPU = "cpu"
DEVICES_PER_SERVER = 8  # where the catalogue has no server of a device


@dataclass(frozen=True)
class Supply:
    """Devices of one kind at one price.

    ``key``: inventory key, the device's id, with "(owned)" for those that are paid for. ``limit``: devices, None for
    any number. ``server_devices``: devices of one machine, the most that tensor parallelism joins.
    """

    key: str
    device: Device
    usd_per_h: float
    limit: int | None
    server_devices: int
    source: str

    @property
    def is_cpu(self) -> bool:
        """Whether tools can run on it."""
        return self.device.device_class == CPU


def supplies(
    fleet: Fleet, catalog: Catalog, accounting: Accounting, terms: OwnerTerms | None = None
) -> tuple[list[Supply], list[LeftOut]]:
    """The devices of ``fleet`` that ``accounting`` can price, and those that it cannot, with the reason.

    Devices that the fleet owns are priced as sunk (power and operation only) up to their number.
    """
    found: list[Supply] = []
    left_out: list[LeftOut] = []
    for entry in fleet.devices:
        if entry.limit == 0:
            left_out.append(LeftOut(device=entry.device, reason="the fleet allows none (limit 0)"))
            continue
        for owned, limit in _lots(entry, accounting):
            try:
                kind = Accounting.SUNK if owned else accounting
                found.append(_supply(entry, fleet, catalog, kind, limit, owned, terms))
            except MissingPriceError as error:
                left_out.append(LeftOut(device=entry.device, reason=_reason(error)))
    return found, left_out


def _lots(entry: FleetDevice, accounting: Accounting) -> list[tuple[bool, int | None]]:
    """(owned, limit) of the lots in which the fleet has a device."""
    if not entry.owned or accounting == Accounting.SUNK:
        return [(False, entry.limit)]
    rest = None if entry.limit is None else entry.limit - entry.owned
    return [(True, entry.owned), *([(False, rest)] if rest != 0 else [])]


def _supply(
    entry: FleetDevice,
    fleet: Fleet,
    catalog: Catalog,
    accounting: Accounting,
    limit: int | None,
    owned: bool,
    terms: OwnerTerms | None,
) -> Supply:
    device = catalog.device(entry.device)
    quotes: Sequence[Quote] = catalog.quotes_for(device.id)
    own = own_quotes(device.id, entry.price) if entry.price is not None else ()
    stated = [quote for quote in own if quote.kind == QUOTE_KIND[accounting]]
    money = usd_per_device_h(device, accounting, stated or quotes, catalog.site(fleet.site), terms=terms)
    servers = [catalog.server(entry.server)] if entry.server else catalog.servers_of(device.id)
    size = servers[0].devices if servers else DEVICES_PER_SERVER
    key = f"{device.id} (owned)" if owned else device.id
    return Supply(key, device, money.usd_per_h, limit, size, str(money.source))


def _reason(error: InputError) -> str:
    there = f" (there are: {error.observed})" if error.observed else ""
    return f"{error.what}{there}"
