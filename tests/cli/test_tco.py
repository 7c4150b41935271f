"""``heterarch tco``: tables that fit, JSON that says the same, and errors that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from heterarch.cost.document import Calibration, ErrorPart, Fit

from .conftest import Command

CALL = ("tco", "Meta-Llama-3.1-8B", "--prompt", 2000, "--output", 200, "--cached", 0.5, "--batch", 16)


def test_table_and_json_say_the_same(heterarch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    words = (
        *CALL,
        "--device",
        "h100-sxm",
        "--device",
        "gaudi3",
        "--electricity",
        "0.05,0.30",
        "--utilisation",
        "0.3,0.9",
    )
    data = heterarch(*words, "--resources", "--json").data
    text = heterarch(*words, "--resources")
    assert max(map(len, text.out.splitlines())) <= 110
    assert "no on-demand price for gaudi3" in text.err
    assert "is cheapest in" in text.out
    assert [row["engine"] for row in data["engines"]] == ["h100-sxm TP1 bf16", "gaudi3 TP1 bf16"]
    assert len(data["ranking"]) == 4 + 2 + 4  # annuity by both, sunk by power, and four accountings alone
    rental = next(row for row in data["prices"] if row["accounting"] == "rental")
    assert f"{1000 * rental['usd_per_call']:.4g}" in text.out
    kinds = {"input": 1000, "cached": 1000, "output": 200}
    by_kind = sum(tokens * rental[f"{kind}_usd_per_mtok"] for kind, tokens in kinds.items())
    assert rental["usd_per_call"] == pytest.approx(1e-6 * by_kind)
    assert all(name == name.lower() and " " not in name for row in data["engines"] + data["prices"] for name in row)
    engine = data["engines"][0]
    assert f"{1000 * engine['ttft_s']:.4g}" in text.out
    assert engine["joules_per_call"] == pytest.approx(
        engine["watts"] * (2200 / engine["tokens_per_s"]), rel=1e-6
    )  # watts x seconds of a call
    assert (engine["grade"], engine["power_grade"]) == ("derived", "derived")
    assert {row["device"] for row in data["resources"]} == {"h100-sxm", "gaudi3"}


def test_defaults_rank_the_devices_of_the_mixed_fleet(heterarch: Command) -> None:
    data = heterarch(*CALL, "--accounting", "owner-annuity,sunk", "--json").data
    assert [entry["accounting"] for entry in data["ranking"]] == ["owner-annuity", "sunk"]
    assert len(data["ranking"][0]["usd_per_mtok"]) == 5


def test_a_hosted_api_beside_own_engines(heterarch: Command) -> None:
    data = heterarch(
        *CALL, "--device", "h100-sxm", "--api", "openai:gpt-4o-mini", "--accounting", "rental", "--json"
    ).data
    hosted = data["prices"][-1]
    assert hosted["accounting"] == "hosted API"
    prices = [hosted[f"{kind}_usd_per_mtok"] for kind in ("cached", "input", "output")]
    assert 0 < prices[0] <= prices[1] < prices[2]


def test_experts_and_attention_groups(heterarch: Command) -> None:
    words = ("tco", "DeepSeek-V3", "--device", "h200-sxm", "--accounting", "rental")
    groups = heterarch(*words, "--tp", 1, "--attention-dp", 8, "--ep", 8, "--json").data
    assert [row["engine"] for row in groups["engines"]] == ["h200-sxm TP1 DP8 EP8 fp8"]
    assert groups["engines"][0]["devices"] == 8
    assert groups["prices"][0]["usd_per_engine_h"] == pytest.approx(8 * 3.39)
    narrowest = heterarch(*words, "--ep", 8, "--json").data["engines"]
    assert [row["engine"] for row in narrowest] == ["h200-sxm TP8 EP8 fp8"]
    heterarch(*words, "--tp", 8, "--ep", 3, code=2, says=("ep 3 does not divide",))


def test_your_own_calibration_is_used_first(heterarch: Command, tmp_path: Path) -> None:
    exact = ErrorPart(rows=1, median=0.0, mean=0.0)
    fit = Fit(
        family="gemm", device="h100-sxm", dtype="bf16", engine="vllm", compute=0.1, memory=0.1, overhead_s=0.0,
        sharpness=8.0, rows=1, fitted=exact, held_out=exact, sigma=0.1,
    )  # fmt: skip
    Calibration(name="mine", date="2026-01-01", fits=[fit]).save(tmp_path / "mine.json")
    words = (*CALL, "--device", "h100-sxm", "--accounting", "rental", "--json")
    before, after = heterarch(*words).data, heterarch(*words, "--calibration", tmp_path / "mine.json").data
    assert after["prices"][0]["usd_per_call"] > 3 * before["prices"][0]["usd_per_call"]


def test_a_format_that_a_device_lacks_is_said(heterarch: Command) -> None:
    words = (*CALL, "--device", "a100-80-sxm", "--dtype", "fp8", "--accounting", "rental")
    heterarch(*words, says=("a100-80-sxm has no fp8 arithmetic",))


def test_what_does_not_fit_is_left_out_with_the_reason(heterarch: Command) -> None:
    words = ("tco", "Meta-Llama-3.1-70B", "--tp", 1, "--accounting", "rental")
    assert "do not fit" in heterarch(*words, "--device", "h100-sxm", "--device", "mi300x").err
    heterarch(*words, "--device", "h100-sxm", code=2, says=("no device serves", "do not fit"))


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--accounting", "rent", "rental"),
        ("--electricity", "cheap", "list of numbers"),
        ("--utilisation", "0.5,2", "from 0.01 to 1"),
        ("--api", "gpt-4o", "provider:model"),
        ("--device", "h100zxm", "h100-sxm"),
        ("--site", "mars", "unknown site"),
    ],
)
def test_wrong_options(heterarch: Command, option: str, value: str, says: str) -> None:
    heterarch(*CALL, option, value, code=2, says=(says,))
