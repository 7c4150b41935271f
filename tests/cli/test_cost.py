"""``heterarch cost explain``: the table, its JSON, and messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.document import Calibration, ErrorPart, Fit

from .conftest import Command

MODEL = "Meta-Llama-3.1-8B"


def test_a_table_with_its_total_and_its_sources(heterarch: Command) -> None:
    shown = heterarch("cost", "explain", MODEL, "--device", "h100-sxm", "--batch", 8)
    for text in (
        "per iteration",
        "KV of",
        "[1]",
        "qkv projection",
        "output head",
        "bandwidth",
        "h100-sxm TP1 bf16",
        "8 x 1,024 tokens",
    ):
        assert text in shown.out
    assert max(map(len, shown.out.splitlines())) <= 120


def test_json_says_the_same(heterarch: Command) -> None:
    data = heterarch("cost", "explain", MODEL, "--prefill", 2048, "--batch", 0, "--json").data
    assert set(data) == {
        "engine", "model", "seconds", "low_s", "high_s", "closed_form_s", "grade", "families", "rows",
    }  # fmt: skip
    assert set(data["rows"][0]) == {
        "part", "family", "dtype", "count", "seconds", "low_s", "high_s", "bound", "grade", "basis",
    }  # fmt: skip
    assert sum(row["seconds"] for row in data["rows"]) == pytest.approx(data["seconds"])
    assert data["families"]["gemm"] == pytest.approx(
        sum(row["seconds"] for row in data["rows"] if row["family"] == "gemm")
    )
    assert data["low_s"] < data["seconds"] < data["high_s"]
    assert (data["engine"], data["model"], data["grade"]) == ("h100-sxm TP1 bf16", MODEL, "fitted")


def test_a_model_is_explained_in_the_format_it_is_published_in(heterarch: Command) -> None:
    words = ("cost", "explain", "DeepSeek-V3", "--device", "h200-sxm", "--tp", 8, "--batch", 64, "--json")
    published, wide = heterarch(*words).data, heterarch(*words, "--dtype", "bf16").data
    assert published["engine"] == "h200-sxm TP8 fp8"
    assert wide["families"]["moe"] > 1.2 * published["families"]["moe"]


def test_splits_and_eager_passes(heterarch: Command) -> None:
    groups = ("--attention-dp", 8, "--ep", 8, "--batch", 64)
    data = heterarch("cost", "explain", "DeepSeek-V3", "--device", "h200-sxm", *groups, "--json").data
    assert data["engine"] == "h200-sxm TP1 DP8 EP8 fp8"
    assert "expert all-to-all" in {row["part"] for row in data["rows"]}
    graph, eager = (
        heterarch("cost", "explain", MODEL, "--tp", 8, flag, "--json").data for flag in ("--graphs", "--eager")
    )
    assert eager["seconds"] > 1.5 * graph["seconds"]
    assert eager["closed_form_s"] == pytest.approx(eager["seconds"], rel=0.1)


def test_your_own_calibration_is_used_first(heterarch: Command, tmp_path: Path) -> None:
    exact = ErrorPart(rows=1, median=0.0, mean=0.0)
    fit = Fit(
        family="gemm", device="h100-sxm", dtype="bf16", engine="vllm", compute=0.1, memory=0.1, overhead_s=0.0,
        sharpness=8.0, rows=1, fitted=exact, held_out=exact, sigma=0.1,
    )  # fmt: skip
    Calibration(name="mine", date="2026-01-01", fits=[fit]).save(tmp_path / "mine.json")
    shipped = heterarch("cost", "explain", MODEL, "--json").data
    data = heterarch("cost", "explain", MODEL, "--calibration", tmp_path / "mine.json", "--json").data
    assert {"(mine)" in row["basis"] for row in data["rows"] if row["family"] == "gemm"} == {True}
    assert data["families"]["gemm"] > 4 * shipped["families"]["gemm"]


def test_an_overlay_adds_a_device(heterarch: Command, tmp_path: Path) -> None:
    before = Catalog.load().device("h100-sxm")
    overlay = tmp_path / "fast.csv"
    overlay.write_text(
        "id,vendor,name,class,year,arch,bf16_tflops,mem_gb,mem_bw_gbs,src_compute,src_memory\n"
        f"fast,nvidia,Fast,gpu-dc,2026,{before.arch},989,80,6700,declared: mine,declared: mine\n"
    )
    seconds = [
        heterarch("cost", "explain", MODEL, "--device", name, "--overlay", overlay, "--json").data["seconds"]
        for name in ("h100-sxm", "fast")
    ]
    assert seconds[1] < 0.7 * seconds[0]


def test_messages(heterarch: Command) -> None:
    heterarch("cost", "explain", MODEL, "--tp", 3, code=2, says=("does not divide",))
    heterarch("cost", "explain", MODEL, "--device", "h101", code=2, says=("h101", "h100"))
    heterarch("cost", "explain", "Llama-9", code=2, says=("Llama-9",))
    heterarch("cost", "explain", MODEL, "--device", "ascend-910b", code=2, says=("no peak is known",))
    heterarch("cost", "explain", MODEL, "--dtype", "fp5", code=2, says=("unknown dtype 'fp5'", "one of"))


def test_a_format_that_the_device_lacks_is_said_once(heterarch: Command) -> None:
    words = ("cost", "explain", MODEL, "--device", "a100-80-sxm")
    said = "a100-80-sxm has no fp8 arithmetic: weights in fp8 are multiplied in bf16."
    assert heterarch(*words, "--dtype", "fp8").err.count("has no fp8 arithmetic") == 1
    heterarch(*words, "--dtype", "fp8", says=(said,))
    heterarch(*words, "--kv-dtype", "fp8", says=("KV in fp8 is multiplied in bf16",))
    assert "arithmetic" not in heterarch(*words, "--dtype", "fp16").err
    assert "arithmetic" not in heterarch("cost", "explain", MODEL, "--dtype", "fp8").err
