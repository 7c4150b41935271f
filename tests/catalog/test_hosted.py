"""Listed prices of hosted APIs: of the bundled tables, at a date, without the network."""

from __future__ import annotations

import socket

import pytest

from heterarch.catalog import listed_price
from heterarch.errors import InputError, UnknownNameError
from heterarch.units import Grade


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_price_with_a_cache_price() -> None:
    price = listed_price("groq", "openai/gpt-oss-120b", "2026-11-01")
    assert 0 < price.cached_usd_per_mtok < price.input_usd_per_mtok < price.output_usd_per_mtok
    assert price.date == "2026-11-01"
    assert price.source.grade == Grade.VENDOR
    assert price.source.citation.startswith("genai-prices 0.")


def test_without_a_cache_price_cached_tokens_cost_as_much() -> None:
    price = listed_price("together", "meta-llama/Meta-Llama-3.1-70B-Instruct-Turbo", "2026-11-01")
    assert price.cached_usd_per_mtok == price.input_usd_per_mtok
    assert "no cache price" in price.source.citation


def test_prices_are_those_of_the_date() -> None:
    name = "meta-llama/Llama-3.3-70B-Instruct"
    assert listed_price("huggingface_together", name, "2026-01-01") != listed_price(
        "huggingface_together", name, "2026-11-01"
    )


def test_today_is_the_default() -> None:
    assert listed_price("groq", "llama-3.1-8b-instant").date >= "2026"


@pytest.mark.parametrize(
    ("provider", "model", "date", "said"),
    [
        ("grok", "x", "", "unknown API provider 'grok'"),
        ("groq", "llama", "", "unknown model of groq 'llama'"),
        ("groq", "llama-3.1-8b-instant", "yesterday", "the date is not ISO"),
    ],
)
def test_what_is_not_listed_is_refused(provider: str, model: str, date: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        listed_price(provider, model, date)


def test_near_names_are_told() -> None:
    with pytest.raises(UnknownNameError) as caught:
        listed_price("groq", "gpt-oss-120")
    assert "openai/gpt-oss-120b" in caught.value.near
