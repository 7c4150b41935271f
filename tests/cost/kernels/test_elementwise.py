"""Kernels that only move values."""

from __future__ import annotations

import numpy as np
import pytest

from heterarch.cost.fitting.fit import Measurements, fit_law
from heterarch.cost.kernels.base import Law
from heterarch.cost.kernels.elementwise import ELEMENTWISE


def test_values_are_moved_in_the_width_of_activations() -> None:
    work = ELEMENTWISE.work({"values": [3 * 4096, 2**20]}, "bf16")
    assert work.bytes.tolist() == [2 * 3 * 4096, 2.0**21]
    assert work.at[:, 0].tolist() == [pytest.approx(np.log2(3 * 4096)), 20.0]
    assert not work.flops.any()


def test_bandwidth_and_overhead_are_found_again() -> None:
    values = 2.0 ** np.arange(10, 30)
    true = Law(1.0, 0.8, 3e-6, 2.0)
    seconds = true.seconds(ELEMENTWISE.work({"values": values}, "bf16"), 1e15, 2e12)
    found = fit_law(ELEMENTWISE, "bf16", Measurements({"values": values}, seconds, range(20)), 1e15, 2e12)
    assert [found.memory, found.overhead_s] == pytest.approx([0.8, 3e-6], rel=1e-2)
