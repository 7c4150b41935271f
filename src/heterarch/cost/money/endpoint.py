"""What a call to a hosted API costs: tokens by kind, each at its own price."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from heterarch.errors import InputError

MILLION = 1_000_000


class TokenPrices(Protocol):
    """USD per million tokens, by kind: a price of the catalogue, or the endpoint of a plan."""

    @property
    def input_usd_per_mtok(self) -> float:
        """Of prompt tokens that are not cached."""
        ...

    @property
    def cached_usd_per_mtok(self) -> float:
        """Of cached prompt tokens."""
        ...

    @property
    def output_usd_per_mtok(self) -> float:
        """Of generated tokens."""
        ...


def call_usd(price: TokenPrices, prompt_tokens: Any, cached_tokens: Any, output_tokens: Any) -> Any:
    """USD of a call, or of each of many (arrays); ``cached_tokens`` of the ``prompt_tokens`` are billed as cached.

    Raises:
        InputError: more cached than prompt tokens.
    """
    if np.any(cached_tokens > prompt_tokens):
        raise InputError("more cached than prompt tokens", observed=f"{cached_tokens} of {prompt_tokens}")
    usd = (prompt_tokens - cached_tokens) * price.input_usd_per_mtok
    usd += cached_tokens * price.cached_usd_per_mtok + output_tokens * price.output_usd_per_mtok
    return usd / MILLION


def calls_per_s(
    requests_per_min: float | None, tokens_per_min: float | None, prompt_tokens: float, output_tokens: float
) -> float:
    """Most calls per second that the rate limits of an endpoint admit; inf without limits."""
    return binding_limit(requests_per_min, tokens_per_min, prompt_tokens, output_tokens)[0]


def binding_limit(
    requests_per_min: float | None, tokens_per_min: float | None, prompt_tokens: float, output_tokens: float
) -> tuple[float, str]:
    """(calls per second, name) of the rate limit that binds first: ``requests/min``, ``tokens/min``; inf, "" of none.

    Every token counts, cached ones too.
    """
    limits = [(float("inf"), "")]
    if requests_per_min is not None:
        limits.append((requests_per_min / 60, "requests/min"))
    if tokens_per_min is not None and prompt_tokens + output_tokens > 0:
        limits.append((tokens_per_min / 60 / (prompt_tokens + output_tokens), "tokens/min"))
    return min(limits)
