"""Rows of benchmark tables, read as engines."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.measured.served import HELD, Split, predict, read_served, served
from heterarch.cost.step import StepCost
from heterarch.errors import InputError

ROW = {
    "backend": "trtllm", "model": "deepseek-ai/DeepSeek-R1", "hardware": "b200_sxm", "precision": "fp4", "mode": "agg",
    "isl": "1024", "osl": "1024", "batch_size": "64", "tp_size": "8", "attention_dp_size": "1", "moe_tp_size": "8",
    "moe_ep_size": "1", "concurrency": "64", "ttft_ms": "500", "tpot_ms": "20", "measured_date": "2025-01-31",
    **dict.fromkeys(
        [f"{role}_{name}" for role in ("prefill", "decode")
         for name in ("num_workers", "tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")], ""),
}  # fmt: skip


def sizes(role: str, tp: int, dp: int, moe_tp: int, ep: int, workers: str = "") -> dict[str, str]:
    names = ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    prefix = f"{role}_" if role else ""
    found = {prefix + name: str(size) for name, size in zip(names, (tp, dp, moe_tp, ep), strict=True)}
    return found | ({f"{prefix}num_workers": workers} if role else {})


def test_a_plain_row(catalog: Catalog) -> None:
    point = served(ROW, catalog)
    assert (point.model.id, point.device.id, point.dtype) == ("DeepSeek-R1", "b200", "fp4")
    assert (point.decode, point.prefill) == (Split(8), None)
    assert (point.concurrency, point.day, point.ttft_s, point.tpot_s) == (64, 30, 0.5, 0.02)
    assert (point.release, served({**ROW, "backend_version": "1.2.0"}, catalog).release) == ("", "1.2.0")
    config = point.config(point.decode)
    assert (config.tp, config.attention_dp, config.ep, config.kv_dtype, config.engine) == (8, 1, 1, "fp8", "trtllm")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ((64, 1, 8, 8), Split(8, 1, 8)),  # TP multiplied by EP
        ((16, 1, 4, 4), Split(4, 1, 4)),
        ((1, 64, 8, 8), Split(8, 8, 8)),  # the same, with data-parallel attention
        ((1, 8, 1, 8), Split(8, 8, 8)),
        ((8, 1, 1, 8), Split(8, 1, 8)),
        ((4, 4, 1, 16), Split(4, 4, 4)),
    ],
)
def test_sizes_mean_devices(catalog: Catalog, written: tuple[int, int, int, int], meant: Split) -> None:
    assert served({**ROW, **sizes("", *written)}, catalog).decode == meant


def test_groups_follow_from_the_batch_where_they_are_not_given(catalog: Catalog) -> None:
    row = {**ROW, "attention_dp_size": "", "moe_tp_size": "1", "moe_ep_size": "8", "batch_size": "8"}
    assert served(row, catalog).decode == Split(8, 8, 8)


def test_pools_of_engines(catalog: Catalog) -> None:
    row = {**ROW, "mode": "disagg", **sizes("prefill", 1, 4, 1, 4, "2"), **sizes("decode", 8, 1, 1, 8, "5")}
    point = served(row, catalog)
    assert point.prefill == Split(4, 4, 4, 2)
    assert point.decode == Split(8, 1, 8, 5)


def test_pools_whose_workers_are_not_counted_state_the_devices_of_an_engine(catalog: Catalog) -> None:
    row = {**ROW, "mode": "disagg", **sizes("prefill", 4, 1, 1, 4), **sizes("decode", 16, 1, 4, 4)}
    point = served({**row, "hardware": "gb200", "concurrency": "512"}, catalog)
    assert point.prefill == Split(4, 1, 4, 0)
    assert point.decode == Split(16, 16, 16)  # across servers of a rack attention is data parallel
    assert served({**row, "hardware": "h100_sxm"}, catalog).decode == Split(16, 1, 4)


def test_a_rack_of_which_only_the_size_is_known(catalog: Catalog) -> None:
    row = {**ROW, "hardware": "gb200", **sizes("", 36, 1, 36, 1), "concurrency": "1075"}
    point = served(row, catalog)
    assert point.prefill == Split(4, 4, 4, 0)
    assert point.decode == Split(32, 32, 32)


def test_what_the_catalogue_does_not_know_is_listed(catalog: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "e2e_x.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROW))
        writer.writeheader()
        writer.writerows([ROW, {**ROW, "model": "acme/Unheard-Of-9B"}])
    points, unread = read_served(path, catalog)
    assert len(points) == 1
    assert [item.line for item in unread] == [3]
    assert "Unheard-Of-9B" in unread[0].reason


def test_a_missing_column_is_an_error(catalog: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "e2e_x.csv"
    path.write_text("model,hardware\ndeepseek-ai/DeepSeek-R1,b200_sxm\n")
    with pytest.raises(InputError, match="column 'concurrency' is missing"):
        read_served(path, catalog)


def test_an_engine_too_small_on_paper_is_taken_to_hold_its_clients(catalog: Catalog) -> None:
    point = served({**ROW, "tp_size": "1", "moe_tp_size": "1", "batch_size": "16", "concurrency": "16"}, catalog)
    assert point.decode == Split(1)
    assert predict(point, lambda _: StepCost(fixed_s=1e-3)).running == 16


def test_groups_of_data_parallel_attention_hold_prompts_back_in_tensorrt_llm(catalog: Catalog) -> None:
    row = {**ROW, **sizes("", 1, 8, 1, 8)}
    waits = [
        predict(served({**row, "backend": name}, catalog), lambda _: StepCost(fixed_s=1e-3))
        for name in ("trtllm", "sglang")
    ]
    assert waits[0].ttft_s - waits[1].ttft_s == pytest.approx(HELD * waits[0].tpot_s)


def test_prediction_uses_the_engines_of_the_point(catalog: Catalog) -> None:
    point = served({**ROW, "concurrency": "1"}, catalog)
    latency = predict(point, lambda config: StepCost(fixed_s=1e-3 * config.tp))
    assert latency.tpot_s == pytest.approx(8e-3)
