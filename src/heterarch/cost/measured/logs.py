"""The user's own logs as iterations of an engine: iteration logs, records of requests, OpenTelemetry spans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from heterarch.cost.fitting.engine_fit import Iterations
from heterarch.cost.measured.columns import STEMS, Columns, Floats, Mask, read_columns
from heterarch.cost.measured.spans import read_spans
from heterarch.errors import InputError
from heterarch.report.aggregate import Status

#: what a column may be called; the first name is the one in messages
NAMES = {
    "prefill_tokens": ("prefill_tokens", "num_prefill_tokens"),
    "sequences": ("decode_sequences", "sequences", "num_decode_sequences", "running"),
    "tokens": ("tokens", "num_batched_tokens"),
    "context": ("context", "context_tokens", "context_sum"),
    "prompt_tokens": ("prompt_tokens", "input_tokens", "input_toks"),
    "cached_tokens": ("cached_tokens",),
    "output_tokens": ("output_tokens", "completion_tokens", "output_toks"),
}
#: stems of columns of moments and durations of a request, in any unit
SUBMITTED = ("submitted", "rel_arrival", "arrival")
LEAST_PROMPT = 256  # new tokens; the first token of a shorter prompt says more of the network than of the engine


class Requests(NamedTuple):
    """Requests to engines, one row each; moments in seconds of one clock. ``engine`` numbers where each decoded."""

    scheduled_s: Floats  # when its prefill began
    first_token_s: Floats
    finish_s: Floats
    prompt_tokens: Floats
    cached_tokens: Floats
    output_tokens: Floats
    engine: Floats

    def part(self, chosen: Mask) -> Requests:
        """Some of the rows."""
        return Requests(*(values[chosen] for values in self))


class Log(NamedTuple):
    """The iterations that a log shows, and what of it was left out."""

    iterations: Iterations
    notes: list[str]


def read_log(path: Path | str) -> Log:
    """Iterations from a log, told by its columns (CSV, JSON lines, parquet) or from OTLP spans (``.json``).

    * Iterations: ``prefill_tokens`` (or ``tokens``, which counts the decoded ones too), ``decode_sequences``,
      ``context`` (the sum of their contexts) and ``latency_s``, ``latency_ms`` or ``seconds``; ``pairs`` of the
      prefill are those of one new prompt unless there is such a column.
    * Requests: ``prompt_tokens``, ``output_tokens``, ``submitted_s``, the first token (``first_token_s``, or ``ttft_*``
      since the submission) and the end (``finish_s``, ``latency_*`` or ``tpot_*``); ``cached_tokens``, ``status``,
      ``decode_pool`` and ``decode_engine`` where there are any, as in the records that heterarch writes; time in
      the queue (``scheduled_s`` or ``queue_*``) is left out of the prefill.

    Raises:
        InputError: the file cannot be read, is neither, or no row is usable.
    """
    if Path(path).suffix.lower() == ".json":
        return iterations_of(_requests(read_spans(path)), str(path))
    columns = read_columns(path)
    if is_requests(columns):
        return iterations_of(_requests(columns), str(path))
    if is_iterations(columns):
        return _iterations(columns)
    raise InputError(
        "the columns are those of no engine log",
        observed=", ".join(columns.cells),
        expected="prefill_tokens, decode_sequences, context and latency_ms, or prompt_tokens, output_tokens, "
        "submitted_s, first_token_s and finish_s",
        where=columns.file,
    )


def is_iterations(columns: Columns) -> bool:
    """Whether the columns are those of an iteration log."""
    tokens = _name(columns, "prefill_tokens") or _name(columns, "tokens")
    timed = "seconds" in columns or any(columns.has_seconds(stem) for stem in STEMS)
    return bool(tokens and _name(columns, "sequences") and _name(columns, "context") and timed)


def is_requests(columns: Columns) -> bool:
    """Whether the columns are those of records of requests."""
    counted = _name(columns, "prompt_tokens") and _name(columns, "output_tokens")
    return bool(counted and (columns.has_seconds("ttft") or columns.has_seconds("first_token")))


def iterations_of(requests: Requests, file: str) -> Log:
    """The iterations behind requests: the decoding of each, and its prefill where nothing else ran at the time.

    A request's TPOT is the mean time of the iterations it decoded in; their sequences, contexts and prefill tokens are
    the means over that time, from the other requests of the same engine. The TTFT on an idle engine is one iteration;
    on a busy one it holds the iteration that was running too, so it is left out.

    Raises:
        InputError: no request is usable.
    """
    usable = _usable(requests)
    notes = []
    if not usable.all():
        first = int(np.flatnonzero(~usable)[0])
        notes = [f"{file}: left out {(~usable).sum():,} of {len(usable):,} requests, whose tokens or times are missing "
                 f"or out of order: the first is number {first + 1}"]  # fmt: skip
    if not usable.any():
        raise InputError("no request of the log is usable", observed=notes[0], where=file)
    kept = requests.part(usable)
    parts = [part for engine in np.unique(kept.engine) for part in _of_engine(kept.part(kept.engine == engine))]
    return Log(Iterations(*(np.concatenate(values) for values in zip(*parts, strict=True))), notes)


def _of_engine(requests: Requests) -> tuple[Iterations, Iterations]:
    """(decode, prefill) iterations of one engine's requests."""
    new = requests.prompt_tokens - requests.cached_tokens
    pairs = new * (requests.cached_tokens + (new + 1) / 2)
    decoding = requests.first_token_s, requests.finish_s
    filling = requests.scheduled_s, requests.first_token_s
    fill_s = np.maximum(filling[1] - filling[0], 1e-9)
    context = requests.prompt_tokens + requests.output_tokens / 2

    steps = requests.output_tokens - 1
    decodes = steps > 0
    tpot_s = (decoding[1] - decoding[0])[decodes] / steps[decodes]
    while_decoding = decoding[0][decodes], decoding[1][decodes]
    sequences, contexts = (_mean_over(decoding, each, while_decoding) for each in (np.ones(len(new)), context))
    tokens_per_s, pairs_per_s = (_mean_over(filling, each / fill_s, while_decoding) for each in (new, pairs))
    decode = Iterations(tokens_per_s * tpot_s, pairs_per_s * tpot_s, sequences, contexts, tpot_s)
    others = _mean_over(filling, np.ones(len(new)), filling) + _mean_over(decoding, np.ones(len(new)), filling)
    alone = (others < 1.05) & (new >= LEAST_PROMPT)
    nothing = np.zeros(int(alone.sum()))
    return decode, Iterations(new[alone], pairs[alone], nothing, nothing, fill_s[alone])


