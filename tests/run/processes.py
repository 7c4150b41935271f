"""Worker processes on this machine."""

from __future__ import annotations

import psutil


def workers() -> list[psutil.Process]:
    """Every worker process on this machine."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "heterarch.run.worker" in (process.info["cmdline"] or []):
            found.append(process)
    return found
