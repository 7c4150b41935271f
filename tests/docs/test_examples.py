"""Every example in README and docs runs: Python, documents, and commands with the output that the page shows."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ruamel.yaml import YAML

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.fleet import Fleet
from heterarch.cli.app import run
from heterarch.graph.schema import AgentDocument
from heterarch.report.slo import SLODocument
from heterarch.sim.faults import Faults
from heterarch.sim.sweep import SweepDocument
from heterarch.workload.profile import Workload

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OVERLAYS = {"devices", "models", "prices", "servers", "links", "sites"}


class Block(NamedTuple):
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.M | re.S):
        yield Block(*match.groups())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    files_of_other_pages(tmp_path)
    for block in blocks(page):
        {"python": python, "yaml": document, "csv": overlay, "console": console}.get(block.language, ignore)(
            block.text, capsys
        )


def files_of_other_pages(folder: Path) -> None:
    """Files that pages show, and a trace such as a user may have."""
    for page in PAGES:
        for block in blocks(page):
            if block.text.startswith("# file: "):
                name, text = block.text.removeprefix("# file: ").split("\n", 1)
                (folder / name.strip()).write_text(text)
    rows = [{"timestamp": 50_000 * i, "input_length": 1024, "output_length": 9, "hash_ids": [0, i]} for i in range(40)]
    with gzip.open(folder / "conversation_trace.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def python(text: str, capsys: Any) -> None:
    if not text.startswith("# file: "):
        exec(compile(text, "example", "exec"), {"__name__": "example"})


def overlay(text: str, capsys: Any) -> None:
    Path("mine.csv").write_text(text)
    Catalog.load("mine.csv")


def document(text: str, capsys: Any) -> None:
    data = YAML(typ="safe", pure=True).load(text)
    if set(data) <= OVERLAYS:
        Path("mine.yaml").write_text(text)
        Catalog.load(*[name for name in ("mine.csv", "mine.yaml") if Path(name).exists()])
        return
    kinds = {
        "changes": Faults,
        "nodes": AgentDocument,
        "arrivals": Workload,
        "devices": Fleet,
        "slo": SLODocument,
        "plans": SweepDocument,
    }
    next(model for key, model in kinds.items() if key in data).model_validate(data)


def console(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in re.split(r"^\$ ", text, flags=re.M)[1:]:
        line, _, shown = command.partition("\n")
        words = shlex.split(line)
        if words[0] != "heterarch":
            continue
        wrong = shown.startswith("heterarch: ")
        assert (run(words[1:]) != 0) == wrong, line
        printed = capsys.readouterr()
        compare(shown, printed.err if wrong else printed.out, line)


def compare(shown: str, printed: str, line: str) -> None:
    """Each line shown stands in the output, in order; ``...`` stands for any lines, or for any text in a line."""
    got = [tidy(text) for text in printed.splitlines()]
    position = 0
    for text in filter(None, map(tidy, shown.splitlines())):
        if text == "...":
            continue
        pattern = re.compile(".*".join(map(re.escape, re.split(r" ?\.\.\. ?", text))))
        found = next((row for row in range(position, len(got)) if pattern.fullmatch(got[row])), None)
        assert found is not None, f"`{line}` does not print\n{text}\nbut\n{printed}"
        position = found + 1


def tidy(text: str) -> str:
    return " ".join(text.split())


def ignore(text: str, capsys: Any) -> None:
    """Shell, Makefile and the like: run elsewhere."""


def test_the_readme_shows_what_it_promises_early() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    head = "\n".join(lines[:35])
    assert "```python" in head
    assert "```console" in head
    assert "make demo" in "\n".join(lines)
    assert "make test" in "\n".join(lines)
