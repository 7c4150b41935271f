"""Prices of hosted APIs, from the dated tables of the package ``genai-prices``; nothing is downloaded."""

from __future__ import annotations

import datetime
import importlib.metadata
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from heterarch.catalog.server import SourceField
from heterarch.errors import InputError, UnknownNameError
from heterarch.units import Grade, Source


class TokenPrice(BaseModel):
    """USD per million tokens: of prompt, of prompt found in the provider's cache, of output; ISO date, source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_usd_per_mtok: float = Field(ge=0)
    cached_usd_per_mtok: float = Field(ge=0)
    output_usd_per_mtok: float = Field(ge=0)
    date: str
    source: SourceField


def listed_price(provider: str, api_model: str, date: str = "") -> TokenPrice:
    """What ``provider`` charged for ``api_model`` at noon UTC of the ISO ``date`` (empty: today).

    Where prices step up with the length of the prompt, the first step; where no price of cached tokens is listed,
    they cost as much as others.

    Raises:
        InputError: no such provider or model in the tables, no token price, or not a date.
    """
    from genai_prices import data_snapshot

    day = _day(date)
    snapshot = data_snapshot.get_snapshot()
    known = {entry.id: entry for entry in snapshot.providers}
    if provider not in known:
        raise UnknownNameError("API provider", provider, known)
    by_id = {entry.id: entry for entry in known[provider].models}
    model = by_id.get(api_model) or known[provider].find_model(api_model, all_providers=snapshot.providers)
    if model is None:
        raise UnknownNameError(f"model of {provider}", api_model, by_id)
    noon = datetime.datetime.combine(day, datetime.time(12), datetime.UTC)
    prices = model.get_prices(noon, None)
    given, written = _usd(prices, "input_mtok"), _usd(prices, "output_mtok")
    if given is None or written is None:
        raise InputError(
            f"no token price of {provider} {api_model} is listed", fix="state 'price' for this endpoint in the fleet"
        )
    cached = _usd(prices, "cache_read_mtok")
    version = importlib.metadata.version("genai-prices")
    citation = f"genai-prices {version}: {provider} {model.id}" + ("" if cached is not None else ", no cache price")
    return TokenPrice(
        input_usd_per_mtok=given,
        cached_usd_per_mtok=given if cached is None else cached,
        output_usd_per_mtok=written,
        date=day.isoformat(),
        source=Source(Grade.VENDOR, citation),
    )


def _day(date: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(date) if date else datetime.datetime.now(datetime.UTC).date()
    except ValueError:
        raise InputError("the date is not ISO", observed=date, expected="for instance 2026-11-01") from None


def _usd(prices: Any, key: str) -> float | None:
    value = getattr(prices, key, None)
    value = getattr(value, "base", value)
    return None if value is None else float(value)
