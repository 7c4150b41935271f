"""Mooncake JSON lines."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from heterarch.errors import TraceError
from heterarch.workload.trace import read_trace


def line(timestamp: float, tokens: int, ids: list[int], output: int = 7) -> str:
    return json.dumps(
        {"timestamp": timestamp, "input_length": tokens, "output_length": output, "hash_ids": ids, "extra": 1}
    )


GOOD = [line(0, 1500, [0, 1, 2]), line(0, 1024, [0, 1]), line(3000, 2000, [0, 1, 3, 4]), line(3000, 10, [9])]


def written(tmp_path: Path, lines: list[str]) -> Path:
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_worked_example(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, GOOD))
    assert trace.kind == "open"
    assert trace.block_tokens == 512
    assert trace.time_s.tolist() == [0, 0, 3, 3]
    assert trace.parent.tolist() == [-1, 0, 0, -1]
    assert trace.shared_blocks.tolist() == [0, 2, 2, 0]
    assert trace.n_blocks.tolist() == [3, 2, 4, 1]
    assert trace.ideal_hit_rate() == pytest.approx(4 / 10)


def test_compressed_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress("\n\n".join(GOOD).encode()))
    assert len(read_trace(path)) == 4


def test_ids_that_are_not_chained(tmp_path: Path) -> None:
    # block 1 stands at two places: only a block with the same blocks before it is shared
    trace = read_trace(written(tmp_path, [line(0, 1024, [0, 1]), line(1, 1024, [1, 1]), line(2, 1024, [1, 0])]))
    assert trace.parent.tolist() == [-1, -1, 1]
    assert trace.shared_blocks.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ('{"timestamp": 1', "cannot read the line"),
        ('{"timestamp": 1, "input_length": 5, "output_length": 1}', "hash_ids"),
        ('{"timestamp": "x", "input_length": 5, "output_length": 1, "hash_ids": [1]}', "timestamp"),
        (line(3000, 1025, [0, 1]), "one id per 512 tokens"),
        (line(2999, 512, [5]), "time goes back"),
        (line(3000, 0, []), "at least one token"),
        (line(3000, 512, [5], output=0), "answer needs at least one token"),
    ],
)
def test_bad_lines_are_refused_by_number(tmp_path: Path, bad: str, what: str) -> None:
    path = written(tmp_path, [*GOOD, bad])
    with pytest.raises(TraceError, match=what) as error:
        read_trace(path)
    assert str(error.value).startswith(f"{path}:5: ")


def test_damaged_and_empty_files(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(GOOD * 50).encode())[:-30])
    with pytest.raises(TraceError, match="damaged"):
        read_trace(path)
    path.write_bytes(b"not gzip")
    with pytest.raises(TraceError, match="damaged"):
        read_trace(path)
    with pytest.raises(TraceError, match="holds no call"):
        read_trace(written(tmp_path, [""]))


def test_recorded_conversations(shared_data: Path) -> None:
    trace = read_trace(shared_data / "traces" / "mooncake" / "conversation_trace.jsonl.gz")
    assert len(trace) == 12_031
    assert trace.ideal_hit_rate() == pytest.approx(0.366, abs=5e-4)
    assert trace.prompt_tokens.mean() == pytest.approx(12_035, abs=1)
