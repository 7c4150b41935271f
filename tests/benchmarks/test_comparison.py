"""The predictors that every claim of accuracy is compared with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from comparison import NUMBERS, WORDS, boosted_trees, nearest, table

ROW: dict[str, str] = {**dict.fromkeys(WORDS, "a"), **dict.fromkeys(NUMBERS, ""), "batch_size": "", "concurrency": "8"}


def rows() -> list[dict[str, Any]]:
    clients = [str(2**power) for power in range(8)]
    return [{**ROW, "backend": backend, "concurrency": n} for backend in ("vllm", "sglang") for n in clients]


def test_nearest_prefers_the_same_words_then_close_numbers() -> None:
    columns = table([*rows(), {**ROW, "backend": "vllm", "concurrency": "40"}])
    target = np.arange(len(columns), dtype=np.float64)
    assert nearest(columns, target, np.arange(16), np.array([16])) == 5  # vllm with 32 clients


def test_the_batch_stands_in_for_unknown_clients() -> None:
    columns = table([{**ROW, "concurrency": "", "batch_size": "16"}, {**ROW, "concurrency": "16"}])
    assert np.array_equal(columns[0], columns[1])


def test_trees_learn_a_step() -> None:
    pytest.importorskip("sklearn")
    columns = table(rows() * 10)
    target = columns[:, WORDS.index("backend")] * 3.0
    guess = boosted_trees(columns, target, np.arange(100), np.arange(100, 160))
    assert np.abs(guess - target[100:]).max() < 0.1
