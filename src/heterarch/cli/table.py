"""Tables as wide as the terminal: columns that do not fit beside each other follow in a second part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from heterarch.units import format_number

GAP = 3  # blanks between two columns
EDGES = 2  # blanks around a row
WORD = 32  # longer words are folded
PROSE = 24  # least width of a column of sentences


@dataclass(frozen=True)
class Column:
    """A heading and its cells."""

    name: str
    cells: tuple[str, ...]
    numeric: bool

    @property
    def full(self) -> int:
        """Characters of the longest line."""
        return max(map(len, (self.name, *self.cells)))

    @property
    def least(self) -> int:
        """Characters below which a word would break, or sentences would run down the page."""
        words = (len(word) for text in (self.name, *self.cells) for word in text.split())
        return max(min(max(words, default=0), WORD), min(max(map(len, self.cells), default=0), PROSE))


def tables(rows: Sequence[Mapping[str, Any]], names: Sequence[str], width: int) -> Iterator[Table]:
    """The rows as tables of at most ``width`` characters, each of which begins with the first column."""
    columns = [_column(rows, name) for name in names]
    for part in _parts(columns, width):
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for column, size in zip(part, _widths(part, width), strict=True):
            table.add_column(column.name, justify="right" if column.numeric else "left", overflow="fold", width=size)
        for cells in zip(*(column.cells for column in part), strict=True):
            table.add_row(*cells)
        yield table


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> Column:
    values = [row.get(name) for row in rows]
    numeric = bool(rows) and all(isinstance(value, int | float | None) for value in values)
    return Column(name, tuple(map(cell, values)), numeric)


def _parts(columns: Sequence[Column], width: int) -> Iterator[list[Column]]:
    part = list(columns[:1])
    for column in columns[1:]:
        if len(part) > 1 and sum(each.least + GAP for each in (*part, column)) - GAP + EDGES > width:
            yield part
            part = [columns[0]]
        part.append(column)
    yield part


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """What every column needs, and of the room that is left as much as it can use, the modest ones first."""
    room = width - EDGES - GAP * (len(columns) - 1) - sum(column.least for column in columns)
    found = [column.least for column in columns]
    order = sorted(range(len(columns)), key=lambda index: columns[index].full - columns[index].least)
    for position, index in enumerate(order):
        share = max(0, room) // (len(order) - position)
        more = min(columns[index].full - columns[index].least, share)
        found[index] += more
        room -= more
    return found


def cell(value: object) -> str:
    """One cell: a dash for nothing, thousands apart, four figures of fractions, no exponents."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return format_number(value) if isinstance(value, float) else str(value)
