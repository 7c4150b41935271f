"""The command line: thin, one file per command, loaded when it is called."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Entry point of ``heterarch``."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from heterarch.cli.app import load, run

    load(sys.argv[1:])
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run(sys.argv[1:]))


def _leave(*_: object) -> None:
    """Ctrl-C while modules are loaded: nothing has begun, and an exception in the midst of an import can get lost."""
    os.write(2, b"heterarch: interrupted\n")
    os._exit(130)
