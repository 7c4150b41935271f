"""The command line starts light, names its commands, and turns errors into messages and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from heterarch.cli.app import COMMANDS, run

HEAVY = ("numpy", "xdsl", "numba", "ortools", "pydantic", "xllamacpp")
EXAMPLE = str(Path(__file__).parents[2] / "examples" / "coding_agent.py")


@pytest.mark.parametrize("code", ["import heterarch", "from heterarch.cli.app import run; run(['--help'])"])
def test_nothing_heavy_is_loaded(code: str) -> None:
    listing = f"{code}\nimport sys, json\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_public_names_resolve() -> None:
    import heterarch

    assert all(getattr(heterarch, name) is not None for name in heterarch.__all__)
    assert dir(heterarch) == sorted(heterarch.__all__)
    with pytest.raises(AttributeError, match="nothing_like_that"):
        heterarch.nothing_like_that  # noqa: B018


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        assert run([name, "--help"]) == 0
        assert "Usage: heterarch " + name in capsys.readouterr().out
    assert run([]) == 0
    overview = capsys.readouterr().out
    assert all(name in overview for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plna"], "No such command 'plna'"),
        (["catalog", "devices", "h100-sx"], "unknown device 'h100-sx'\n  expected: did you mean h100-sxm"),
        (["catalog", "devices", "--nope"], "No such option"),
        (["opt", EXAMPLE, "--passes", "decompos"], "unknown pass 'decompos'\n  expected: one of decompose"),
        (["opt", EXAMPLE, "--passes", "place{asign=a}"], "asign"),
        (["opt", "nowhere.mlir"], "cannot read the file"),
        (["opt", "nowhere.py"], "no such Python file"),
        (["schema", "fleeet"], "unknown schema 'fleeet'\n  expected: one of fleet"),
        (["fleet", "show", "mixd"], "mixed"),
        (["workload", "show", "chatt"], "chat"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(_: object) -> None:
        raise MemoryError("Unable to allocate 21 PiB")

    monkeypatch.setattr("heterarch.cli.app.get_command", full)
    assert run(["doctor"]) == 2
    assert capsys.readouterr().err == "heterarch: not enough memory\n  observed: Unable to allocate 21 PiB\n"


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m heterarch catalog models --json | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[\n"
    assert "Traceback" not in done.stderr
