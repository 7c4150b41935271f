"""Coordinates of serving points: releases in their order, and what is not known."""

from __future__ import annotations

import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.fitting.coordinates import LENGTHS, coordinates, measured_releases
from heterarch.cost.measured.served import ServingPoint, Split

AXES = list(LENGTHS)
RELEASES = ("1.2.0rc6.post3", "nightly-dev-20260216", "1.2.0rc6.post2", "0.9", "1.10.0", "")


@pytest.fixture
def points(catalog: Catalog) -> list[ServingPoint]:
    model, device = catalog.model("Qwen3-32B"), catalog.device("h100-sxm")
    return [
        ServingPoint(model, device, "bf16", "trtllm", Split(8), None, 16.0, 1024.0, 1024.0, release=release)
        for release in RELEASES
    ]


def test_releases_are_ordered_by_their_numbers(points: list[ServingPoint]) -> None:
    order = ["0.9", "1.2.0rc6.post2", "1.2.0rc6.post3", "1.10.0", "nightly-dev-20260216"]
    assert measured_releases(points) == {"trtllm": order}
    at = coordinates(points, {"trtllm": order})
    assert at[:, AXES.index("release")].tolist() == [3, 5, 2, 1, 4, 0]
    assert at[:, AXES.index("release known")].tolist() == [1, 1, 1, 1, 1, 0]


def test_a_release_that_was_not_measured_lies_between_its_neighbours(points: list[ServingPoint]) -> None:
    at = coordinates(points, {"trtllm": ["0.9", "1.2.0rc6.post3"], "vllm": ["1.0"]})
    assert at[:, AXES.index("release")].tolist() == [2, 2.5, 1.5, 1, 2.5, 0]


def test_pools_of_unknown_size_are_marked(points: list[ServingPoint]) -> None:
    found = [
        coordinates([ServingPoint(**{**vars(points[0]), "prefill": prefill})], {})[0, AXES.index("pools unknown")]
        for prefill in (None, Split(8, engines=2), Split(8, engines=0))
    ]
    assert found == [0, 0, 1]
