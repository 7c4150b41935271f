"""A measurement file as columns: CSV, JSON lines or parquet, with the row of every bad cell."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heterarch.documents import read_text
from heterarch.errors import InputError, Where

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

SUFFIXES = (".csv", ".parquet", ".jsonl")
#: the ending of a column's name -> seconds in its unit
UNITS = {"_s": 1.0, "_ms": 1e-3, "_us": 1e-6}
#: stems of the column that holds the time of a kernel or of an iteration
STEMS = ("latency", "time", "duration")


@dataclass(frozen=True)
class Columns:
    """Columns of one file, all of one length; ``first`` is the line (of parquet: the row) of row 0."""

    file: str
    cells: Mapping[str, Sequence[Any]]
    first: int = 1

    def __len__(self) -> int:
        return len(next(iter(self.cells.values()), ()))

    def __contains__(self, name: str) -> bool:
        return name in self.cells

    def part(self, chosen: Sequence[bool]) -> Columns:
        """Some of the rows; their places are no longer those of the file."""
        return replace(self, cells={name: list(compress(cells, chosen)) for name, cells in self.cells.items()})

    def where(self, row: int) -> Where:
        """The place of a row."""
        return Where(self.file, row + self.first)

    def numbers(self, name: str, default: float = math.nan) -> Floats:
        """A column as floats, empty cells as ``default``; InputError names the first cell that is no number."""
        cells = self.cells[name]
        values = np.array([default if cell is None or cell == "" else _number(cell) for cell in cells])
        bad = [row for row in np.flatnonzero(np.isnan(values)).tolist() if not _is_empty(cells[row])]
        if bad:
            raise InputError(f"column {name!r} holds no number", observed=repr(cells[bad[0]]), where=self.where(bad[0]))
        return values

    def texts(self, name: str, default: str = "") -> list[str]:
        """A column as text; empty cells, and all where there is no such column, as ``default``."""
        cells = self.cells.get(name)
        if cells is None:
            return [default] * len(self)
        return [default if cell is None or cell == "" else str(cell) for cell in cells]

    def seconds(self, stem: str) -> Floats:
        """The column ``STEM_s``, ``STEM_ms`` or ``STEM_us`` in seconds; KeyError where there is none."""
        unit = next((unit for unit in UNITS if stem + unit in self.cells), None)
        if unit is None:
            raise KeyError(stem)
        return self.numbers(stem + unit) * UNITS[unit]

    def has_seconds(self, stem: str) -> bool:
        """Whether there is a column of that time in any unit."""
        return any(stem + unit in self.cells for unit in UNITS)

    def time_stem(self) -> str:
        """The stem of the column with the measured times; InputError where there is none."""
        for stem in STEMS:
            if self.has_seconds(stem):
                return stem
        if "seconds" in self.cells:
            return "seconds"
        raise InputError(
            "the file has no column of times",
            observed=", ".join(self.cells),
            expected="latency_s, latency_ms or latency_us",
            where=self.file,
            fix="name the unit in the column's name",
        )

    def times(self) -> Floats:
        """The measured times in seconds."""
        stem = self.time_stem()
        return self.numbers(stem) if stem == "seconds" else self.seconds(stem)


def read_columns(path: Path | str) -> Columns:
    """Read a CSV, JSON-lines or parquet file.

    Raises:
        InputError: it cannot be read, is none of these, or holds no rows.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            "not a measurement file", observed=suffix or "no ending", expected=" or ".join(SUFFIXES), where=str(path)
        )
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".jsonl": _read_jsonl}
    columns = readers[suffix](Path(path))
    if not len(columns):
        raise InputError("the file holds no rows", expected="a row per measurement", where=str(path))
    return columns


def _read_csv(path: Path) -> Columns:
    import csv

    lines = list(csv.reader(read_text(path).splitlines()))
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    for number, row in enumerate(rows):
        if row and len(row) != len(header):
            raise InputError(
                "a row has not as many cells as the header",
                observed=f"{len(row)} cells",
                expected=f"{len(header)}",
                where=Where(str(path), number + 2),
            )
    cells = zip(*(row for row in rows if row), strict=True)
    return Columns(str(path), {name.strip(): column for name, column in zip(header, cells, strict=False)}, first=2)


def _read_parquet(path: Path) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError("cannot read the parquet file", observed=str(error).splitlines()[0], where=str(path)) from None
    return Columns(str(path), {name: table[name].to_pylist() for name in table.schema.names})


def _read_jsonl(path: Path) -> Columns:
    rows = []
    for number, line in enumerate(read_text(path).splitlines()):
        try:
            row = json.loads(line or "{}")
        except ValueError as error:
            raise InputError("not JSON", observed=str(error), where=Where(str(path), number + 1)) from None
        if not isinstance(row, dict):
            raise InputError("a line is no JSON object", observed=line[:60], where=Where(str(path), number + 1))
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Columns(str(path), {name: [row.get(name) for row in rows] for name in names})


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan


def _is_empty(cell: Any) -> bool:
    if cell is None or cell == "":
        return True
    return isinstance(cell, float) or str(cell).strip().lower() in ("nan", "none", "null")
