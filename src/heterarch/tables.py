"""Tables as wide as the terminal: columns that do not fit beside each other follow in a second part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from heterarch.units import format_number

GAP = 3  # blanks between two columns
EDGES = 2  # blanks around a row
WORD = 32  # longer words are folded
PROSE = 24  # least width of a column of sentences


@dataclass
class Grid:
    """A titled table for ``rich``: headings, which of them are of numbers (to the right), and rows of cells."""

    title: str
    names: Sequence[str]
    numeric: Sequence[bool]
    rows: list[tuple[str | Text, ...]] = field(default_factory=list)

    def add_row(self, *cells: str | Text) -> None:
        """One more row, a cell per heading."""
        self.rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """The title, and the columns in as many parts as the width takes, each of which begins with the first."""
        yield Text(self.title, style="bold")
        cells = list(zip(*self.rows, strict=True)) or [()] * len(self.names)
        columns = [Column(*each) for each in zip(self.names, cells, self.numeric, strict=True)]
        for part in _parts(columns, options.max_width):
            yield _table(part, options.max_width)


@dataclass(frozen=True)
class Column:
    """A heading and its cells."""

    name: str
    cells: tuple[str | Text, ...]
    numeric: bool

    @property
    def full(self) -> int:
        """Characters of the longest line."""
        return max(len(text) for text in (self.name, *self.cells))

    @property
    def least(self) -> int:
        """Characters below which a word or a number would break, or sentences would run down the page."""
        longest = max((len(text) for text in self.cells), default=0)
        words = [len(word) for text in (self.name, *self.cells) for word in str(text).split()]
        return max(min(max(words, default=0), WORD), longest if self.numeric else min(longest, PROSE))


def _parts(columns: Sequence[Column], width: int) -> Iterator[list[Column]]:
    part = list(columns[:1])
    for column in columns[1:]:
        if len(part) > 1 and sum(each.least + GAP for each in (*part, column)) - GAP + EDGES > width:
            yield part
            part = [columns[0]]
        part.append(column)
    yield part


def _table(columns: Sequence[Column], width: int) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column, size in zip(columns, _widths(columns, width), strict=True):
        table.add_column(column.name, justify="right" if column.numeric else "left", overflow="fold", width=size)
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(Text(text) if isinstance(text, str) else text for text in cells))
    return table


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """What every column needs, and of the room that is left as much as it can use, the modest ones first."""
    found = [column.least for column in columns]
    room = width - EDGES - GAP * (len(columns) - 1) - sum(found)
    order = sorted(range(len(columns)), key=lambda index: columns[index].full - found[index])
    for position, index in enumerate(order):
        more = min(columns[index].full - found[index], max(0, room) // (len(order) - position))
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
