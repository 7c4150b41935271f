"""The command line: thin, one file per command, loaded when it is called."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of ``heterarch``."""
    from heterarch.cli.app import run

    sys.exit(run(sys.argv[1:]))
