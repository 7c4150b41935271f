"""What every benchmark says of where and how it ran; by itself it prints just that, as one JSON object."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import psutil


def facts(benchmark: str) -> dict[str, Any]:
    """The keys that open every object; call it before the measurement, for the load is that of the moment."""
    cores, memory = os.cpu_count(), psutil.virtual_memory().total / 2**30
    machine = f"{_processor()}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}"
    return {"benchmark": benchmark, "machine": machine, "load": os.getloadavg()[0]}


def data_folder() -> Path | None:
    """The folder of real data (``HETERARCH_DATA``), None where it is absent."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("HETERARCH_DATA", default))
    return folder if folder.is_dir() else None


def show(result: dict[str, Any]) -> None:
    """Print the one JSON object of a benchmark."""
    print(json.dumps(result, indent=1, allow_nan=False))


def show_skipped(benchmark: str, missing: str = "real data not found; set HETERARCH_DATA") -> None:
    """Print the object of a benchmark whose data is absent; ``missing`` says which."""
    show({"benchmark": benchmark, "skipped": missing})


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    show(facts("machine"))
