"""Fits of kernel families: what was true is found again, errors are those of held-out shapes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from heterarch.cost.document import Fit
from heterarch.cost.fitting.fit import (
    BOUNDS,
    LAUNCHED_S,
    Measurements,
    Table,
    fit_family,
    fit_law,
    shared_basis,
)
from heterarch.cost.kernels.base import Family, Floats, Law
from heterarch.cost.kernels.gemm import AXES, GEMM
from heterarch.cost.residual import Basis, residual

TRUE = Law(0.8, 0.7, 4e-6, 2.0)
PEAK, BANDWIDTH = 1e15, 3e12


def shapes() -> dict[str, Floats]:
    sizes = np.meshgrid(2.0 ** np.arange(0, 14, 2), 2.0 ** np.arange(8, 15), 2.0 ** np.arange(8, 15))
    return dict(zip("mnk", (size.ravel() for size in sizes), strict=True))


def measured(bump: float = 0.0, noise: float = 0.0) -> Measurements:
    """Kernels of the true law; those of middle m are slower by ``bump`` in log time."""
    sizes = shapes()
    log_s = np.log(TRUE.seconds(GEMM.work(sizes, "bf16"), PEAK, BANDWIDTH))
    log_s += bump * np.exp(-0.5 * ((np.log2(sizes["m"]) - 6) / 2) ** 2)
    log_s += np.random.default_rng(2).normal(0, noise, len(log_s))
    return Measurements(sizes, np.exp(log_s), list(zip(sizes["n"], sizes["k"], strict=True)))


def fitted(data: Measurements, basis: Basis) -> Fit:
    return fit_family(
        GEMM, "bf16", data, device="d", engine="e", engine_version="1", peak=PEAK, bandwidth=BANDWIDTH, basis=basis
    )


def test_a_law_is_found_again() -> None:
    law = fit_law(GEMM, "bf16", measured(), PEAK, BANDWIDTH)
    assert list(law) == pytest.approx(list(TRUE), rel=0.02)


def test_launches_are_told_from_kernels() -> None:
    """Kernels of the true law behind launches of 100 us: the law is found again, as far as kernels outlast launches."""
    data = measured()
    eager = Measurements(data.shapes, np.maximum(data.seconds, 1e-4), data.groups)
    law = fit_law(GEMM, "bf16", eager, PEAK, BANDWIDTH)
    assert law.host_s == pytest.approx(1e-4, rel=0.01)
    assert (law.compute, law.memory) == pytest.approx((TRUE.compute, TRUE.memory), rel=0.05)
    assert law.overhead_s < LAUNCHED_S
    captured = law.captured.seconds(GEMM.work(data.shapes, "bf16"), PEAK, BANDWIDTH)
    assert np.abs(captured / data.seconds - 1).max() < 0.4


def test_what_launches_hide_stays_a_guess() -> None:
    """Where no kernel outlasts its launch, the shares are those of a usual device."""
    sizes = {"m": np.arange(1.0, 65.0), "n": 4096.0, "k": 4096.0}
    hidden = Measurements(sizes, np.full(64, 1e-3), ["n, k"] * 64)
    law = fit_law(GEMM, "bf16", hidden, PEAK, BANDWIDTH)
    usual = [BOUNDS[name][1] for name in ("compute", "memory", "overhead_s")]
    assert list(law[:3]) == pytest.approx(usual, rel=0.01)


@pytest.mark.parametrize(("family", "launched"), [(GEMM, True), (replace(GEMM, single=False), False)])
def test_only_a_single_kernel_shows_its_launch(family: Family, launched: bool) -> None:
    data = measured()
    slow = Measurements(data.shapes, np.maximum(data.seconds, 5e-5), data.groups)
    assert (fit_law(family, "bf16", slow, PEAK, BANDWIDTH).host_s > 0) is launched


def test_the_residual_takes_what_the_law_cannot() -> None:
    data = measured(bump=0.4, noise=0.02)
    basis = shared_basis(GEMM, [Table("bf16", data, PEAK, BANDWIDTH)])
    fit = fitted(data, basis)
    assert fit.held_out.mean < 0.03 < fit.law_sigma
    assert fit.sigma == pytest.approx(0.02, rel=0.5)
    assert fit.fitted.mean <= fit.held_out.mean * 1.1


def test_noise_is_not_learned() -> None:
    data = measured(noise=0.1)
    fit = fitted(data, shared_basis(GEMM, [Table("bf16", data, PEAK, BANDWIDTH)]))
    assert fit.held_out.mean < 0.1  # mean of |error| of the noise itself is 0.08
    assert fit.sigma == pytest.approx(0.1, rel=0.2)


def test_a_fit_knows_what_was_measured() -> None:
    fit = fitted(measured(), Basis(np.zeros((1, len(AXES))), np.array(GEMM.scales)))
    assert [fit.domain[axis] for axis in ("log2 m", "log2 k")] == [(0, 12), (8, 14)]
    assert fit.rows == 7**3


def test_far_from_what_was_measured_the_law_stands_alone() -> None:
    data = measured(bump=0.4)
    basis = shared_basis(GEMM, [Table("bf16", data, PEAK, BANDWIDTH)])
    fit = fitted(data, basis)
    far = GEMM.work({"m": 2.0**28, "n": 2.0**28, "k": 2.0**28}, "bf16")
    bounded = basis.within(*zip(*fit.domain.values(), strict=True))
    assert np.abs(residual(bounded.values(far.at), np.array(fit.weights))) < 1e-3


def test_one_basis_serves_several_tables() -> None:
    tables = [Table("bf16", measured(bump), PEAK, BANDWIDTH) for bump in (0.4, -0.3)]
    basis = shared_basis(GEMM, tables)
    assert len(basis.centres) <= GEMM.centres
    assert all(fitted(table.data, basis).held_out.mean < 0.02 for table in tables)


def test_the_basis_does_not_depend_on_chance() -> None:
    table = Table("bf16", measured(0.4), PEAK, BANDWIDTH)
    first, second = shared_basis(GEMM, [table]), shared_basis(GEMM, [table])
    assert np.array_equal(first.centres, second.centres)
    assert np.array_equal(first.scales, second.scales)
