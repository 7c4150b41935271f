"""HTTP to an engine: JSON and server-sent events, with every failure turned into one of our errors.

Only connection errors before the first byte are retried; nothing that an engine may have started is sent twice.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2
import stamina

from heterarch.errors import BadResponseError, EngineError, EngineUnavailableError, StreamBrokenError

_BUSY = frozenset({408, 429, 502, 503, 504})
_DONE = "[DONE]"


class EngineHttp:
    """A client of one engine at ``url``; ``headers`` may hold a key and never appear in a message."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        headers: Mapping[str, str] | None = None,
        connect_timeout_s: float = 5.0,
        attempts: int = 3,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.name = name
        self._connect_timeout_s = connect_timeout_s
        self._attempts = attempts
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
        remote = self.url.startswith("https:")  # proxies and certificates are for the way out of this machine
        self._client = httpx2.AsyncClient(
            headers=headers, transport=transport, limits=limits, trust_env=remote, verify=remote
        )

    async def post(self, path: str, body: Mapping[str, object], timeout_s: float = 60.0) -> dict[str, Any]:
        """The JSON object that the engine answers."""
        return await self._json("POST", path, body, timeout_s)

    async def get(self, path: str, timeout_s: float = 10.0) -> dict[str, Any]:
        """The JSON object at ``path``."""
        return await self._json("GET", path, None, timeout_s)

    async def events(
        self, path: str, body: Mapping[str, object], timeout_s: float = 120.0
    ) -> AsyncIterator[dict[str, Any]]:
        """The JSON object of every server-sent event until the stream ends; ``[DONE]`` is left out.

        ``timeout_s``: most seconds without a byte.
        """
        began = False
        with self._translated(lambda: began, timeout_s):
            response = await self._send("POST", path, body, timeout_s)
            try:
                await self._check(response)
                async for line in response.aiter_lines():
                    data = self._data(line)
                    if data:
                        yield self._object(data)
                        began = True
            finally:
                await response.aclose()
        if not began:
            raise self._bad("the engine answered no stream of events", observed=response.headers.get("content-type"))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _json(
        self, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float
    ) -> dict[str, Any]:
        with self._translated(lambda: False, timeout_s):
            response = await self._send(method, path, body, timeout_s)
            try:
                await self._check(response)
                return self._object((await response.aread()).decode(errors="replace"))
            finally:
                await response.aclose()

    async def _send(
        self, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float
    ) -> httpx2.Response:
        timeout = httpx2.Timeout(timeout_s, connect=self._connect_timeout_s)
        request = self._client.build_request(method, self.url + path, json=body, timeout=timeout)
        retried = (httpx2.ConnectError, httpx2.ConnectTimeout)
        async for attempt in stamina.retry_context(
            on=retried, attempts=self._attempts, wait_initial=0.05, wait_max=0.5, wait_jitter=0.05
        ):
            with attempt:
                return await self._client.send(request, stream=True)
        raise AssertionError("a retry loop ends by returning or raising")

    async def _check(self, response: httpx2.Response) -> None:
        if response.status_code < 400:
            return
        text = (await response.aread()).decode(errors="replace")
        observed = f"HTTP {response.status_code}: {_reason(text)}"
        if response.status_code in _BUSY:
            raise EngineUnavailableError("the engine takes no more calls now", observed=observed, where=self._where)
        fix = "check the API key" if response.status_code in (401, 403) else None
        raise BadResponseError("the engine refused the call", observed=observed, where=self._where, fix=fix)

    def _data(self, line: str) -> str:
        data = line[5:].strip() if line.startswith("data:") else ""
        return "" if data == _DONE else data

    def _object(self, text: str) -> dict[str, Any]:
        try:
            answer = json.loads(text)
        except ValueError:
            raise self._bad("the engine's answer is not JSON", observed=text[:120]) from None
        if not isinstance(answer, dict):
            raise self._bad("the engine's answer is not a JSON object", observed=text[:120])
        if answer.get("error"):
            raise self._bad("the engine reports an error", observed=_reason(text))
        return answer

    def _bad(self, what: str, observed: object) -> BadResponseError:
        return BadResponseError(what, observed=observed, where=self._where)

    @property
    def _where(self) -> str:
        return f"engine {self.name} at {self.url}"

    @contextmanager
    def _translated(self, began: Any, timeout_s: float) -> Iterator[None]:
        try:
            yield
        except httpx2.HTTPError as error:
            raise self._error(error, began(), timeout_s) from error

    def _error(self, error: httpx2.HTTPError, began: bool, timeout_s: float) -> EngineError:
        observed = f"{type(error).__name__}: {error}".rstrip(": ")
        if isinstance(error, httpx2.ReadTimeout):
            observed = f"silent for {timeout_s:g} s"
        if began:
            return StreamBrokenError("the answer broke off", observed=observed, where=self._where)
        if isinstance(error, httpx2.RemoteProtocolError) and "disconnect" not in str(error):
            return self._bad("the answer is not HTTP", observed=observed)
        if isinstance(error, httpx2.DecodingError):
            return self._bad("the answer cannot be decoded", observed=observed)
        return EngineUnavailableError(
            "the engine does not answer", observed=observed, where=self._where, fix="is it running at this address?"
        )


def _reason(text: str) -> str:
    """The message inside an error answer, or its beginning."""
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:300]
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split())[:300]
