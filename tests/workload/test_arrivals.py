"""Arrival processes have their rate and spread, and follow the seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from heterarch.errors import InputError
from heterarch.workload.arrivals import arrival_times
from heterarch.workload.profile import Arrivals


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("process", "cv"), [("poisson", 1.0), ("gamma", 0.5), ("gamma", 3.0)])
def test_rate_and_spread(process: str, cv: float) -> None:
    arrivals = Arrivals.model_validate({"process": process, "rate_per_s": 5, "cv": cv})
    gaps = np.diff(arrival_times(arrivals, rng(), 50_000))
    assert gaps.mean() == pytest.approx(0.2, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_even_spacing() -> None:
    assert arrival_times(Arrivals(process="deterministic", rate_per_s=4), rng(), 3).tolist() == [0, 0.25, 0.5]


@given(st.sampled_from(["poisson", "gamma", "deterministic"]), st.integers(0, 200), st.integers(0, 99))
def test_ascending_and_by_seed(process: str, n: int, seed: int) -> None:
    arrivals = Arrivals.model_validate({"process": process, "rate_per_s": 2})
    times = arrival_times(arrivals, rng(seed), n)
    assert len(times) == n
    assert (np.diff(times) >= 0).all()
    assert times.tolist() == arrival_times(arrivals, rng(seed), n).tolist()


def test_recorded_pattern_is_stretched_and_repeated(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n10,1,1\n11,1,1\n14,1,1\n")
    arrivals = Arrivals(process="trace", rate_per_s=1, trace=str(path))
    # recorded gaps 1 and 3, mean 2: half of them; a mean gap before the next round
    assert arrival_times(arrivals, rng(), 5).tolist() == [0, 0.5, 2, 3, 3.5]


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="negative number"):
        arrival_times(Arrivals(rate_per_s=1), rng(), -1)
    path = tmp_path / "t.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n10,1,1\n")
    with pytest.raises(InputError, match="no arrival pattern"):
        arrival_times(Arrivals(process="trace", rate_per_s=1, trace=str(path)), rng(), 1)
    for bad in (
        {"rate_per_s": 0},
        {"rate_per_s": float("inf")},
        {"rate_per_s": 1, "process": "trace"},
        {"rate_per_s": 1, "trace": "x.csv"},
        {"rate_per_s": 1, "cv": 2},
        {"rate_per_s": 1, "process": "gamma", "cv": 1e300},
        {"rate_per_s": 1, "process": "gamma", "cv": 1e-300},
        {"rate_per_s": 1, "process": "bursts"},
    ):
        with pytest.raises(ValidationError):
            Arrivals.model_validate(bad)


# ---------------------------------------------------------------- rates that change


def fano(times: np.ndarray, window_s: float) -> float:
    number = np.histogram(times, np.arange(0, times[-1], window_s))[0]
    return float(number.var() / number.mean())


def modulated(*states: tuple[float, float], rate_per_s: float = 5.0) -> Arrivals:
    parts = [{"rate": rate, "mean_s": mean_s} for rate, mean_s in states]
    return Arrivals.model_validate({"process": "modulated", "rate_per_s": rate_per_s, "states": parts})


def day(*profile: float, **changes: float) -> Arrivals:
    values = {"process": "diurnal", "rate_per_s": 5.0, "profile": profile, "period_s": 100.0, **changes}
    return Arrivals.model_validate(values)


@pytest.mark.parametrize("window_s", [1.0, 10.0, 60.0])
def test_counts_spread_as_the_theory_of_two_states_says(window_s: float) -> None:
    """Fano factor of a Poisson process whose rate is r (1 +- a) for exponential times of mean m: Fischer and
    Meier-Hellstern 1993, Performance Evaluation 18, with t = m / 2: 1 + 2 r a^2 t (1 - t/T (1 - exp(-T/t)))."""
    rate, a, mean_s = 5.0, 0.8, 20.0
    times = arrival_times(modulated((1 - a, mean_s), (1 + a, mean_s), rate_per_s=rate), rng(), 400_000)
    t = mean_s / 2
    expected = 1 + 2 * rate * a**2 * t * (1 - t / window_s * (1 - np.exp(-window_s / t)))
    assert fano(times, window_s) == pytest.approx(expected, rel=0.08)
    assert len(times) / times[-1] == pytest.approx(rate, rel=0.05)


def test_the_burstiness_of_azures_conversations() -> None:
    """Measured on 2023's trace: 5.53/s, CV of the gaps 1.09, Fano factor of 10 s 4.0."""
    times = arrival_times(modulated((0.707, 12.8), (1.293, 12.8), rate_per_s=5.53), rng(), 400_000)
    gaps = np.diff(times)
    assert gaps.std() / gaps.mean() == pytest.approx(1.09, abs=0.02)
    assert fano(times, 10.0) == pytest.approx(4.0, rel=0.08)


def test_states_that_last_longer_weigh_more_and_may_be_silent() -> None:
    times = arrival_times(modulated((0, 30), (1, 10), (7, 5), rate_per_s=2.0), rng(), 100_000)
    assert len(times) / times[-1] == pytest.approx(2.0, rel=0.05)
    assert np.diff(times).max() > 30


@pytest.mark.parametrize("before_s", [0.0, 40.0, 130.0])
def test_the_profile_of_a_day(before_s: float) -> None:
    times = arrival_times(day(0, 1, 3, 4, start_s=30.0), rng(), 100_000, before_s)
    assert len(times) / times[-1] == pytest.approx(5.0, rel=0.02)
    share = np.histogram((times + 30.0 - before_s) % 100.0, np.arange(0, 101, 25))[0] / len(times)
    assert share == pytest.approx([0, 1 / 8, 3 / 8, 4 / 8], abs=0.01)


def test_an_even_profile_is_a_poisson_process() -> None:
    gaps = np.diff(arrival_times(day(2, 2), rng(), 50_000))
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.03)


@given(st.booleans(), st.integers(0, 200), st.integers(0, 99))
def test_changing_rates_ascend_and_follow_the_seed(states: bool, n: int, seed: int) -> None:
    arrivals = modulated((0, 3), (1, 2)) if states else day(0, 1, 0)
    times = arrival_times(arrivals, rng(seed), n)
    assert len(times) == n
    assert (np.diff(times) >= 0).all()
    assert times.tolist() == arrival_times(arrivals, rng(seed), n).tolist()


def test_poisson_draws_are_those_of_its_gaps() -> None:
    assert arrival_times(Arrivals(rate_per_s=4), rng(), 9).tolist() == np.cumsum(rng().gamma(1.0, 0.25, 9)).tolist()


@pytest.mark.parametrize(
    "bad",
    [
        {"process": "modulated"},
        {"process": "modulated", "states": [{"rate": 1, "mean_s": 1}]},
        {"process": "modulated", "states": [{"rate": 0, "mean_s": 1}, {"rate": 0, "mean_s": 1}]},
        {"process": "modulated", "states": [{"rate": -1, "mean_s": 1}, {"rate": 2, "mean_s": 1}]},
        {"process": "diurnal"},
        {"process": "diurnal", "profile": [0, 0]},
        {"profile": [1, 2]},
        {"start_s": 5},
        {"states": [{"rate": 1, "mean_s": 1}, {"rate": 2, "mean_s": 1}]},
    ],
)
def test_rates_that_cannot_be(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Arrivals.model_validate({"rate_per_s": 1, **bad})
