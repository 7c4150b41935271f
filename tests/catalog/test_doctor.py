"""The doctor: every finding that is not ok comes with what puts it right."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from heterarch.catalog.doctor import Check, doctor


class _Engine(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def engine() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_every_failed_check_has_a_fix() -> None:
    checks = doctor(["http://127.0.0.1:9/v1"])
    names = [check.name for check in checks]
    assert names[:3] == ["python", "cores", "memory"]
    assert {"extra local", "extra plot", "mlir-opt", "docker", "accelerators", "real data"} <= set(names)
    for check in checks:
        assert check.detail
        assert check.ok == (check.fix == "")
    assert _by_name(checks)["python"].ok
    assert [check.name for check in checks if check.required] == ["python"]


def test_engines_are_asked(engine: str) -> None:
    found = _by_name(doctor([f"{engine}/v1", engine, "http://127.0.0.1:9/v1", "not a url"]))
    assert found[f"engine {engine}/v1"].ok
    assert "/v1" in found[f"engine {engine}"].fix
    assert "start the engine" in found["engine http://127.0.0.1:9/v1"].fix
    assert not found["engine not a url"].ok


def test_real_data_is_found_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HETERARCH_DATA", raising=False)
    assert "not set" in _by_name(doctor())["real data"].detail
    monkeypatch.setenv("HETERARCH_DATA", str(tmp_path))
    assert not _by_name(doctor())["real data"].ok
    (tmp_path / "traces").mkdir()
    assert _by_name(doctor())["real data"].ok


def test_programs_are_looked_up_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not _by_name(doctor())["mlir-opt"].ok
    program = tmp_path / "mlir-opt"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert _by_name(doctor())["mlir-opt"].detail == str(program)
