"""Recorded sessions of a coding agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heterarch.errors import TraceError
from heterarch.workload.trace import read_trace

COLUMNS = (
    "trace", "i", "parent", "kind", "t_s", "prompt_tokens", "output_tokens", "n_blocks", "prefix_blocks", "prefix_of",
    "api_time", "think_time", "sub_duration_s",
)  # fmt: skip
# session a: two calls; a subagent from 20 s to 50 s with two calls of its own; one call after it. Session b: one call.
ROWS: list[tuple[Any, ...]] = [
    ("a", 0, -1, "n", 0.0, 640, 10, 10, 0, -1, 4.0, 0.0, None),
    ("a", 1, -1, "s", 10.0, 1280, 0, 20, 10, 0, 5.0, 6.0, None),
    ("a", 2, -1, "subagent", 50.0, None, None, None, None, None, None, None, 30.0),
    ("a", 3, 2, "n", 0.0, 320, 10, 5, 0, -1, 3.0, 0.0, None),
    ("a", 4, 2, "n", 8.0, 384, 10, 6, 5, 3, None, 5.0, None),
    ("a", 5, -1, "n", 60.0, 1920, 10, 30, 20, 1, 2.0, 45.0, None),
    ("b", 0, -1, "n", 0.0, 640, 10, 10, 0, -1, None, None, None),
]


def written(tmp_path: Path, rows: list[tuple[Any, ...]], **drop: bool) -> Path:
    columns = {name: [row[k] for row in rows] for k, name in enumerate(COLUMNS) if not drop.get(name)}
    path = tmp_path / "requests.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def changed(row: int, **values: object) -> list[tuple[Any, ...]]:
    rows = [dict(zip(COLUMNS, entry, strict=True)) for entry in ROWS]
    rows[row] |= values
    return [tuple(entry[name] for name in COLUMNS) for entry in rows]


def test_worked_example(tmp_path: Path) -> None:
    written(tmp_path, ROWS)
    trace = read_trace(tmp_path)
    assert trace.kind == "sessions"
    assert trace.name == tmp_path.name
    assert trace.block_tokens == 64
    assert trace.session.tolist() == [0, 0, 0, 0, 0, 1]
    assert trace.time_s.tolist() == [0, 10, 20, 28, 60, 0]
    assert trace.parent.tolist() == [-1, 0, -1, 2, 1, -1]
    assert trace.shared_blocks.tolist() == [0, 10, 0, 5, 20, 0]
    assert trace.output_tokens.tolist() == [10, 1, 10, 10, 10, 10]
    # recorded; then from times: 20 - (10 + 5); recorded; 60 - (28 + median of 4, 5, 3, 2); first calls have none
    assert trace.gap_s[[1, 2, 3, 4]].tolist() == [6, 5, 5, 28.5]
    assert np.isnan(trace.gap_s[[0, 5]]).all()
    assert trace.notes == (
        "1 subagent markers are not calls",
        "1 calls record no output token: read as 1",
        "1 gaps follow a call of unrecorded length: the median length was assumed",
    )


def test_a_subagent_that_runs_beside_its_session_is_put_in_order(tmp_path: Path) -> None:
    rows = changed(5, t_s=25.0)  # between the subagent's calls at 20 s and 28 s
    trace = read_trace(written(tmp_path, rows))
    assert trace.time_s.tolist() == [0, 10, 20, 25, 28, 0]
    assert trace.n_blocks.tolist() == [10, 20, 5, 30, 6, 10]
    assert trace.parent.tolist() == [-1, 0, -1, 1, 2, -1]


def test_block_size_beside(tmp_path: Path) -> None:
    written(tmp_path, ROWS)
    pq.write_table(pa.table({"trace": ["a", "b"], "block_size": [32, 32]}), tmp_path / "sessions.parquet")
    assert read_trace(tmp_path).block_tokens == 32
    pq.write_table(pa.table({"trace": ["a", "b"], "block_size": [32, 64]}), tmp_path / "sessions.parquet")
    with pytest.raises(TraceError, match="one block size"):
        read_trace(tmp_path)


@pytest.mark.parametrize(
    ("rows", "what", "row"),
    [
        (changed(1, prefix_of=5), "prefix_of names no earlier call", 2),
        (changed(1, prefix_of=77), "prefix_of names no earlier call", 2),
        (changed(5, prefix_of=2), "prefix_of names no earlier call", 6),
        (changed(5, prefix_blocks=21), "prefix_blocks exceeds", 6),
        (changed(6, prefix_blocks=1), "prefix_blocks exceeds", 7),
        (changed(5, n_blocks=None), "n_blocks has no value", 6),
        (changed(5, t_s=5.0), "time goes back within a session", 6),
        (changed(0, t_s=-5.0), "time is negative", 1),
        (changed(1, think_time=-1.0), "idle time is negative", 2),
        (changed(0, prompt_tokens=0), "at least one token", 1),
        (changed(3, parent=1), "names no subagent", 4),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, rows: list[tuple[Any, ...]], what: str, row: int) -> None:
    path = written(tmp_path, rows)
    with pytest.raises(TraceError, match=what) as error:
        read_trace(path)
    assert str(error.value).startswith(f"{path}:{row}: ")


def test_columns_that_are_not_numbers(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="think_time must be numbers"):
        read_trace(written(tmp_path, [(*row[:11], "soon", None) for row in ROWS]))
    written(tmp_path, ROWS)
    (tmp_path / "sessions.parquet").write_text("no table")
    with pytest.raises(TraceError, match=r"sessions\.parquet: cannot read"):
        read_trace(tmp_path)


def test_times_that_are_not_recorded(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, [(*row[:10], None, None, row[12]) for row in ROWS]))
    assert trace.gap_s[1:5].tolist() == [10, 10, 8, 32]


def test_missing_column_and_no_call(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="needs the columns think_time"):
        read_trace(written(tmp_path, ROWS, think_time=True))
    with pytest.raises(TraceError, match="holds no call"):
        read_trace(written(tmp_path, [ROWS[2]]))


def test_recorded_sessions(shared_data: Path) -> None:
    trace = read_trace(shared_data / "traces" / "claude_code_weka")
    assert (len(trace), trace.sessions) == (24_041, 354)
    assert trace.ideal_hit_rate() == pytest.approx(0.9635, abs=5e-5)
    assert np.isnan(trace.gap_s).sum() == 354
    tree, leaf = trace.prefix_tree()
    for row in range(0, len(trace), 997):
        assert tree.blocks[tree.path(int(leaf[row]))].sum() == trace.n_blocks[row]
