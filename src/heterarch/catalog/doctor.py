"""What this machine has and lacks, each with what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from heterarch.catalog.detect import detect
from heterarch.units import format_bytes

_LEAST_MEMORY_BYTES = 4 * 10**9
_EXTRAS = {"local": ("xllamacpp", "gguf"), "plot": ("matplotlib",), "ray": ("ray",)}
_PROGRAMS = {
    "mlir-opt": "only to check modules with upstream MLIR: install LLVM's mlir-tools",
    "docker": "only to start other engines in containers: install Docker or Podman",
}


@dataclass(frozen=True)
class Check:
    """One finding: ``ok`` or not, what was seen, and what puts it right (empty when ok).

    ``required``: nothing works without it; other checks only say which features are missing.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""
    required: bool = False


def doctor(urls: Iterable[str] = ()) -> list[Check]:
    """Check Python, machine, extras, programs, accelerators, real data, and that engines answer at ``urls``."""
    return [
        _python(),
        *_machine(),
        *(_extra(name, modules) for name, modules in _EXTRAS.items()),
        *(_program(name, fix) for name, fix in _PROGRAMS.items()),
        _accelerators(),
        _data(),
        *(_engine(url) for url in urls),
    ]


def _check(name: str, ok: bool, detail: str, fix: str, required: bool = False) -> Check:
    return Check(name, ok, detail, "" if ok else fix, required)


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return _check("python", ok, platform.python_version(), "install Python 3.11 or newer", required=True)


def _machine() -> list[Check]:
    threads, memory = psutil.cpu_count() or 1, psutil.virtual_memory()
    detail = f"{format_bytes(memory.total)}, {format_bytes(memory.available)} free"
    enough = memory.available >= _LEAST_MEMORY_BYTES / 2 and memory.total >= _LEAST_MEMORY_BYTES * 0.9
    return [
        _check("cores", threads >= 2, f"{threads} hardware threads", "runs, but slowly: use two or more"),
        _check("memory", enough, detail, "close other programs, or use a machine with 4 GB"),
    ]


def _extra(name: str, modules: tuple[str, ...]) -> Check:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    detail = f"without {', '.join(missing)}" if missing else ", ".join(modules)
    return _check(f"extra {name}", not missing, detail, f"pip install 'heterarch[{name}]'")


def _program(name: str, fix: str) -> Check:
    found = shutil.which(name)
    return _check(name, found is not None, found or "not on PATH", fix)


def _accelerators() -> Check:
    machine = detect(measure=False)
    names = ", ".join(f"{gpu.name} ({gpu.device_id or 'not in the catalogue'})" for gpu in machine.gpus)
    detail = "; ".join(filter(None, (names, *machine.notes))) or "none; CPU only"
    ok = not machine.notes and all(gpu.device_id for gpu in machine.gpus)
    fix = "install or repair the driver" if machine.notes else "describe the device in an overlay"
    return _check("accelerators", ok, detail, fix)


def _data() -> Check:
    folder = os.environ.get("HETERARCH_DATA", "")
    ok = bool(folder) and (Path(folder) / "traces").is_dir()
    detail = folder if ok else f"no folder 'traces' in {folder}" if folder else "HETERARCH_DATA is not set"
    return _check("real data", ok, detail, "only for tests and benchmarks: set HETERARCH_DATA to the data folder")


def _engine(url: str) -> Check:
    import httpx2

    name = f"engine {url}"
    try:
        answer = httpx2.get(f"{url.rstrip('/')}/models", timeout=3.0)
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        fix = "start the engine, or correct the URL (an OpenAI-compatible base such as http://127.0.0.1:8080/v1)"
        return Check(name, False, f"{type(error).__name__}: {error}", fix)
    reachable = answer.status_code < 500 and answer.status_code != 404
    return _check(name, reachable, f"HTTP {answer.status_code}", "the base URL should end in /v1")
