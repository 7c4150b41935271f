"""What preemption costs, against a simulation and real availability."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterarch.cost.money.spot import Preemption, preemptions_per_h
from heterarch.errors import InputError


def test_useful_share_is_what_a_simulation_of_up_runs_finds() -> None:
    terms = Preemption(per_h=1.4, restart_s=300, lost_s=60)
    ups = np.random.default_rng(0).exponential(1 / terms.per_h, 400_000)
    useful = np.maximum(ups - 360 / 3600, 0).sum() / ups.sum()
    assert terms.useful_share == pytest.approx(useful, rel=5e-3)


@settings(deadline=None)
@given(rate=st.floats(0, 0.5), restart=st.floats(0, 600), lost=st.floats(0, 100))
def test_first_order_is_rate_times_wasted_time(rate: float, restart: float, lost: float) -> None:
    share, wasted = Preemption(rate, restart, lost).useful_share, rate * (restart + lost) / 3600
    assert 1 - wasted <= share + 1e-12 <= 1 - wasted + wasted**2 / 2 + 1e-9


def test_rate_of_a_trace_by_hand() -> None:
    assert preemptions_per_h([1, 1, 0, 1, 1, 0], 1800) == pytest.approx(2 / (4 * 0.5))
    assert preemptions_per_h([4, 2, 3, 3], 3600) == pytest.approx(2 / 9)
    with pytest.raises(InputError, match="no available device"):
        preemptions_per_h([0, 0, 0], 60)
    with pytest.raises(InputError, match="not negative"):
        Preemption(per_h=-1)


def test_the_default_rate_is_the_median_of_the_real_zones(shared_data: Path) -> None:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(shared_data / "traces" / "spot" / "availability.parquet").to_pydict()
    zones: dict[str, list[int]] = {}
    for nodes, zone, tick_s, available in zip(
        table["nodes"], table["zone"], table["gap_s"], table["available"], strict=True
    ):
        if nodes == 1:
            assert tick_s == 195
            zones.setdefault(zone, []).append(available)
    rates = [preemptions_per_h(available, 195) for available in zones.values()]
    assert len(rates) == 9
    assert (round(min(rates), 2), round(max(rates), 2)) == (0.1, 1.39)
    assert Preemption().per_h == pytest.approx(median(rates), abs=0.005)
