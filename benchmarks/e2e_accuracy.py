"""How far predicted TTFT and TPOT of whole engines are from measured ones.

    python benchmarks/e2e_accuracy.py [--data DIR] [--validate]

The rows of DIR's ``e2e_*.csv`` are predicted with the shipped calibration. ``--validate`` also refits the correction
without the rows it is scored on: a random 30 % of the configurations (six draws; rows that repeat one measurement are
left out together), each family of models, each device; and beside it, on the same rows, the constants of the engines
alone, the nearest configuration, and boosted trees on the raw columns (needs the extra ``bench``).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from machine import data_folder, facts, show, show_skipped
from numpy.typing import NDArray

from heterarch.catalog.catalog import Catalog
from heterarch.cost.document import CorrectionPart, shipped
from heterarch.cost.engine import step_cost
from heterarch.cost.fitting.correction import corrected, fit_correction
from heterarch.cost.measured.served import ServingPoint, predict, read_served
from heterarch.cost.serving import Latency
from heterarch.errors import HeterarchError

Index = NDArray[np.int64]
Floats = NDArray[np.float64]
DRAWS, SHARE = 6, 0.3
LEAST_KNOWN = 12  # rows that a correction is refitted to
FAMILY = "DeepSeek"  # models of one architecture, left out together


class Answered(NamedTuple):
    """The points that could be predicted, their closed forms and their raw rows; and why the others could not."""

    points: list[ServingPoint]
    latencies: list[Latency]
    rows: list[dict[str, str]]
    reasons: Counter[str]

    def take(self, index: Index) -> tuple[list[ServingPoint], list[Latency]]:
        """Points and closed forms of some rows."""
        return [self.points[i] for i in index], [self.latencies[i] for i in index]

    def measured(self, index: Index) -> Floats:
        """[TTFT and TPOT, rows], seconds."""
        return np.array([(self.points[i].ttft_s, self.points[i].tpot_s) for i in index]).reshape(-1, 2).T


def answer(path: Path) -> Answered:
    """Every row of a file that the catalogue and the cost model can answer."""
    with path.open(newline="") as file:
        raw = {line: row for line, row in enumerate(csv.DictReader(file), 2)}
    points, unread = read_served(path, Catalog.load())
    reasons = Counter(reason for _, reason in unread)
    left = sorted(set(raw) - {line for line, _ in unread})
    cost_of = lru_cache(maxsize=None)(step_cost)
    found: list[tuple[ServingPoint, Latency, dict[str, str]]] = []
    for line, point in zip(left, points, strict=True):
        try:
            found.append((point, predict(point, cost_of), raw[line]))
        except HeterarchError as error:
            reasons[str(error).splitlines()[0]] += 1
    return Answered([f[0] for f in found], [f[1] for f in found], [f[2] for f in found], reasons)


def joined(parts: Iterable[Answered]) -> Answered:
    """Several files as one."""
    found = list(parts)
    return Answered(
        [point for part in found for point in part.points],
        [latency for part in found for latency in part.latencies],
        [row for part in found for row in part.rows],
        sum((part.reasons for part in found), Counter()),
    )


def splits(points: Sequence[ServingPoint]) -> Iterator[tuple[str, Index]]:
    """(kind of validation, rows that are left out)."""
    random = np.random.default_rng(1)
    _, run = np.unique([(point.ttft_s, point.tpot_s) for point in points], axis=0, return_inverse=True)
    for _ in range(DRAWS):
        out = random.permutation(run.max() + 1)[: round(SHARE * run.max())]
        yield "random configurations", np.flatnonzero(np.isin(run.ravel(), out))
    families = [FAMILY if FAMILY in point.model.id else point.model.id for point in points]
    for kind, names in (("model family", families), ("device", [point.device.id for point in points])):
        for name in sorted(set(names)):
            yield kind, np.flatnonzero(np.array(names) == name)


def validate(data: Answered) -> dict[str, Any]:
    """Errors on rows that were left out, ours beside those of predictors without physics."""
    from comparison import boosted_trees, nearest, table

    columns, everything = table(data.rows), np.arange(len(data.points))
    log_measured = np.log(data.measured(everything))
    pooled: dict[str, dict[str, list[Floats]]] = {}
    for kind, out in splits(data.points):
        known = np.setdiff1d(everything, out)
        known = known[np.isfinite(log_measured[:, known]).all(axis=0)]
        if len(known) < LEAST_KNOWN or not len(out):
            continue
        part = fit_correction(*data.take(known))
        guesses = {"ours": _corrected(part, *data.take(out)), "constants": _corrected(_bare(part), *data.take(out))}
        for method in (nearest, boosted_trees):
            logs = [method(columns, target, known, out) for target in log_measured]
            guesses[method.__name__] = np.exp(np.array(logs))
        for name, guess in guesses.items():
            pooled.setdefault(kind, {}).setdefault(name, []).append(np.concatenate([guess, [out]]))
    return {kind: {name: _scored(data, parts) for name, parts in methods.items()} for kind, methods in pooled.items()}


def _corrected(part: CorrectionPart, points: Sequence[ServingPoint], latencies: Sequence[Latency]) -> Floats:
    answer = corrected(part, points, latencies)
    return np.array([answer.ttft_s, answer.tpot_s])


def _bare(part: CorrectionPart) -> CorrectionPart:
    """The constants of a correction without its residual."""
    silent = [0.0] * len(part.centres)
    return part.model_copy(update={"tpot_weights": silent, "ttft_weights": silent})


def _scored(data: Answered, parts: Sequence[Floats]) -> dict[str, Any]:
    """Scores of the guesses [TTFT, TPOT and row; rows] for all that was left out together, and of each part."""
    guessed = np.concatenate(parts, axis=1)
    index = guessed[2].astype(np.int64)
    found = scores(guessed[:2], data.measured(index), [data.points[i] for i in index])
    errors = [
        [_errors(row, known) for row, known in zip(part, data.measured(part[2].astype(np.int64)), strict=False)]
        for part in parts
    ]
    return found | {"each": [[error and error["median"] for error in pair] for pair in errors]}


def scores(guess: Floats, measured: Floats, points: Sequence[ServingPoint]) -> dict[str, Any]:
    """Absolute relative errors of TTFT and TPOT, and rank correlations of TPOT: pooled and the median over models."""
    models = np.array([point.model.id for point in points])
    return {
        **{name: _errors(guess[i], measured[i]) for i, name in enumerate(("ttft", "tpot"))},
        "tpot_spearman": _spearman(guess[1], measured[1]),
        "tpot_spearman_by_model": {
            str(model): _spearman(guess[1, models == model], measured[1, models == model])
            for model in np.unique(models)
            if (models == model).sum() >= 10
        },
    }


def _errors(guess: Floats, measured: Floats) -> dict[str, float] | None:
    known = np.isfinite(measured)
    if not known.any():
        return None
    error = np.abs(guess[known] / measured[known] - 1)
    within = {f"within_{share}_percent": _short((error <= share / 100).mean()) for share in (10, 20, 30)}
    return {"median": _short(np.median(error)), "mean": _short(error.mean()), **within}


def _spearman(one: Floats, other: Floats) -> float | None:
    from scipy.stats import spearmanr

    known = np.isfinite(other)
    if min(len(np.unique(one[known])), len(np.unique(other[known]))) < 2:
        return None
    return _short(spearmanr(one[known], other[known]).statistic)


def _short(value: Any) -> float:
    return round(float(value), 4)


def with_shipped(data: Answered) -> dict[str, Any] | None:
    """Errors with the shipped correction, None where the calibration has none."""
    part = shipped().correction
    if part is None or not data.points:
        return None
    guess = _corrected(part, data.points, data.latencies)
    return scores(guess, data.measured(np.arange(len(data.points))), data.points)


def main() -> None:
    """Print the one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with e2e_*.csv; default: that of HETERARCH_DATA")
    parser.add_argument("--validate", action="store_true", help="refit without the rows that are scored")
    arguments = parser.parse_args()
    folder = data_folder()
    place = arguments.data or (folder / "measured" if folder else None)
    files = sorted(place.glob("e2e_*.csv")) if place else []
    if place is None or not files:
        show_skipped("e2e_accuracy", *([f"no file e2e_*.csv in {place}"] if place else []))
        return
    result = facts("e2e_accuracy")
    data = joined(answer(file) for file in files)
    rows = len(data.points) + sum(data.reasons.values())
    sha256 = {hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    result |= {
        "files": [file.name for file in files],
        "rows": rows,
        "answered": _short(len(data.points) / rows) if rows else None,
        "unanswered": dict(data.reasons),
        "training_rows": sha256 <= {file.sha256 for file in shipped().files},
        "shipped": with_shipped(data),
        "left_out": validate(data) if arguments.validate else None,
    }
    show(result)


if __name__ == "__main__":
    main()
