"""Predictors without physics that any claim of accuracy must beat on the same rows: nearest row, boosted trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Row = Mapping[str, str]

WORDS = ("model", "hardware", "backend", "precision", "mode")
SIZES = tuple(
    role + size
    for role in ("", "prefill_", "decode_")
    for size in ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
)
NUMBERS = ("isl", "osl", *SIZES, "prefill_num_workers", "decode_num_workers", "clients")
ABSENT = -1.0
#: distance of rows whose word differs, whose size doubles and whose clients double: the best of a coarse search
WORD, SIZE, CLIENTS = 2.0, 2.0, 4.0


def table(rows: Sequence[Row]) -> Floats:
    """[rows, columns]: words as codes in alphabetical order, log2 of numbers, ABSENT where there is none."""
    words = [np.unique([row[name] for row in rows], return_inverse=True)[1] for name in WORDS]
    numbers = [[_log2(_clients(row) if name == "clients" else row[name]) for row in rows] for name in NUMBERS]
    return np.column_stack([*words, *numbers]).astype(np.float64)


def nearest(columns: Floats, target: Floats, known: NDArray[np.int64], asked: NDArray[np.int64]) -> Floats:
    """The target of the known row that differs least: words by equality, numbers by doublings."""
    words, numbers = columns[:, : len(WORDS)], columns[:, len(WORDS) :]
    weights = [CLIENTS if name == "clients" else SIZE if name in SIZES else 1.0 for name in NUMBERS]
    distance = WORD * (words[asked, None] != words[None, known]).sum(2)
    distance = distance + (np.abs(numbers[asked, None] - numbers[None, known]) * weights).sum(2)
    return np.asarray(target[known][distance.argmin(1)])


def boosted_trees(columns: Floats, target: Floats, known: NDArray[np.int64], asked: NDArray[np.int64]) -> Floats:
    """Gradient boosting on the columns as they are (scikit-learn's histogram trees, 300 of them)."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    trees = HistGradientBoostingRegressor(
        max_iter=300, learning_rate=0.08, categorical_features=list(range(len(WORDS))), random_state=7
    )
    return np.asarray(trees.fit(columns[known], target[known]).predict(columns[asked]))


def _clients(row: Row) -> str:
    return row["concurrency"] or row["batch_size"]


def _log2(text: str) -> float:
    return float(np.log2(max(float(text), 0.5))) if text else ABSENT
