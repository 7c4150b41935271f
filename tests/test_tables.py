"""Tables that fit the terminal: columns in parts, whole words, plain numbers."""

from __future__ import annotations

import pytest
from rich.console import Console

from heterarch.tables import Grid, cell

NAMES = ["id", "GB", "time", "what"]
ROWS = [
    ("workstation-rtx4090-2", "1,000", "93.1 ms", "one sentence after the other " * 4),
    ("hgx-h100-8", "-", "2 us", "short"),
]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (15_000.0, "15,000"), (989e12, "989 T"), (3.1e-05, "0.000031"), (2e-6, "0.000002"), (999.96, "1000"),
        (0.31726, "0.3173"), (-1234.5, "-1,234"), (0.0, "0"), (1e6, "1 M"), (float("nan"), "nan"),
        (7, "7"), (80_000_000_000, "80,000,000,000"), (None, "-"), ("", "-"), (True, "yes"),
    ],
)  # fmt: skip
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


def printed(width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(Grid("title", NAMES, [False, True, True, False], ROWS))
    return capture.get()


def test_columns_that_do_not_fit_follow_under_the_first() -> None:
    wide, narrow = printed(90), printed(50)
    assert wide.count("hgx-h100-8") == 1
    assert narrow.count("hgx-h100-8") == 2
    for width, text in ((90, wide), (50, narrow)):
        assert text.startswith("title\n")
        assert "workstation-rtx4090-2" in text
        assert "93.1 ms" in text
        assert max(map(len, text.splitlines())) <= width


def test_brackets_are_text_and_an_empty_table_has_its_title() -> None:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(Grid("none", ["id"], [False]))
        console.print(Grid("one", ["id"], [False], [("fitted [1]",)]))
    assert "fitted [1]" in capture.get()
    assert "none" in capture.get()
