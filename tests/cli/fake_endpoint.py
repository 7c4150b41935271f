"""An OpenAI-compatible endpoint of this process that behaves as badly as a test asks."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Manner = Literal["well", "garbage", "not-http", "page", "refuses", "dies", "silent"]


class Handler(BaseHTTPRequestHandler):
    """Answers every call in one manner."""

    manner: Manner = "well"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        getattr(self, self.manner.replace("-", "_"))()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def head(self, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.end_headers()

    def piece(self, text: str, finish: str | None = None) -> None:
        event = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def well(self) -> None:
        self.head("text/event-stream")
        self.piece("It is ")
        self.piece("so.", "stop")
        self.wfile.write(b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4}}\n\n')
        self.wfile.write(b"data: [DONE]\n\n")

    def garbage(self) -> None:
        self.head("text/event-stream")
        self.wfile.write(b"data: {{{ not json\n\n")

    def not_http(self) -> None:
        self.wfile.write(b"\x00\x01 what?\r\n\r\n")

    def page(self) -> None:
        self.head("text/html")
        self.wfile.write(b"<html>Welcome</html>\n")

    def refuses(self) -> None:
        self.head("application/json", 404)
        self.wfile.write(b'{"error": {"message": "no such model"}}')

    def dies(self) -> None:
        self.head("text/event-stream")
        self.piece("It is ")
        self.wfile.flush()

    def silent(self) -> None:
        self.head("text/event-stream")
        self.piece("It is ")
        time.sleep(3)


@contextmanager
def endpoint(manner: Manner) -> Iterator[str]:
    """The URL of an endpoint that answers in that manner."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"manner": manner}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