def _mean_over(spans: tuple[Floats, Floats], weights: Floats, windows: tuple[Floats, Floats]) -> Floats:
    """For each window (start, stop): the time mean of the sum of the weights of the spans (start, stop) that are on."""
    moments = np.concatenate(spans)
    order = np.argsort(moments, kind="stable")
    moments = moments[order]
    level = np.cumsum(np.concatenate([weights, -weights])[order])
    area = np.concatenate([[0.0], np.cumsum(level[:-1] * np.diff(moments))])
    start, stop = windows
    return np.asarray(
        (np.interp(stop, moments, area) - np.interp(start, moments, area)) / np.maximum(stop - start, 1e-9)
    )


def _iterations(columns: Columns) -> Log:
    sequences, context = _column(columns, "sequences"), _column(columns, "context")
    named = _name(columns, "prefill_tokens")
    prefill = columns.numbers(named) if named else _column(columns, "tokens") - sequences
    pairs = columns.numbers("pairs") if "pairs" in columns else prefill * (prefill + 1) / 2
    found = Iterations(prefill, pairs, sequences, context, columns.times())
    table = np.stack(found)
    usable = np.isfinite(table).all(axis=0) & (table >= 0).all(axis=0) & (found.seconds > 0) & (prefill + sequences > 0)
    if not usable.any():
        raise InputError("no iteration of the log is usable", expected="times and tokens above 0", where=columns.file)
    if usable.all():
        return Log(found, [])
    first = columns.where(int(np.flatnonzero(~usable)[0]))
    note = (
        f"{columns.file}: left out {(~usable).sum():,} of {len(usable):,} iterations without tokens or a time above 0"
    )
    return Log(Iterations(*(values[usable] for values in found)), [f"{note}: the first is {first}"])


def _requests(columns: Columns) -> Requests:
    count = len(columns)
    submitted = next((columns.seconds(stem) for stem in SUBMITTED if columns.has_seconds(stem)), None)
    if submitted is None:
        raise InputError(
            "the requests have no moment of submission, so that it is unknown which ran side by side",
            observed=", ".join(columns.cells),
            expected="submitted_s, arrival_s or rel_arrival_s",
            where=columns.file,
        )
    output = _column(columns, "output_tokens")
    first = (
        columns.seconds("first_token") if columns.has_seconds("first_token") else submitted + columns.seconds("ttft")
    )
    completed = (Status.COMPLETED.name.lower(), f"{Status.COMPLETED:d}", f"{Status.COMPLETED:.1f}")
    done = np.array([status in completed for status in columns.texts("status", completed[0])])
    finish = np.where(done, _finish(columns, submitted, first, output), np.nan)
    cached = columns.numbers("cached_tokens", default=0.0) if "cached_tokens" in columns else np.zeros(count)
    names = [" ".join(key) for key in zip(columns.texts("decode_pool"), columns.texts("decode_engine"), strict=True)]
    engine = np.unique(np.array(names), return_inverse=True)[1]
    return Requests(
        _scheduled(columns, submitted),
        first,
        finish,
        _column(columns, "prompt_tokens"),
        cached,
        output,
        engine.astype(float),
    )


def _scheduled(columns: Columns, submitted: Floats) -> Floats:
    """The end of the queue where the log tells it, else the submission."""
    if columns.has_seconds("scheduled"):
        return columns.seconds("scheduled")
    return submitted + columns.seconds("queue") if columns.has_seconds("queue") else submitted


def _finish(columns: Columns, submitted: Floats, first: Floats, output: Floats) -> Floats:
    ways: Mapping[str, Callable[[Floats], Floats]] = {
        "finish": lambda moment: moment,
        "latency": lambda duration: submitted + duration,
        "e2e": lambda duration: submitted + duration,
        "tpot": lambda duration: first + duration * (output - 1),
    }
    for stem, moment in ways.items():
        if columns.has_seconds(stem):
            return moment(columns.seconds(stem))
    raise InputError(
        "the requests have no end", observed=", ".join(columns.cells), expected="finish_s, latency_ms or tpot_ms",
        where=columns.file,
    )  # fmt: skip


def _usable(requests: Requests) -> Mask:
    ordered = (requests.scheduled_s <= requests.first_token_s) & (requests.first_token_s <= requests.finish_s)
    counted = (requests.prompt_tokens > 0) & (requests.output_tokens > 0) & (requests.cached_tokens >= 0)
    return np.asarray(ordered & counted & (requests.cached_tokens <= requests.prompt_tokens))


def _name(columns: Columns, quantity: str) -> str | None:
    return next((name for name in NAMES[quantity] if name in columns), None)


def _column(columns: Columns, quantity: str) -> Floats:
    return columns.numbers(_name(columns, quantity) or NAMES[quantity][0])
