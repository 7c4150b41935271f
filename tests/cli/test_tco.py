"""``heterarch tco``: tables that fit, JSON that says the same, and errors that help."""

from __future__ import annotations

import pytest

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
    assert "is cheapest in" in text.err
    assert [row["engine"] for row in data["engines"]] == ["h100-sxm TP1 bf16", "gaudi3 TP1 bf16"]
    assert len(data["ranking"]) == 4 + 2 + 4  # annuity by both, sunk by power, and four accountings alone
    rental = next(row for row in data["prices"] if row["accounting"] == "rental")
    assert f"{rental['1,000 calls']:.4g}" in text.out
    assert rental["1,000 calls"] == pytest.approx(
        1e-3 * (1000 * rental["input"] + 1000 * rental["cached"] + 200 * rental["output"])
    )
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
    assert 0 < hosted["cached"] <= hosted["input"] < hosted["output"]


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
