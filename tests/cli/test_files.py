"""What ``heterarch simulate`` leaves: whole files with the same bytes for the same seed, or none and a clear error."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from heterarch.cost.measured.logs import read_log

from .conftest import Command

EVERY = ("-o", "r.json", "--requests-out", "q.parquet", "--calls-out", "c.parquet", "--series-out", "s.parquet",
         "--trace-out", "t.json.gz", "--plot", "p.png")  # fmt: skip
NAMES = [word for word in EVERY if "." in word]


def simulated(heterarch: Command, plan: Path, *words: object, requests: int = 20, code: int = 0) -> str:
    return heterarch("simulate", plan, "--requests", requests, *words, code=code).err


def full_device(name: str) -> Path:
    """A link to the device that is always full: were the link replaced, the device would stay."""
    if not Path("/dev/full").is_char_device():
        pytest.skip("this machine has no /dev/full")
    Path(name).symlink_to("/dev/full")
    return Path(name)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_two_results_in_one_file_are_refused(here: Path, small_plan: Path, heterarch: Command) -> None:
    said = simulated(heterarch, small_plan, "--requests-out", "q.parquet", "--calls-out", "./q.parquet", code=2)
    assert "two results are to be written into one file" in said
    assert not Path("q.parquet").exists()


def test_a_repair_that_never_ends_is_a_usage_error(here: Path, small_plan: Path, heterarch: Command) -> None:
    said = simulated(heterarch, small_plan, "--faults", "random", "--mtbf-s", 5, "--mttr-s", "inf", code=2)
    assert "--mttr-s" in said


def test_every_file_twice(here: Path, small_plan: Path, heterarch: Command) -> None:
    said = simulated(heterarch, small_plan, *EVERY)
    assert all(f"wrote {name}" in said for name in NAMES)
    first = {name: Path(name).read_bytes() for name in NAMES}
    simulated(heterarch, small_plan, *EVERY)
    assert {name: Path(name).read_bytes() for name in NAMES} == first
    assert leftovers(here) == []


def test_records_by_name(here: Path, small_plan: Path, heterarch: Command) -> None:
    simulated(heterarch, small_plan, *EVERY, "--seed", 5)
    requests, calls, series = (pq.read_table(name) for name in ("q.parquet", "c.parquet", "s.parquet"))
    report = json.loads(Path("r.json").read_text())
    assert requests.num_rows == report["requests"]["offered"]
    assert set(requests["status"].to_pylist()) == {"completed"}
    assert set(calls["engine"].to_pylist()) == {"mixed-h100-sxm/0"}
    assert set(calls["op"].to_pylist()) == {"draft.decode"}
    e2e = np.array(requests["finish_s"]) - np.array(requests["release_s"])
    assert np.percentile(e2e, 95) == pytest.approx(report["e2e_s"]["p95"])
    assert series["time_s"].to_pylist() == sorted(series["time_s"].to_pylist())
    assert len(report["series"]["time_s"]) * len(report["pools"]) == series.num_rows
    for table in (requests, calls, series):
        facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        assert facts["heterarch.seed"] == "5"
        assert facts["heterarch.plan_sha256"] == report["plan_sha256"]
        assert facts["heterarch.partial"] == "false"
    assert len(read_log("c.parquet").iterations.seconds) > 0  # what calibration reads


def test_reasons_by_name(here: Path, small_plan: Path, heterarch: Command) -> None:
    calls = (
        {"timestamp": k, "input_length": 512 * blocks, "output_length": 9, "hash_ids": list(range(blocks))}
        for k, blocks in enumerate((1, 8000))
    )
    Path("t.jsonl").write_text("".join(json.dumps(call) + "\n" for call in calls))
    simulated(heterarch, small_plan, "--trace", "t.jsonl", "--requests-out", "q.parquet", "--calls-out", "c.parquet")
    table = pq.read_table("q.parquet")
    assert table["status"].to_pylist() == ["completed", "rejected"]
    assert table["reason"].to_pylist() == [None, "the call is longer than the model's context"]
    assert pq.read_table("c.parquet")["engine"].to_pylist() == ["mixed-h100-sxm/0", None]


def test_series_as_csv_and_samples_by_choice(here: Path, small_plan: Path, heterarch: Command) -> None:
    simulated(heterarch, small_plan, "--series-out", "s.csv", "--sample-s", 10)
    table = pyarrow.csv.read_csv("s.csv")
    times = np.unique(table["time_s"])
    assert np.diff(times)[:-1] == pytest.approx(10.0)
    assert set(table["pool"].to_pylist()) == {"mixed-h100-sxm"}


def test_report_has_no_series_unless_sampled(small_plan: Path, heterarch: Command) -> None:
    words = ("simulate", small_plan, "--requests", 20, "--json")
    plain, sampled = heterarch(*words).data, heterarch(*words, "--sample-s", 5).data
    assert plain["series"] is None
    assert sampled.pop("series")["time_s"]
    assert sampled == {key: value for key, value in plain.items() if key != "series"}


def test_plots_in_a_folder(here: Path, small_plan: Path, heterarch: Command) -> None:
    simulated(heterarch, small_plan, "--plot", "plots")
    names = {"latency", "utilisation", "memory", "cost", "queue"}
    assert {path.stem for path in Path("plots").iterdir()} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in Path("plots").iterdir())
    for kind in ("svg", "pdf"):
        simulated(heterarch, small_plan, "--plot", f"p.{kind}")
        first = Path(f"p.{kind}").read_bytes()
        simulated(heterarch, small_plan, "--plot", f"p.{kind}")
        assert Path(f"p.{kind}").read_bytes() == first


def test_plots_that_cannot_be(
    here: Path, small_plan: Path, heterarch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("simulate", small_plan, "--plot")
    heterarch(*words, "p.txt", code=2, says=("no format of a picture", "expected: .png, .svg, .pdf, or a folder"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    heterarch(*words, "p.png", code=2, says=("plots need matplotlib", "fix: pip install 'heterarch[plot]'"))


def test_partial_files_say_so(here: Path, small_plan: Path, heterarch: Command) -> None:
    simulated(heterarch, small_plan, *EVERY, "--until", 5, requests=200)
    assert json.loads(Path("r.json").read_text())["partial"]
    for name in ("q.parquet", "c.parquet", "s.parquet"):
        assert pq.read_table(name).schema.metadata[b"heterarch.partial"] == b"true"


def test_a_full_disk(here: Path, small_plan: Path, heterarch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(heterarch, small_plan, *EVERY)
    before = {name: Path(name).read_bytes() for name in NAMES}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    for option, name in zip(EVERY[::2], EVERY[1::2], strict=True):
        said = simulated(heterarch, small_plan, option, name, "--seed", 9, code=2)
        assert f"{name}: cannot write the file" in said
        assert "observed: No space left on device" in said
    assert {name: Path(name).read_bytes() for name in NAMES} == before
    assert leftovers(here) == []


@pytest.mark.parametrize("option", EVERY[::2])
def test_a_device_that_takes_nothing(option: str, here: Path, small_plan: Path, heterarch: Command) -> None:
    said = simulated(heterarch, small_plan, option, full_device("full.png"), code=2)
    assert "full.png: cannot write the file" in said
    assert "No space left on device" in said
    assert Path("full.png").is_symlink()
    assert leftovers(here) == []


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_standard_output_that_takes_nothing(form: list[str], here: Path, small_plan: Path) -> None:
    words = [sys.executable, "-m", "heterarch", "simulate", str(small_plan), "--requests", "20", *form]
    with open(full_device("full"), "wb") as stream:
        done = subprocess.run(words, stdout=stream, stderr=subprocess.PIPE, check=False, text=True)
    assert done.returncode == 2
    assert "cannot write to standard output" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_later_file_that_fails_leaves_the_earlier_ones(here: Path, small_plan: Path, heterarch: Command) -> None:
    said = simulated(heterarch, small_plan, "-o", "r.json", "--calls-out", full_device("full"), code=2)
    assert "wrote r.json" in said
    assert json.loads(Path("r.json").read_text())["requests"]["completed"] == 20


def test_arrivals(here: Path, small_plan: Path, heterarch: Command) -> None:
    def with_arrivals(text: str, **options: object) -> str:
        return heterarch("simulate", small_plan, "--requests", 50, "--json", "--arrivals", text, **options).out

    plain = heterarch("simulate", small_plan, "--requests", 50, "--json").out
    assert with_arrivals("{process: poisson}") == plain != with_arrivals("{process: gamma, cv: 3}")
    with_arrivals("{process: bursts}", code=2, says=("--arrivals", "process"))
    with_arrivals("{proces: gamma}", code=2, says=("unknown field 'proces'",))
    with_arrivals("[", code=2, says=("not valid YAML",))
    words = ("simulate", small_plan, "--trace", "t.jsonl", "--arrivals", "{cv: 2}")
    heterarch(*words, code=2, says=("a trace has arrivals of its own",))


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_fit(width: int, small_plan: Path, heterarch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = heterarch("simulate", small_plan, "--requests", 20).out
    assert max(map(len, out.splitlines())) <= width
