"""Simulated runs against real ones."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from vllm_fidelity import adjusted, missed, read_runs, replay, score, self_calibrated

from heterarch.cost.engine import step_cost


def test_a_score_is_relative() -> None:
    measured = {name: np.linspace(1.0, 2.0, 101) for name in ("ttft_s", "tpot_s", "e2e_s")}
    same = score(measured, measured, slice(None))
    assert set(same["ttft_s"].values()) == {0.0}
    assert not missed(same, "self_calibrated", moe=False)
    slow = score({name: 1.2 * values for name, values in measured.items()}, measured, slice(None))
    assert slow["tpot_s"] == pytest.approx(
        {"mean": 0.2, "p50": 0.2, "p95": 0.2, "p99": 0.2, "median_ape": 0.2, "ks": 1 / 3}, abs=0.01
    )
    assert "ttft_s mean" in missed(slow, "cold", moe=True)
    assert "ttft_s mean" not in missed(slow, "floor", moe=False)


def test_cold_runs_are_within_the_floor(shared_data: Path) -> None:
    runs = [run for run in read_runs(shared_data / "measured") if run.observed is not None]
    assert runs
    for run in runs:
        found = score(replay(run, step_cost(run.config)), run.observed, slice(None))
        assert not missed(found, "floor", moe=False), (run.name, found)


def test_the_constants_of_a_run_are_found_again(shared_data: Path) -> None:
    """A run that the simulator made with other constants, known by its first requests, is predicted to its end."""
    run = next(run for run in read_runs(shared_data / "measured") if run.observed is not None)
    cost = step_cost(run.config)
    made = replay(run, adjusted(cost, np.array([2e-3, 5e-6, 1.1, 0.9, 1.1])))
    found = replay(run, adjusted(cost, self_calibrated(run, cost, made)))
    assert not missed(score(found, made, slice(100, None)), "self_calibrated", moe=False)
