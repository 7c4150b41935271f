"""Tables: no word is cut, no number has an exponent, whatever the terminal's width."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from heterarch.cli.table import cell, tables

from .conftest import Command

ROWS = [
    {"id": "workstation-rtx4090-2", "GB": 1_000, "rate": 15_000.0, "what": "one sentence after the other " * 4},
    {"id": "hgx-h100-8", "GB": None, "rate": 3.1e-05, "what": "short"},
]
COMMANDS = {
    "catalog devices": "jetson-agx-orin-64",
    "catalog devices h100-sxm": "scaleup_bytes_per_s",
    "catalog models": "Meta-Llama-3.1-70B",
    "catalog models DeepSeek-V3": "DeepSeek-V3",
    "catalog prices": "capacity-block",
    "catalog servers": "workstation-rtx4090-2",
    "catalog links": "infinity-fabric-mi300x",
    "catalog sites": "founding-paper",
    "fleet show mixed": "together-llama-3.1-70b",
    "workload list": "coding-fleet",
    "workload show coding-fleet": "requests per session",
    "doctor": "accelerators",
    "cost explain DeepSeek-V3 --device h200-sxm --tp 8 --ep 8 --batch 64": "attention_decode bf16",
    "tco Meta-Llama-3.1-8B --device h100-sxm --device gaudi3 --resources": "founding-table5",
}


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
        for table in tables(ROWS, list(ROWS[0]), width):
            console.print(table)
    return capture.get()


def test_columns_that_do_not_fit_follow_under_the_first() -> None:
    wide, narrow = printed(90), printed(60)
    assert wide.count("hgx-h100-8") == 1
    assert narrow.count("hgx-h100-8") == 2
    for text in (wide, narrow):
        assert "workstation-rtx4090-2" in text
        assert "15,000" in text


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(("command", "whole"), COMMANDS.items())
def test_commands(command: str, whole: str, width: int, heterarch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = heterarch(*command.split()).out
    assert whole in out
    assert max(map(len, out.splitlines())) <= width
    assert not re.search(r"\d[eE][+-]?\d", out)
