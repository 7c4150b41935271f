"""What the accuracy benchmarks do with files that they cannot read."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path

import pytest

from heterarch.catalog.catalog import Catalog

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import e2e_accuracy
from op_accuracy import accuracy, tables_of

from heterarch.cost.document import shipped

PROFILE = (
    "hardware", "model", "tp", "table", "layer", "tokens", "sequences", "prefill_chunk", "kv_prefill", "n_decode",
    "kv_decode", "time_us",
)  # fmt: skip


def gemms(path: Path) -> None:
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["hardware", "framework", "dtype", "m", "n", "k", "latency_us"])
        rows.writerows(["h100-sxm", "vllm", "bf16", m, 4096, 4096, 20 + m / 8] for m in (1, 16, 256, 1024))


def profile(path: Path, *models: str) -> None:
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(PROFILE)
        rows.writerows(["h100-sxm", model, 1, "dense", "qkv_proj", 16, 0, 0, 0, 0, 0, 30] for model in models)


def test_an_empty_file_is_named_and_the_others_are_scored(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    gemms(tmp_path / "gemm.csv")
    found = accuracy(tmp_path, shipped())
    assert found["totals"]["gemm"]["same"]["rows"] == 4
    assert found["unanswered"] == {f"{tmp_path}/empty.csv: the file holds no rows": 0}
    assert found["answered"] == 1.0


def test_rows_of_an_unknown_model_are_counted_and_the_others_read(tmp_path: Path) -> None:
    profile(tmp_path / "profile.csv", "Meta-Llama-3.1-8B", "Nobody-7B", "Meta-Llama-3.1-8B")
    unanswered: Counter[str] = Counter()
    (table,) = (table for table in tables_of(tmp_path / "profile.csv", Catalog.load(), unanswered) if len(table))
    assert (table.family, len(table)) == ("gemm", 2)
    assert unanswered == {f"{tmp_path}/profile.csv: unknown model 'Nobody-7B'": 1}


def test_a_cell_that_is_no_number_is_named_with_its_line(tmp_path: Path) -> None:
    gemms(tmp_path / "gemm.csv")
    text = (tmp_path / "gemm.csv").read_text().replace("256,4096", "many,4096")
    (tmp_path / "gemm.csv").write_text(text)
    found = accuracy(tmp_path, shipped())
    assert found["unanswered"] == {f"{tmp_path}/gemm.csv:4: column 'm' holds no number": 4}
    assert found["answered"] == 0.0


def test_a_folder_without_measured_engines_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["e2e_accuracy.py", "--data", str(tmp_path)])
    e2e_accuracy.main()
    assert f"no file e2e_*.csv in {tmp_path}" in capsys.readouterr().out
