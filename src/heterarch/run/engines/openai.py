"""Any endpoint that speaks the OpenAI protocol, by URL: vLLM, SGLang, llama.cpp, Ollama, hosted APIs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import httpx2

from heterarch.errors import BadResponseError, InputError, StreamBrokenError
from heterarch.run.engines.base import Call, Capabilities, Completion, NoKvTransfer, OnText
from heterarch.run.engines.http import EngineHttp


class OpenAIEngine(NoKvTransfer):
    """One endpoint. ``url`` ends before ``/chat/completions`` (usually in ``/v1``); ``model`` is the API's name of
    the model.

    ``api_key_env`` names the environment variable that holds the key; the key is sent and never written anywhere.
    ``style`` is ``chat`` or ``completions``. Calls are spaced to at most ``requests_per_min``.

    Raises:
        InputError: the environment variable is not set, or no URL is given.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        name: str = "openai",
        api_key_env: str = "",
        style: str = "chat",
        slots: int = 64,
        attempts: int = 3,
        requests_per_min: float | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError("an endpoint needs a URL", observed=repr(url), expected="http://host:port/v1")
        self.name = name
        self.model = model
        self.style = style
        self.capabilities = Capabilities(slots=slots, embed=True)
        self._gap_s = 60.0 / requests_per_min if requests_per_min else 0.0
        self._next_s = 0.0
        self._http = EngineHttp(url, name, headers=_headers(api_key_env), attempts=attempts, transport=transport)

    async def generate(self, call: Call, on_text: OnText | None = None) -> Completion:
        """The whole call, streamed."""
        stream = _Stream(perf_counter(), on_text)
        await self._pace()
        path = "/chat/completions" if self.style == "chat" else "/completions"
        async for event in self._http.events(path, self._body(call), call.timeout_s):
            stream.take(event)
        return stream.completion(f"engine {self.name} at {self._http.url}")

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text."""
        answer = await self._http.post("/embeddings", {"model": self.model, "input": list(texts)})
        try:
            return [list(map(float, row["embedding"])) for row in answer["data"]]
        except (KeyError, TypeError, ValueError):
            raise BadResponseError("the engine answered no vectors", observed=str(answer)[:120]) from None

    async def health(self) -> None:
        """Return when the endpoint lists its models."""
        await self._http.get("/models")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def _pace(self) -> None:
        """Wait for this call's turn under the limit of requests per minute, evenly spaced."""
        if self._gap_s:
            turn_s = max(self._next_s, perf_counter())
            self._next_s = turn_s + self._gap_s
            await asyncio.sleep(turn_s - perf_counter())

    def _body(self, call: Call) -> dict[str, object]:
        body: dict[str, object] = {
            "model": self.model,
            "max_tokens": call.max_tokens,
            "temperature": call.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if call.stop:
            body["stop"] = list(call.stop)
        if self.style == "chat":
            return body | {"messages": [{"role": m.role, "content": m.text} for m in call.messages]}
        return body | {"prompt": "\n".join(message.text for message in call.messages)}


@dataclass
class _Stream:
    """What has arrived of one answer."""

    started: float
    on_text: OnText | None
    pieces: list[str] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    first_s: float = 0.0
    last_s: float = 0.0
    reason: str = ""
    arrived: int = 0

    def take(self, event: dict[str, Any]) -> None:
        """Take one event in."""
        if isinstance(event.get("usage"), dict):
            self.usage = event["usage"]
        try:
            for choice in event.get("choices") or ():
                self._choice(choice)
        except (AttributeError, TypeError):
            raise BadResponseError("an event is not of the OpenAI protocol", observed=str(event)[:200]) from None

    def _choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or {}
        text = delta.get("content") or choice.get("text") or ""
        if text or delta.get("reasoning_content") or delta.get("reasoning"):
            self.arrived += 1
            self.last_s = perf_counter() - self.started
            self.first_s = self.first_s or self.last_s
        if text:
            self.pieces.append(text)
            if self.on_text:
                self.on_text(text)
        self.reason = choice.get("finish_reason") or self.reason

    def completion(self, where: str) -> Completion:
        """The answer, when the stream has ended properly."""
        if not self.reason:
            if not self.arrived and not self.usage:
                raise BadResponseError(
                    "the events are not of the OpenAI protocol", where=where, expected="choices with a delta or a text"
                )
            raise StreamBrokenError("the answer broke off", observed=f"after {self.arrived} pieces", where=where)
        finish_s = perf_counter() - self.started
        details = self.usage.get("prompt_tokens_details") or {}
        return Completion(
            text="".join(self.pieces),
            prompt_tokens=_count(self.usage.get("prompt_tokens") or 0, where),
            cached_tokens=_count(details.get("cached_tokens") or 0, where),
            output_tokens=_count(self.usage.get("completion_tokens") or self.arrived, where),
            ttft_s=self.first_s or finish_s,
            finish_s=self.last_s or finish_s,
            finish_reason=self.reason,
            counted=bool(self.usage.get("completion_tokens")),
        )


def _count(value: object, where: str) -> int:
    """A number of tokens in a usage."""
    if not isinstance(value, int | float) or not value == value // 1 or value < 0:
        raise BadResponseError("a token count is no whole number", observed=repr(value), where=where)
    return int(value)


def _headers(api_key_env: str) -> dict[str, str]:
    if not api_key_env:
        return {}
    key = os.environ.get(api_key_env)
    if not key:
        raise InputError(
            "the API key is not set",
            expected=f"the environment variable {api_key_env}",
            fix=f"export {api_key_env}=..., or run with a local engine in place of the endpoint",
        )
    return {"Authorization": f"Bearer {key}"}
