"""``python -m heterarch``."""

from heterarch.cli import main

main()
