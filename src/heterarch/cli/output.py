"""What commands print: tables that fit the terminal, JSON beside every table, notes on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

#: what a flag of that name means in every command
JSON_HELP = "Print JSON instead of tables."


def console(*, stderr: bool = False) -> Console:
    """A console on standard output or standard error; plain when it is not a terminal."""
    return Console(stderr=stderr, highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 110)


def note(text: str) -> None:
    """A line for the reader on standard error, so that standard output stays data."""
    console(stderr=True).print(text, style="dim", markup=False)


def print_json(data: object) -> None:
    """``data`` as JSON with a stable key order of its own."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")


def print_table(title: str, rows: Sequence[Mapping[str, Any]], columns: Iterable[str] | None = None) -> None:
    """Rows under their keys; numbers to the right, long text folded."""
    names = list(columns or (rows[0] if rows else ()))
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, title_style="bold")
    for name in names:
        numeric = rows and all(isinstance(row.get(name), int | float | type(None)) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell(row.get(name)) for name in names))
    console().print(table, markup=False)


def cell(value: object) -> str:
    """One cell: nothing for None, thousands for integers, four figures for floats."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
