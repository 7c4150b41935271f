"""The calibration that comes with the package: its size, its sources, and what it promises."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

from heterarch.catalog.catalog import Catalog
from heterarch.cost.document import shipped
from heterarch.cost.fitting.correction import FUNCTIONS

LAW = 4  # numbers of a law
NUMBERS = 200


def test_at_most_200_numbers_per_family_device_and_format() -> None:
    numbers: Counter[tuple[str, str, str]] = Counter()
    for fit in shipped().fits:
        numbers[fit.family, fit.device, fit.dtype] += LAW + len(fit.weights)
    assert max(numbers.values()) <= NUMBERS, numbers.most_common(3)


def test_the_correction_of_engines_is_small() -> None:
    part = shipped().correction
    assert part is not None
    assert len(part.centres) <= FUNCTIONS
    assert len(part.tpot_weights) == len(part.ttft_weights) == len(part.centres)
    assert part.rows > 2 * len(part.centres)


def test_it_names_the_files_it_was_fitted_from(shared_data: Path) -> None:
    files = shipped().files
    assert files
    for part in files:
        file = shared_data / "measured" / part.file
        assert hashlib.sha256(file.read_bytes()).hexdigest() == part.sha256, part.file


def test_devices_are_of_the_catalogue_and_errors_are_stated(catalog: Catalog) -> None:
    for fit in shipped().fits:
        assert fit.device in catalog.devices
        assert fit.rows >= 12
        assert 0 < fit.held_out.mean < 0.25, f"{fit.family} on {fit.device} in {fit.dtype}"
        assert np.isfinite(fit.weights).all()
