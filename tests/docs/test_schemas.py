"""The published JSON schemas are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from heterarch.cli.app import run
from heterarch.cli.schema import SCHEMAS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", SCHEMAS)
def test_published_schema(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", name]) == 0
    assert (DOCS / f"{name}.schema.json").read_text() == capsys.readouterr().out
