"""Trace events: one slice per phase, none hidden by another, the same bytes for the same run."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heterarch.report.aggregate import CALL, TOOL, Status
from heterarch.report.records import Labels
from heterarch.report.series import SAMPLE
from heterarch.report.trace_events import Run, write_trace_events

LABELS = Labels(["p", "d", "tools"], ["ask", "shell"])
NONE = np.zeros(0, TOOL)


def calls(*rows: tuple[Any, ...]) -> Any:
    """(request, pool, decode pool, submitted, scheduled, first, arrived, finish)."""
    names = (
        "request",
        "pool",
        "decode_pool",
        "submitted_s",
        "scheduled_s",
        "first_token_s",
        "kv_arrived_s",
        "finish_s",
    )
    table = np.zeros(len(rows), CALL)
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        table[name] = column
    table["status"] = Status.COMPLETED
    return table


def events(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    found: list[dict[str, Any]] = json.loads(text)["traceEvents"]
    return found


def slices(path: Path) -> list[tuple[str, int, float, float]]:
    return [(e["name"], e["pid"], e["ts"], e["dur"]) for e in events(path) if e["ph"] == "X"]


def test_phases_of_a_call_on_two_pools(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    run = Run(calls((0, 0, 1, 1.0, 2.0, 3.0, 3.5, 5.0)), NONE, LABELS)
    assert not write_trace_events(run, path, {"seed": 7}, 10)
    assert slices(path) == [
        ("queue", 0, 1e6, 1e6),
        ("prefill", 0, 2e6, 1e6),
        ("transfer", 1, 3e6, 0.5e6),
        ("decode", 1, 3.5e6, 1.5e6),
    ]
    arrows = [(e["ph"], e["pid"], e["id"]) for e in events(path) if e["ph"] in "sf"]
    assert arrows == [("s", 0, 0), ("f", 1, 0)]
    assert json.loads(path.read_text())["otherData"] == {"seed": "7"}
    assert {e["args"]["name"] for e in events(path) if e["name"] == "process_name"} == set(LABELS.pools)


def test_calls_at_once_have_lanes_of_their_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    begin = np.sort(rng.uniform(0, 20, 60))
    rows = [(k, 0, 0, t, t + 0.1, t + 0.5, np.nan, t + 0.5 + d) for k, (t, d) in enumerate(zip(begin, rng.exponential(2, 60), strict=True))]  # fmt: skip
    write_trace_events(Run(calls(*rows), NONE, LABELS), tmp_path / "t.json", {}, 100)
    found = [e for e in events(tmp_path / "t.json") if e["ph"] == "X"]
    assert len(found) == 180
    for lane in {e["tid"] for e in found}:
        mine = sorted((e["ts"], e["ts"] + e["dur"]) for e in found if e["tid"] == lane)
        assert all(b >= a - 0.01 for (_, a), (b, _) in pairwise(mine))
    most = max(sum(row[3] <= t < row[7] for row in rows) for t in begin)
    named = [e for e in events(tmp_path / "t.json") if e["name"] == "thread_name"]
    assert len(named) == len({e["tid"] for e in found}) == most


def test_tools_counters_and_what_had_not_ended(tmp_path: Path) -> None:
    tools = np.zeros(2, TOOL)
    tools["op"], tools["pool"], tools["submitted_s"] = 1, 2, [5.0, 6.0]
    tools["scheduled_s"], tools["finish_s"] = [5.0, np.nan], [8.0, np.nan]
    samples = np.zeros(1, SAMPLE)
    samples["time_s"], samples["queued"], samples["kv_share"] = 4.0, 3, 0.25
    unfinished = calls((0, 0, 0, 1.0, 2.0, np.nan, np.nan, np.nan))
    write_trace_events(Run(unfinished, tools, LABELS, samples), tmp_path / "t.json", {}, 10)
    assert slices(tmp_path / "t.json") == [
        ("queue", 0, 1e6, 1e6), ("prefill", 0, 2e6, 6e6), ("shell", 2, 5e6, 3e6), ("queue", 2, 6e6, 2e6)
    ]  # fmt: skip
    counters = {e["name"]: e["args"] for e in events(tmp_path / "t.json") if e["ph"] == "C"}
    assert counters["calls"] == {"queued": 3, "running": 0}
    assert counters["KV memory"] == {"kv": 0.25, "cached": 0.0}


def test_only_the_first_requests(tmp_path: Path) -> None:
    run = Run(calls(*((k, 0, 0, k, k, k + 1, np.nan, k + 2) for k in range(9))), NONE, LABELS)
    assert write_trace_events(run, tmp_path / "t.json", {}, 4)
    assert {e["args"]["request"] for e in events(tmp_path / "t.json") if e["ph"] == "X"} == {0, 1, 2, 3}
    assert "5 of 9 requests" in json.loads((tmp_path / "t.json").read_text())["otherData"]["left_out"]


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
def test_the_same_bytes_twice(name: str, tmp_path: Path) -> None:
    run = Run(calls((0, 0, 1, 1.0, 2.0, 3.0, 3.5, 5.0)), NONE, LABELS)
    write_trace_events(run, tmp_path / name, {}, 10)
    first = (tmp_path / name).read_bytes()
    write_trace_events(run, tmp_path / name, {}, 10)
    assert (tmp_path / name).read_bytes() == first
    assert len(slices(tmp_path / name)) == 4
