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
        {"rate_per_s": 1, "process": "bursts"},
    ):
        with pytest.raises(ValidationError):
            Arrivals.model_validate(bad)
