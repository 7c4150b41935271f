"""Step costs from the Splitwise profile, the case S40, and the designs of the study."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from splitwise import curve, medians, profile, s40, steps
from splitwise_study import COST, POWER, Costs, Fleet, designs, highest, holds, load, measured, slowdowns

from heterarch.cost.step import step_time_s


def test_a_curve_goes_through_its_points_and_on_beyond_them() -> None:
    cost = curve([128, 256, 1024], [0.05, 0.04, 0.10]).cost()
    found = [step_time_s(cost, tokens, 0, 0, 0) for tokens in (64, 128, 192, 256, 640, 1024, 1792)]
    assert found == pytest.approx([0.055, 0.05, 0.045, 0.04, 0.07, 0.10, 0.16])


def test_medians_are_by_distinct_points() -> None:
    assert medians([(2, 5.0), (1, 1.0), (2, 7.0), (2, 6.0)]) == ([1, 2], [1.0, 6.0])


def test_old_servers_win_decodes_per_cost_and_power(shared_data: Path) -> None:
    """Ratios of the profile: A100 over H100 decode throughput at batch 64, H100 over A100 prompts of 512 x 16."""
    rows = {kind: profile(shared_data, "llama2-70b", f"{kind}-80gb") for kind in ("a100", "h100")}
    batch = {kind: {(row.prompt, row.sequences): row for row in found} for kind, found in rows.items()}
    decode = batch["h100"][512, 64].token_s / batch["a100"][512, 64].token_s
    assert decode * COST["h100"] / COST["a100"] == pytest.approx(1.51, abs=0.01)
    assert decode * POWER["h100"] / POWER["a100"] == pytest.approx(1.24, abs=0.01)
    prompts = batch["a100"][512, 16].prompt_s / batch["h100"][512, 16].prompt_s
    assert prompts * COST["a100"] / COST["h100"] == pytest.approx(1.19, abs=0.01)
    assert prompts * POWER["a100"] / POWER["h100"] == pytest.approx(1.45, abs=0.01)


def test_step_costs_are_those_of_the_profile(shared_data: Path) -> None:
    rows = profile(shared_data, "llama2-70b", "a100-80gb")
    found = {name: part.cost() for name, part in steps(rows, True).items()}
    assert step_time_s(found["decode_step"], 64, 0, 64, 0) == pytest.approx(0.0716, rel=0.001)
    assert step_time_s(found["prefill_step"], 4096, 0, 0, 0) == pytest.approx((0.66122 + 0.76762) / 2, rel=0.001)
    assert step_time_s(found["step"], 512, 0, 0, 0) == pytest.approx(
        1.1 * step_time_s(found["prefill_step"], 512, 0, 0, 0)
    )


@pytest.mark.parametrize("in_python", [False, True])
def test_s40_is_what_splitwise_sim_finds(in_python: bool, shared_data: Path) -> None:
    found = s40(in_python, 1, shared_data)
    assert found["sha256_as_defined"]
    assert found["gates"] == {"ttft_s": True, "e2e_s": True}
    assert found["restarts"] == 0


def test_designs_keep_the_budget() -> None:
    for each in (POWER, COST):
        for name, fleets in designs(each, 5):
            assert all(fleet.total(each) <= 40 * each["h100"] for fleet in fleets), name
            assert all(fleet.total(each) > 0.97 * 40 * each["h100"] for fleet in fleets), name


def test_slos_hold_together_or_not_at_all() -> None:
    met = {"ttft": [2.0, 3.0, 6.0], "tbt": [1.25, 1.5, 5.0], "e2e": [1.0, 1.0, 1.0]}
    assert holds(met)
    assert not holds({**met, "tbt": [1.25, 1.51, 5.0]})


def test_the_highest_rate_keeps_the_slos_and_a_little_more_does_not(shared_data: Path) -> None:
    costs: Costs = measured(shared_data, False)
    requests = load(shared_data, 20.0)
    fleet = Fleet(("h100", 3), ("h100", 3))
    best = highest([Fleet(("h100", 6), ("h100", 0)), fleet], costs, requests)
    assert best is not None
    assert holds(slowdowns(best.fleet, costs, requests, best.per_s))
    assert not holds(slowdowns(best.fleet, costs, requests, 1.2 * best.per_s))
    assert best.slowdowns == slowdowns(best.fleet, costs, requests, best.per_s)
