"""Dated price quotes of devices; prices are inputs with a date, never constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from heterarch.units import Grade, Source

QuoteKind = Literal[
    "on-demand",
    "spot",
    "capacity-block",
    "serverless-flex",
    "serverless-active",
    "owner-hyperscaler",
    "owner-neocloud",
    "rental-3yr",
    "paper-cost",
    "purchase",
]
QuoteUnit = Literal["usd_per_device_h", "usd_per_device"]
QUOTE_KINDS: tuple[str, ...] = get_args(QuoteKind)

#: how far a quote of a kind can be trusted where its row states no grade: a provider's own price list is "vendor",
#: a cost model or an average over sellers is "derived", a paper's assumption is "declared"
GRADE_OF_KIND = {
    "owner-hyperscaler": Grade.DERIVED,
    "owner-neocloud": Grade.DERIVED,
    "rental-3yr": Grade.DERIVED,
    "paper-cost": Grade.DECLARED,
    "purchase": Grade.DERIVED,
}


@dataclass(frozen=True, slots=True)
class Quote:
    """What one provider asked for one device at one date; ``usd`` is per ``unit``, ``date`` ISO (year at least)."""

    device_id: str
    provider: str
    kind: str
    usd: float
    unit: QuoteUnit
    date: str
    source: Source
