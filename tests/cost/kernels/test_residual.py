"""Radial residuals: functions, how they are chosen, their weights, and that they fade."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterarch.cost.residual import (
    CONSTANT,
    LIMIT,
    Basis,
    candidates,
    choose,
    coverage,
    fit_weights,
    residual,
    spanning,
    spread_centres,
)

GRID = np.stack([axis.ravel() for axis in np.meshgrid(np.arange(0.0, 9.0), np.arange(0.0, 9.0))], axis=1)


def test_functions_are_gaussians_of_their_own_lengths() -> None:
    basis = Basis(np.array([[0.0, 0.0], [3.0, 5.0]]), np.array([[2.0, 1.0], [4.0, CONSTANT]]))
    found = basis.values(np.array([[0.0, 0.0], [2.0, 1.0], [3.0, 99.0]]))
    assert found[0, 0] == pytest.approx(1.0)
    assert found[1, 0] == pytest.approx(np.exp(-1.0))
    assert found[2, 1] == pytest.approx(1.0, abs=0.01)  # constant along the second axis


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    basis = Basis(GRID[::3], np.array([2.0, 3.0]))
    assert np.allclose(basis.values(GRID)[7:9], basis.values(GRID[7:9]), rtol=1e-9, atol=0)


def test_outside_of_what_was_measured_all_functions_fade() -> None:
    basis = Basis(np.array([[4.0, 0.0]]), np.array([4.0, CONSTANT])).within([0.0, 0.0], [8.0, 8.0])
    inside, near, far = basis.values(np.array([[4.0, 8.0], [4.0, 10.0], [4.0, 20.0]]))[:, 0]
    assert inside == pytest.approx(1.0, abs=1e-3)
    assert near == pytest.approx(np.exp(-0.5), abs=1e-3)
    assert far < 1e-6


def test_what_was_never_seen_is_taken_as_what_was() -> None:
    told_apart = Basis(np.array([[4.0, 1.0]]), np.array([2.0, 0.3])).within([0.0, 0.0], [8.0, 0.0])
    seen, unseen = told_apart.values(np.array([[4.0, 0.0], [4.0, 1.0]]))[:, 0]
    assert unseen < seen < 0.01


def test_centres_lie_far_apart_and_on_points() -> None:
    centres = spread_centres(GRID, (1.0, 1.0), 5)
    assert {tuple(c) for c in centres} == {(4, 4), (0, 0), (0, 8), (8, 0), (8, 8)}
    assert len(spread_centres(GRID[:3], (1.0, 1.0), 99)) == 3


def test_candidates_of_every_length() -> None:
    offered = candidates(GRID, [(2.0, 2.0), (1.0, CONSTANT)])
    assert len(offered.centres) == 81 + 9
    assert (offered.centres[81:, 1] == 0).all()
    assert offered.take([85]).scales.tolist() == [[1.0, CONSTANT]]


def test_functions_of_a_flag_lie_where_it_is_set() -> None:
    at = np.array([[size, flag] for size in range(9) for flag in (0.0, 0.2, 1.0)])
    offered = candidates(at, [(2.0, CONSTANT), (2.0, 0.4)], flags=[1])
    assert (offered.centres[9:, 1] == 1).all()
    assert len(candidates(at[at[:, 1] < 1], [(2.0, CONSTANT), (2.0, 0.4)], flags=[1]).centres) == 9


def test_functions_that_make_up_the_targets_are_chosen() -> None:
    offered = candidates(GRID, [(1.0, 1.0)])
    values = offered.values(GRID)
    targets = [values[:, 7] - 0.5 * values[:, 60], 2 * values[:, 60]]
    assert sorted(choose([values, values], targets, 2)) == [7, 60]


def test_choosing_more_than_there_is_takes_all() -> None:
    values = np.eye(4)[:, :3]
    assert sorted(choose([values], [np.ones(4)], 9)) == [0, 1, 2]


def test_points_that_span_all_leave_out_those_that_repeat_them() -> None:
    twice = np.repeat(GRID[:9], 2, axis=0)
    covariance = Basis(twice, np.array([2.0, 2.0])).values(twice)
    chosen = spanning(covariance, 99)
    assert sorted(index // 2 for index in chosen) == list(range(9))
    left = covariance - covariance[:, chosen] @ np.linalg.solve(covariance[np.ix_(chosen, chosen)], covariance[chosen])
    assert np.abs(left).max() < 1e-5
    assert spanning(covariance, 3) == chosen[:3]
    assert spanning(np.zeros((0, 0)), 3) == []


def test_weights_of_a_process_smooth_by_its_covariance() -> None:
    """With all points as centres it is the mean of a Gaussian process: K (K + noise I)^-1 y."""
    basis, noise = Basis(GRID, np.array([3.0, 3.0])), 0.5
    covariance, target = basis.values(GRID), 0.01 * np.sin(GRID[:, 0])
    weights = fit_weights(covariance, target, noise * covariance + 1e-10 * np.eye(len(GRID)))
    expected = covariance @ np.linalg.solve(covariance + noise * np.eye(len(GRID)), target)
    assert covariance @ weights == pytest.approx(expected, abs=2e-3)


def test_outliers_hardly_move_the_weights() -> None:
    draw = np.random.default_rng(1)
    values = Basis(GRID[::9], np.array([3.0, 3.0])).values(np.repeat(GRID, 5, axis=0))
    true = draw.normal(size=values.shape[1]) * 0.2
    target = values @ true + draw.normal(0, 0.01, len(values))
    target[::40] += 3.0
    found = residual(values, fit_weights(values, target, 0.01))
    assert np.abs(found - values @ true).max() < 0.1


@given(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4))
def test_a_residual_is_bounded(weights: list[float]) -> None:
    found = residual(Basis(GRID[:4], np.array([1.0, 1.0])).values(GRID), np.array(weights))
    assert (np.abs(found) <= LIMIT).all()


def test_coverage_is_1_at_a_centre_and_0_far_away() -> None:
    basis = Basis(GRID, np.array([1.0, 1.0]))
    assert coverage(basis.values(np.array([[4.0, 4.0], [50.0, 4.0]]))) == pytest.approx([1.0, 0.0])
    assert coverage(np.zeros((3, 0))).tolist() == [0, 0, 0]
