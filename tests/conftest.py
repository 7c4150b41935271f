"""Shared fixtures: where the real data lies, and how many tests were skipped for want of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: children would not hear Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent
NO_DATA = "real data not found"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real traces, measurements and catalogue facts; skips where it is absent."""
    folder = Path(os.environ.get("HETERARCH_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"{NO_DATA} (set HETERARCH_DATA)")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were skipped because the real data is absent."""
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if NO_DATA in str(r.longrepr)]
    terminalreporter.write_line(f"{len(skipped)} tests skipped for want of real data (HETERARCH_DATA)")
