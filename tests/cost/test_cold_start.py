"""Seconds until a new engine serves."""

from __future__ import annotations

import pytest

from heterarch.cost.cold_start import DEFAULT_RATES, StartRates, cold_start_s
from heterarch.errors import InputError
from heterarch.units import Grade


def test_image_weights_and_warm_up_follow_each_other():
    rates = StartRates(image_bytes=8e9, network_bytes_per_s=1e9, disk_bytes_per_s=2e9, warm_up_s=30.0)
    assert cold_start_s(140e9, rates) == 8 + 140 + 70 + 30
    assert cold_start_s(0.0, rates) == 38.0


def test_the_defaults_say_that_they_are_guesses():
    assert DEFAULT_RATES.source.grade == Grade.GUESS
    assert cold_start_s(140e9) > cold_start_s(16e9) > DEFAULT_RATES.warm_up_s


@pytest.mark.parametrize("wrong", [{"network_bytes_per_s": 0.0}, {"disk_bytes_per_s": -1.0}, {"warm_up_s": -1.0}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(InputError):
        cold_start_s(1e9, StartRates(**wrong))
