"""``heterarch calibrate``: files of kernels and of engines, probes of endpoints, and what it says when they are bad."""

from __future__ import annotations

import csv
import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.config import EngineConfig
from heterarch.cost.document import load_calibration
from heterarch.cost.engine import step_cost
from heterarch.cost.step import step_time_s

from .conftest import Command
from .fake_endpoint import Handler, endpoint
from .test_interrupt import started

LLAMA = ("--device", "h100-sxm", "--model", "Meta-Llama-3.1-8B")


def gemms(path: Path, unit: float = 1e3, device: str = "gaudi3") -> Path:
    """GEMMs at 60 % of 1,835 TFLOP/s and 70 % of 3.7 TB/s, 10 us each on top."""
    sizes = list(itertools.product((1, 64, 4096), (512, 4096, 16384), (512, 2048, 8192)))
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["hardware", "framework", "version", "dtype", "m", "n", "k", "latency_ms"])
        for m, n, k in sizes:
            seconds = max(2 * m * n * k / 1.1e15, 2 * (m * k + k * n + m * n) / 2.6e12) + 1e-5
            writer.writerow([device, "vllm", "1", "bf16", m, n, k, seconds * unit])
    return path


def test_kernels_become_a_calibration(heterarch: Command, here: Path) -> None:
    gemms(here / "gemm.csv")
    printed = heterarch("calibrate", "gemm.csv", "--name", "lab", says=("wrote calibration.json",))
    for text in ("gaudi3", "27", "used"):
        assert text in printed.out
    made = load_calibration(here / "calibration.json")
    assert (made.name, len(made.fits), made.files[0].file) == ("lab", 1, "gemm.csv")


def test_json(heterarch: Command, here: Path) -> None:
    gemms(here / "gemm.csv")
    data = heterarch("calibrate", "gemm.csv", "-o", "mine.json", "--json").data
    assert data["out"] == "mine.json"
    (fit,) = data["fits"]
    assert (fit["family"], fit["device"], fit["rows"], fit["used"], fit["why"]) == ("gemm", "gaudi3", 27, True, "")
    assert 0 < fit["held_out"] < 0.3
    assert (here / "mine.json").exists()


def test_a_folder(heterarch: Command, here: Path) -> None:
    (here / "data").mkdir()
    gemms(here / "data" / "a.csv")
    assert heterarch("calibrate", "data", "--json").data["fits"][0]["used"]


def test_every_fit_refused(heterarch: Command, here: Path) -> None:
    gemms(here / "gemm.csv")
    lines = (here / "gemm.csv").read_text().splitlines()
    (here / "gemm.csv").write_text("\n".join(lines[:6]) + "\n")
    says = ("5 usable rows are too few for a fit (at least 12): the prior stays", "so nothing is written")
    heterarch("calibrate", "gemm.csv", code=1, says=says)
    assert not (here / "calibration.json").exists()


def test_bad_files(heterarch: Command, here: Path) -> None:
    heterarch("calibrate", code=2, says=("nothing to calibrate from", "measurement files, or --probe URL"))
    heterarch("calibrate", "absent.csv", code=2, says=("absent.csv: cannot read the file",))
    (here / "odd.csv").write_text("day,what\n1,rain\n")
    heterarch("calibrate", "odd.csv", code=2, says=("odd.csv: the columns are those of no kind of measurement",))
    gemms(here / "unit.csv", unit=1.0)
    heterarch("calibrate", "unit.csv", code=2, says=("(seconds in a column of milliseconds)", "below the roofline"))
    gemms(here / "unknown.csv", device="gaudi33")
    heterarch("calibrate", "unknown.csv", code=2, says=("unknown device 'gaudi33'", "gaudi3"))
    gemms(here / "gemm.csv")
    heterarch("calibrate", "gemm.csv", "-o", "no/where.json", code=2, says=("cannot write the file",))
    heterarch("calibrate", "gemm.csv", "--calibration", "odd.csv", code=2, says=("not a calibration document",))


