"""The law of a kernel family."""

from __future__ import annotations

import numpy as np
import pytest

from heterarch.cost.kernels.base import Family, Law, Work, columns, log2


def work(flops: float, moved: float) -> Work:
    return Work(np.array([flops]), np.array([moved]), np.zeros((1, 1)))


def test_compute_and_memory_add_up_or_overlap() -> None:
    both = work(1e12, 1e9)  # 2 ms at half of 1 PFLOP/s, 1 ms at all of 1 TB/s
    assert Law(0.5, 1.0, 0.0, 1.0).seconds(both, 1e15, 1e12) == pytest.approx(3e-3)
    assert Law(0.5, 1.0, 0.0, 50.0).seconds(both, 1e15, 1e12) == pytest.approx(2e-3)
    assert Law(0.5, 1.0, 0.0, 2.0).seconds(both, 1e15, 1e12) == pytest.approx(np.sqrt(5) * 1e-3)


def test_overhead_comes_on_top() -> None:
    assert Law(1.0, 1.0, 5e-6, 2.0).seconds(work(0.0, 0.0), 1e15, 1e12) == pytest.approx(5e-6)


def test_a_kernel_waits_for_its_launch_or_hides_it() -> None:
    law = Law(1.0, 1.0, 0.0, 2.0, host_s=1e-3)
    assert law.seconds(work(0.0, 1e8), 1e15, 1e12) == pytest.approx(1e-3)
    assert law.seconds(work(0.0, 5e9), 1e15, 1e12) == pytest.approx(5e-3)
    assert law.captured.seconds(work(0.0, 1e8), 1e15, 1e12) == pytest.approx(1e-4)


def test_kernels_without_arithmetic_need_no_peak() -> None:
    assert Law(0.5, 0.5, 0.0, 2.0).seconds(work(0.0, 1e9), 0.0, 1e12) == pytest.approx(2e-3)


def test_parts_are_before_overlap() -> None:
    compute, memory = Law(0.5, 0.25, 1e-6, 2.0).parts(work(1e12, 1e9), 1e15, 1e12)
    assert [compute[0], memory[0]] == pytest.approx([2e-3, 4e-3])


def test_scalars_are_repeated_along_columns() -> None:
    m, n = columns({"m": [1, 2, 3], "n": 8}, ("m", "n"))
    assert m.tolist() == [1, 2, 3]
    assert n.tolist() == [8, 8, 8]


def test_an_empty_size_is_far_away() -> None:
    assert log2([0.0, 8.0]).tolist() == [-10.0, 3.0]


def test_lengths_have_the_axes_of_the_family() -> None:
    with pytest.raises(AssertionError, match="wrong"):
        Family("wrong", ("m",), ("log2 m",), (1.0,), 4, lambda shapes, dtype: work(1, 1), ((1.0, 2.0),))
