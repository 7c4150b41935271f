"""What commands print and write: tables that fit the terminal, JSON beside every table, notes on standard error."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from heterarch.errors import InputError
from heterarch.tables import Grid, cell

#: what an option of that name means in every command
JSON_HELP = "Print JSON instead of tables."
OVERLAY_HELP = "CSV or YAML file, or folder, laid over the catalogue; may be repeated."
CALIBRATION_HELP = "A calibration of your own, used before the shipped one; may be repeated."


def console(*, stderr: bool = False) -> Console:
    """A console on standard output or standard error; plain when it is not a terminal."""
    return Console(
        stderr=stderr,
        highlight=False,
        soft_wrap=False,
        width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 110,
    )


def note(text: str) -> None:
    """A line for the reader on standard error, so that standard output stays data."""
    console(stderr=True).print(text, style="dim", markup=False)


def print_line(text: str) -> None:
    """A line of the answer beside its tables, on standard output."""
    console().print(text, markup=False)


def print_json(data: object) -> None:
    """``data`` as JSON with a stable key order of its own."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")


def above_zero(value: float | None) -> float | None:
    """The value of an option that must be a finite number above zero, or None where it was not given.

    Raises:
        BadParameter: it is not.
    """
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise typer.BadParameter(f"{value:g} is not a number above 0")
    return value


def file_to_write(path: Path | None) -> Path | None:
    """A file that an option names for the result, checked before any work is done for it.

    Raises:
        InputError: its folder is absent or may not be written, or it is a folder itself.
    """
    if path is None or (path.exists() and not path.is_file() and not path.is_dir()):
        return path  # a device or a pipe
    if not path.parent.is_dir():
        raise InputError(
            "cannot write the file", observed=f"no folder {path.parent}", where=str(path), fix=f"mkdir -p {path.parent}"
        )
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        observed = "a folder" if path.is_dir() else f"{path.parent} is read-only"
        raise InputError("cannot write the file", observed=observed, expected="a file", where=str(path))
    return path


def print_table(title: str, rows: Sequence[Mapping[str, Any]], columns: Iterable[str] | None = None) -> None:
    """Rows under their keys; numbers to the right, long text folded, columns that do not fit in a second part."""
    names = list(columns or (rows[0] if rows else ()))
    values = [[row.get(name) for name in names] for row in rows]
    numeric = [all(isinstance(row[place], int | float | None) for row in values) for place in range(len(names))]
    console().print(Grid(title, names, numeric, [tuple(map(cell, row)) for row in values]))