def iterations(path: Path, factor: float) -> Path:
    """The log of an engine that is ``factor`` slower than predicted, and 2 ms more per iteration."""
    catalog = Catalog.load()
    cost = step_cost(EngineConfig(catalog.device("h100-sxm"), catalog.model("Meta-Llama-3.1-8B")))
    draw = np.random.default_rng(7)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["prefill_tokens", "decode_sequences", "context", "latency_ms"])
        for _ in range(120):
            prefill, sequences = round(2 ** draw.uniform(5, 12)) * (draw.random() < 0.3), round(2 ** draw.uniform(0, 8))
            context = sequences * round(2 ** draw.uniform(7, 12))
            pairs = prefill * (prefill + 1) / 2
            seconds = 2e-3 + factor * step_time_s(cost, prefill + sequences, pairs, sequences, context)
            writer.writerow([prefill, sequences, context, float(seconds) * 1e3])
    return path


def test_the_log_of_an_engine(heterarch: Command, here: Path) -> None:
    iterations(here / "log.csv", 1.4)
    heterarch("calibrate", "log.csv", code=2, says=("does not say what ran where", "add --device and --model"))
    data = heterarch("calibrate", "log.csv", *LLAMA, "--engine", "vllm", "--json").data
    (fit,) = data["engines"]
    assert fit["linear"] == pytest.approx(1.4, rel=0.15)
    assert fit["held_out"] < 0.05 < fit["prior"]
    assert (fit["device"], fit["engine"], fit["model"]) == ("h100-sxm", "vllm", "Meta-Llama-3.1-8B")
    (kept,) = load_calibration(here / "calibration.json").engines
    assert kept.linear == fit["linear"]


def test_a_refused_log_ends_as_a_refused_table_does(heterarch: Command, here: Path) -> None:
    lines = iterations(here / "log.csv", 1.4).read_text().splitlines()
    (here / "log.csv").write_text("\n".join(lines[:16]) + "\n")
    says = ("too short to calibrate an engine: the prior stays", "so nothing is written")
    heterarch("calibrate", "log.csv", *LLAMA, code=1, says=says)
    assert not (here / "calibration.json").exists()
    gemms(here / "unit.csv", unit=1.0)
    heterarch("calibrate", "log.csv", "unit.csv", *LLAMA, code=2, says=("seconds in a column of milliseconds",))


def test_a_log_of_something_else(heterarch: Command, here: Path) -> None:
    iterations(here / "log.csv", 20.0)
    heterarch("calibrate", "log.csv", *LLAMA, code=2, says=("more than 5x from the predicted ones",))


def test_a_probe_of_an_endpoint(heterarch: Command, here: Path) -> None:
    with endpoint("well") as url:
        says = ("wrote probe.csv: 16 answers", "the probe is partial: the bound of 18 requests", "token counts:")
        heterarch("calibrate", "--probe", url, "--model", "m", "--max-requests", "18", says=says)
    assert len((here / "probe.csv").read_text().splitlines()) == 17
    said = json.loads((here / "probe.provenance.json").read_text())
    assert (said["model"], said["whole"], said["answers"]) == ("m", False, 16)
    assert not (here / "calibration.json").exists()


def test_probes_that_fail(heterarch: Command, here: Path) -> None:
    with endpoint("refuses") as url:
        heterarch("calibrate", "--probe", url, code=2, says=("add --model NAME",))
        heterarch("calibrate", "--probe", url, "--model", "m", code=4, says=("no such model",))
        money = ("calibrate", "--probe", url, "--model", "m", "--max-usd", "1")
        heterarch(*money, code=2, says=("a bound in USD needs the endpoint's prices",))
    with endpoint("garbage") as url:
        heterarch("calibrate", "--probe", url, "--model", "m", code=4, says=("not JSON",))
    heterarch("calibrate", "--probe", "localhost", "--model", "m", code=2, says=("an endpoint needs a URL",))
    assert list(here.glob("probe*")) == []


def test_ctrl_c_keeps_the_answers(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(self: Handler) -> None:
        time.sleep(0.5)
        self.well()

    monkeypatch.setattr(Handler, "slow", slow, raising=False)
    with endpoint("slow") as url, started("calibrate", "--probe", url, "--model", "m") as command:
        command.until("probing")
        time.sleep(3.0)
        assert command.interrupted() == 130
    assert "answers are kept" in command.shown
    assert json.loads((here / "probe.provenance.json").read_text())["stopped"] == "interrupted"
