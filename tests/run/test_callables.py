"""Callables of a plan: found by reference, and a changed source is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from heterarch.errors import InputError, StalePlanError, UnknownNameError
from heterarch.graph.reference import source_sha256
from heterarch.ir.flat import OpKind
from heterarch.plan.document import CallablePart
from heterarch.run.callables import bind

from .programs import DATA, Program


def shout(text: str) -> str:
    return text.upper()


def program() -> object:
    p = Program()
    with p.graph("main", DATA) as (x,):
        p.give(*p.op(OpKind.TOOL, "op", [x], callee="shout"))
    return p.flat()


def row(ref: str, sha256: str = "") -> CallablePart:
    return CallablePart(symbol="shout", ref=ref, sha256=sha256 or source_sha256(shout))


async def test_a_file_reference_is_resolved_and_called(tmp_path: Path) -> None:
    file = tmp_path / "tools.py"
    file.write_text("def shout(text):\n    return text.upper() + '!'\n")
    bindings = bind(program(), [row(f"{file}:shout", "0" * 64)])
    assert await bindings.call("shout", ["a"]) == "A!"
    assert len(bindings.notes) == 1
    assert "has changed" in bindings.notes[0]
    with pytest.raises(StalePlanError, match="has changed"):
        bind(program(), [row(f"{file}:shout", "0" * 64)], strict=True)


async def test_an_unchanged_source_is_silent() -> None:
    bindings = bind(program(), [row(f"{__name__}:shout")], strict=True)
    assert bindings.notes == []
    assert await bindings.call("shout", ["a"]) == "A"


def test_references_that_lead_nowhere() -> None:
    with pytest.raises(InputError, match="cannot import module"):
        bind(program(), [row("no_such_module:shout")])
    with pytest.raises(UnknownNameError, match="shuot"):
        bind(program(), [row(f"{__name__}:shuot")])
