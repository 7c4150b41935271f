"""Every table of every command: no word is cut, no number has an exponent, whatever the terminal's width."""

from __future__ import annotations

import re

import pytest

from .conftest import Command

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


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(("command", "whole"), COMMANDS.items())
def test_commands(command: str, whole: str, width: int, heterarch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = heterarch(*command.split()).out
    assert whole in out
    assert max(map(len, out.splitlines())) <= width
    assert not re.search(r"\d[eE][+-]?\d", out)
