"""Quantile functions: what is planned with is what is sampled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterarch.errors import InputError
from heterarch.units import Grade, Source
from heterarch.workload.distribution import Distribution, constant, fit, lognormal, quantiles, uniform

HERE = Source(Grade.FITTED, "a test")
SAMPLES = st.lists(st.floats(0, 1e6), min_size=1, max_size=300)


@st.composite
def distributions(draw: st.DrawFn) -> Distribution:
    p = sorted(draw(st.sets(st.integers(0, 1000), min_size=1, max_size=8)))
    v = sorted(draw(st.lists(st.floats(0, 1e4), min_size=len(p), max_size=len(p))))
    return Distribution(tuple(x / 1000 for x in p), tuple(v))


def test_worked_example() -> None:
    d = quantiles(p50=10, p100=30)
    assert d.mean == 0.5 * 10 + 0.5 * 20
    assert d.quantile(0.25) == 10
    assert d.quantile(0.75) == 20
    assert d.cdf(20) == 0.75
    assert constant(3).mean == 3
    assert uniform(2, 4).mean == 3
    assert d.scaled(2).mean == 30


@given(distributions())
def test_the_mean_is_the_integral_of_the_quantiles(d: Distribution) -> None:
    grid = (np.arange(20_000) + 0.5) / 20_000
    assert d.mean == pytest.approx(np.interp(grid, d.probabilities, d.values).mean(), rel=1e-2, abs=1e-2)


@given(distributions(), st.integers(0, 99))
def test_samples_lie_between_the_ends(d: Distribution, seed: int) -> None:
    drawn = d.sample(np.random.default_rng(seed), 50)
    assert (drawn >= d.values[0]).all()
    assert (drawn <= d.values[-1]).all()


def test_samples_have_the_mean() -> None:
    d = lognormal(p50=100, p95=1000)
    assert d.sample(np.random.default_rng(0), 200_000).mean() == pytest.approx(d.mean, rel=0.02)
    assert d.quantile(0.5) == pytest.approx(100)
    assert d.quantile(0.95) == pytest.approx(1000)


@given(SAMPLES)
def test_a_fit_never_exceeds_the_sample(sample: list[float]) -> None:
    d = fit(sample, HERE)
    assert d.values[0] == pytest.approx(min(sample))
    assert d.values[-1] <= max(sample) * (1 + 1e-9)
    assert d.source == HERE


def test_a_fit_keeps_quantiles_and_the_mean_of_a_long_tail() -> None:
    sample = np.random.default_rng(0).lognormal(5, 1.6, 20_000)
    d = fit(sample, HERE)
    assert d.mean == pytest.approx(sample.mean(), rel=1e-9)
    for p in (0.05, 0.25, 0.5, 0.9, 0.95):
        assert d.quantile(p) == pytest.approx(np.quantile(sample, p))
    assert d.quantile(0.99) == pytest.approx(np.quantile(sample, 0.99), rel=0.15)


def test_a_small_sample_claims_no_fine_quantiles() -> None:
    assert fit([1, 2, 3, 4], HERE).probabilities == (0, 0.25, 0.5, 0.6, 0.7, 1)
    assert fit([5], HERE).mean == 5


@pytest.mark.parametrize(
    ("p", "v"),
    [((), ()), ((0.5,), (1, 2)), ((0.5, 0.5), (1, 2)), ((0.5, 1.5), (1, 2)), ((0.1, 0.5), (2, 1)), ((0.5,), (-1,)),
     ((0.5,), (float("nan"),)), ((0.5,), (float("inf"),))],
)  # fmt: skip
def test_what_is_no_distribution(p: tuple[float, ...], v: tuple[float, ...]) -> None:
    with pytest.raises(InputError):
        Distribution(p, v)


@pytest.mark.parametrize("sample", [[], [float("nan")], [-1.0]])
def test_what_cannot_be_fitted(sample: list[float]) -> None:
    with pytest.raises(InputError, match="finite values"):
        fit(sample, HERE)


def test_a_quantile_is_named_by_its_percentage() -> None:
    assert quantiles(p99_9=5).probabilities == (0.999,)
    with pytest.raises(InputError, match="named by its percentage"):
        quantiles(q50=5)


def test_a_wrong_call_is_told_with_its_line_and_values() -> None:
    for call, observed in (
        (lambda: quantiles(p50=2, p95=1), "p50=2, p95=1"),
        (lambda: constant(-5), "-5"),
        (lambda: lognormal(p50=2, p95=1), "lognormal(p50=2, p95=1)"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert caught.value.observed == observed
        assert "test_distribution.py" in str(caught.value.where)
