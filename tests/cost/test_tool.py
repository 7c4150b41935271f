"""CPU tasks, hosted calls and their money, by hand."""

from __future__ import annotations

import math

import pytest

from heterarch.catalog.hosted import TokenPrice
from heterarch.cost.money.endpoint import call_usd, calls_per_s
from heterarch.cost.tool import (
    AUDIO_CPU,
    AUDIO_SECONDS,
    TOOL_CPU,
    CpuShare,
    task_cost,
    tasks_in_flight,
    vcpus_needed,
)
from heterarch.errors import InputError
from heterarch.units import Grade, Source
from heterarch.workload.distribution import constant, uniform

SOURCE = Source(Grade.MEASURED, "test")


def test_a_task_costs_its_mean_seconds_times_its_cores() -> None:
    cost = task_cost(uniform(1.0, 3.0, SOURCE), usd_per_vcpu_h=0.036)
    assert cost.usd == pytest.approx(2.0 / 3600 * 0.036)
    assert cost.vcpus == TOOL_CPU.vcpus == 1.0
    assert cost.source == SOURCE
    assert task_cost(constant(2.0), 0.036, AUDIO_CPU).usd == pytest.approx(4 * cost.usd)


def test_defaults_say_that_they_are_guesses() -> None:
    assert TOOL_CPU.source.grade is Grade.GUESS
    assert all(d.source.grade is Grade.RECALLED for d in AUDIO_SECONDS.values())
    assert AUDIO_SECONDS["stt"].quantile(0.05) == pytest.approx(0.080)
    assert AUDIO_SECONDS["tts"].quantile(0.95) == pytest.approx(0.250)


def test_cores_for_a_stream_of_tasks() -> None:
    assert tasks_in_flight(5.0, constant(2.0)) == 10.0
    assert vcpus_needed(5.0, constant(2.0)) == math.ceil(10 + 2 * math.sqrt(10))
    assert vcpus_needed(5.0, constant(2.0), CpuShare(0.5, SOURCE), deviations=0) == 5
    assert vcpus_needed(0.0, constant(2.0)) == 1


def test_a_call_bills_cached_tokens_at_their_own_price() -> None:
    price = TokenPrice(
        input_usd_per_mtok=3.0, cached_usd_per_mtok=0.3, output_usd_per_mtok=15.0, date="2026-01-01", source=SOURCE
    )
    assert call_usd(price, 100_000, 96_000, 1_000) == pytest.approx(0.012 + 0.0288 + 0.015)
    assert call_usd(price, 0, 0, 0) == 0
    with pytest.raises(InputError, match="more cached than prompt"):
        call_usd(price, 10, 11, 0)


def test_rate_limits_bound_the_calls() -> None:
    assert calls_per_s(600, None, 1000, 100) == 10
    assert calls_per_s(600, 66_000, 1000, 100) == 1.0
    assert calls_per_s(None, None, 1000, 100) == math.inf
