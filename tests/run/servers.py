"""A server on the loopback interface that answers with exactly the bytes a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """What was asked of the server, and where it is."""

    url: str = ""
    requests: list[tuple[str, dict[str, str], dict]] = field(default_factory=list)


@asynccontextmanager
async def serving(*answers: Answer) -> AsyncIterator[Server]:
    """A server that gives its answers in turn; the last repeats. Connections are not kept."""
    server = Server()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            server.requests.append((head[0], headers, json.loads(body) if body else {}))
            await answers[min(len(server.requests), len(answers)) - 1](writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listener.close()


def raw(data: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return answer


def http(body: str, status: str = "200 OK", kind: str = "application/json") -> Answer:
    data = body.encode()
    return raw(f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)


def stream(*events: object, end: str = "done") -> Answer:
    """Server-sent events in chunks; ``end`` is done, closed (properly, without the last event), cut, or silent."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in events:
            text = event if isinstance(event, str) else json.dumps(event)
            await _chunk(writer, f"data: {text}\n\n".encode())
        if end == "done":
            await _chunk(writer, b"data: [DONE]\n\n")
        if end in ("done", "closed"):
            await _chunk(writer, b"")
        if end == "silent":
            await asyncio.sleep(5)

    return answer


async def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    await writer.drain()


def delta(text: str, finish: str | None = None) -> dict:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}
