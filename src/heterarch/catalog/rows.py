"""Rows of tables, read from CSV or YAML, each knowing the file and line it came from."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from heterarch.documents import load_yaml, read_text
from heterarch.errors import InputError, UnknownNameError, Where


@dataclass(frozen=True)
class Row:
    """One row: cell texts by column (absent and empty are the same: unknown), and where it stands."""

    cells: Mapping[str, str]
    where: Where

    def text(self, column: str) -> str:
        """The cell without surrounding blanks; empty when unknown."""
        return self.cells.get(column, "").strip()

    def required(self, column: str) -> str:
        """As :meth:`text`; raises InputError when it is empty."""
        if not self.text(column):
            raise InputError(f"the column {column!r} must not be empty", where=self.where)
        return self.text(column)

    def number(self, column: str) -> float | None:
        """The cell as a finite number that is not negative, None when unknown; raises InputError otherwise."""
        text = self.text(column)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise InputError(
                f"the column {column!r} is wrong",
                observed=repr(text),
                expected="a number that is not negative, or nothing",
                where=self.where,
            )
        return value

    def integer(self, column: str, default: int = 0) -> int:
        """The cell as a whole number, ``default`` when unknown; raises InputError otherwise."""
        value = self.number(column)
        if value is None:
            return default
        if value != int(value):
            raise InputError(
                f"the column {column!r} must be a whole number", observed=self.text(column), where=self.where
            )
        return int(value)


def read_aliases(row: Row) -> tuple[str, ...]:
    """The other names of a row: column ``aliases``, separated by semicolons."""
    return tuple(name.strip() for name in row.text("aliases").split(";") if name.strip())


def read_csv(path: Path) -> tuple[list[str], list[Row]]:
    """Header and rows of a CSV file; lines without any cell are skipped.

    Raises:
        InputError: unreadable, empty, a column named twice, or a row longer than the header.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    header = [column.strip() for column in next(reader, [])]
    if not any(header):
        raise InputError("the table is empty", expected="a header of column names", where=str(path))
    twice = {column for column in header if header.count(column) > 1}
    if twice:
        raise InputError("a column is named twice", observed=", ".join(sorted(twice)), where=Where(str(path), 1))
    rows = []
    for cells in reader:
        where = Where(str(path), reader.line_num)
        if len(cells) > len(header):
            raise InputError(
                "the row has more cells than the header",
                observed=len(cells),
                expected=len(header),
                where=where,
                fix="put double quotes around a cell that holds a comma",
            )
        if any(cell.strip() for cell in cells):
            rows.append(Row(dict(zip(header, cells, strict=False)), where))
    return header, rows


def read_yaml(path: Path, tables: Iterable[str]) -> dict[str, list[tuple[Mapping[str, object], Where]]]:
    """The tables of a YAML file: lists of mappings under the names of ``tables``.

    Raises:
        InputError: unreadable, another key, or not lists of mappings.
    """
    data, locate = load_yaml(path)
    names = list(tables)
    if not isinstance(data, dict):
        raise InputError("the file must map table names to rows", expected=", ".join(names), where=str(path))
    found: dict[str, list[tuple[Mapping[str, object], Where]]] = {}
    for table, rows in data.items():
        if table not in names:
            raise UnknownNameError("table", str(table), names, where=locate((table,)))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{table!r} must be a list of rows", where=locate((table,)))
        found[table] = [(row, locate((table, i))) for i, row in enumerate(rows)]
    return found


def check_columns(columns: Iterable[str], known: Iterable[str], where: Where) -> None:
    """Raise UnknownNameError for the first column that is not ``known``."""
    names = set(known)
    for column in columns:
        if column not in names:
            raise UnknownNameError("column", column, names, where=where)
