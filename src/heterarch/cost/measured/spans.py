"""Spans of LLM calls in OTLP JSON as columns of requests.

Names of attributes: the GenAI semantic conventions of OpenTelemetry (span of a client's inference,
``gen_ai.usage.*`` and ``gen_ai.response.time_to_first_chunk``), and those that vLLM writes (``gen_ai.latency.*``,
``gen_ai.usage.prompt_tokens``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from heterarch.cost.measured.columns import Columns
from heterarch.documents import read_text
from heterarch.errors import InputError

NANOSECOND = 1e-9
#: column of a request -> attributes that hold it, seconds or tokens
ATTRIBUTES = {
    "prompt_tokens": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
    "cached_tokens": ("gen_ai.usage.cache_read.input_tokens",),
    "output_tokens": ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
    "ttft_s": (
        "gen_ai.response.time_to_first_chunk",
        "gen_ai.server.time_to_first_token",
        "gen_ai.latency.time_to_first_token",
    ),
    "queue_s": ("gen_ai.latency.time_in_queue",),
}
#: spans of one address count as one engine
ADDRESS = ("server.address", "server.port")


def read_spans(path: Path | str) -> Columns:
    """The LLM calls of an OTLP JSON file (one object, or one per line), a row each.

    Raises:
        InputError: the file is no OTLP JSON, or none of its spans says its tokens and its first token.
    """
    spans = [span for message in _messages(path) for span in _spans(message, str(path))]
    rows = [row for span in spans if (row := _row(span)) is not None]
    if not rows:
        raise InputError(
            "no span tells the tokens and the first token of an LLM call",
            observed=f"{len(spans)} spans",
            expected=", ".join(names[0] for names in ATTRIBUTES.values()),
            where=str(path),
        )
    return Columns(str(path), {name: [row[name] for row in rows] for name in rows[0]})


def _messages(path: Path | str) -> list[Any]:
    text = read_text(path)
    try:
        return [json.loads(text)]
    except ValueError:
        pass
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise InputError("not OTLP JSON", observed=str(error), where=str(path)) from None


def _spans(message: Any, file: str) -> Iterator[Mapping[str, Any]]:
    if not isinstance(message, dict) or "resourceSpans" not in message:
        observed = ", ".join(message) if isinstance(message, dict) else type(message).__name__
        raise InputError("not OTLP JSON of spans", observed=observed, expected="resourceSpans", where=file)
    if not isinstance(message["resourceSpans"] or [], list):
        raise InputError("not OTLP JSON of spans", observed="resourceSpans is no list", where=file)
    for resource in message["resourceSpans"] or ():
        for scope in resource.get("scopeSpans") or ():
            yield from scope.get("spans") or ()


def _row(span: Mapping[str, Any]) -> dict[str, object] | None:
    """The columns of a call; None for another span, and for a call that failed or was not streamed."""
    named = [item for item in span.get("attributes") or () if "key" in item and isinstance(item.get("value"), dict)]
    given = {item["key"]: next(iter(item["value"].values()), None) for item in named}
    found = {name: next((given[key] for key in keys if key in given), None) for name, keys in ATTRIBUTES.items()}
    if None in (found["prompt_tokens"], found["output_tokens"], found["ttft_s"]) or "error.type" in given:
        return None
    try:
        start, stop = (int(span.get(name, 0)) for name in ("startTimeUnixNano", "endTimeUnixNano"))
    except (TypeError, ValueError):
        return None
    return found | {
        "queue_s": found["queue_s"] or 0.0,
        "submitted_s": start * NANOSECOND,
        "latency_s": (stop - start) * NANOSECOND,
        "decode_engine": ":".join(str(given[key]) for key in ADDRESS if key in given),
    }
