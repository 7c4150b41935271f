"""CSV and parquet tables of arrivals and lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heterarch.errors import InputError, TraceError
from heterarch.workload.trace import read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2225670,17,55
"""


def written(tmp_path: Path, text: str, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def parquet(tmp_path: Path, **columns: list[object]) -> Path:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_azure_csv(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, AZURE))
    assert trace.kind == "open"
    assert trace.time_s == pytest.approx([0, 4.314579, 4.541977])
    assert trace.prompt_tokens.tolist() == [374, 396, 17]
    assert trace.output_tokens.tolist() == [44, 109, 55]
    assert trace.session.tolist() == [0, 1, 2]
    assert trace.n_blocks.tolist() == [24, 25, 2]
    assert trace.parent.tolist() == [-1, -1, -1]
    assert np.isnan(trace.gap_s).all()
    assert trace.ideal_hit_rate() == 0


def test_timestamps_with_a_zone(tmp_path: Path) -> None:
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.5+00:00,1,1\n2024-05-10 00:00:02+00:00,1,1\n"
    assert read_trace(written(tmp_path, text)).time_s == pytest.approx([0, 1.5])


def test_vidur_csv(tmp_path: Path) -> None:
    text = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,10,2\n0.75,20,3\n"
    assert read_trace(written(tmp_path, text)).time_s.tolist() == [0.5, 0.75]


def test_lengths_need_a_rate(tmp_path: Path) -> None:
    path = parquet(tmp_path, prompt_tokens=[10] * 5000, output_tokens=[2] * 5000)
    with pytest.raises(TraceError, match="no arrivals") as error:
        read_trace(path)
    assert "rate_per_s" in str(error.value)
    trace = read_trace(path, rate_per_s=4, seed=1)
    assert trace.time_s[-1] == pytest.approx(1250, rel=0.05)
    assert (np.diff(trace.time_s) > 0).all()
    assert trace.time_s.tolist() == read_trace(path, rate_per_s=4, seed=1).time_s.tolist()
    with pytest.raises(InputError, match="above zero"):
        read_trace(path, rate_per_s=0)


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        (AZURE.replace("ContextTokens", "ContextToken"), "needs the columns ContextTokens", 0),
        (AZURE.replace(",396,", ",0,"), "prompt needs at least one token", 3),
        (AZURE.replace(",109", ",-1"), "answer needs at least one token", 3),
        (AZURE.replace("18:15:51.2", "18:15:49.2"), "time goes back", 4),
        (AZURE.replace(",396,", ",,"), "ContextTokens has no value", 3),
        (AZURE.replace(",396,", ",3.5,"), "ContextTokens must be whole numbers", 3),
        ("foo,bar\n1,2\n", "a table of calls needs the columns prompt_tokens, output_tokens", 0),
        (AZURE.replace(",396,", ",10000000000000000000,"), "ContextTokens must be whole numbers", 3),
        (AZURE.replace(",396,", ",many,"), "ContextTokens must be numbers", 0),
        (AZURE.replace("2023-11-16 18:15:50.9951690", "yesterday"), "must be seconds or timestamps", 0),
        (AZURE.replace(",396,109", ",396"), "cannot read the file as CSV", 0),
        (AZURE.splitlines()[0] + "\n", "holds no call", 0),
        ("", "cannot read the file as CSV", 0),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n-1,10,2\n", "time is negative", 2),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\ninf,10,2\n", "time is not a number", 2),
    ],
)
def test_bad_rows_are_refused_by_line(tmp_path: Path, text: str, what: str, line: int) -> None:
    path = written(tmp_path, text)
    with pytest.raises(TraceError, match=what) as error:
        read_trace(path)
    assert str(error.value).startswith(f"{path}:{line}: " if line else f"{path}: ")


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    path = parquet(tmp_path, arrival_s=[0.0], prompt_token=[1], output_tokens=[1])
    with pytest.raises(TraceError, match="prompt_tokens: perhaps prompt_token"):
        read_trace(path)


def test_damaged_parquet(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot read the file as parquet"):
        read_trace(written(tmp_path, "not parquet", "t.parquet"))


def test_recorded_azure_trace(shared_data: Path) -> None:
    trace = read_trace(shared_data / "traces" / "azure_llm_2023" / "conv.parquet")
    assert len(trace) == 19_366
    assert len(trace) / trace.duration_s == pytest.approx(5.53, abs=0.01)
