"""Traces: recorded LLM calls with their times, lengths and shared prefixes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heterarch.errors import InputError, TraceError, Where
from heterarch.units import Grade, Source
from heterarch.workload.formats import mooncake, table, weka
from heterarch.workload.formats.base import Calls, Kind, check_calls
from heterarch.workload.prefix import PrefixTree, ideal_hit_rate, prefix_relation, prefix_tree

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Trace:
    """Recorded calls as arrays of n, one row per call.

    An ``open`` trace has absolute submission times and every call is a session of its own. In a trace of
    ``sessions`` the rows of a session stand together in order of submission, times count from the start of the session
    (until :meth:`with_session_starts`), and a call is submitted ``gap_s`` after the session's previous call ended.
    """

    name: str
    source: Source
    kind: Kind
    block_tokens: int  # tokens per block of the three columns below
    session: Int32  # 0, 1, ...
    time_s: Floats  # recorded submission
    gap_s: Floats  # idle between the end of the session's previous call and this one; NaN first or unknown
    prompt_tokens: Int64
    output_tokens: Int64
    parent: Int32  # an earlier row whose prompt shares the longest prefix, -1 none
    shared_blocks: Int32  # length of that prefix
    n_blocks: Int32  # blocks in the prompt, at least 1
    notes: tuple[str, ...] = ()  # what the reader had to assume

    def __post_init__(self) -> None:
        rows = {name: len(getattr(self, name)) for name in _COLUMNS}
        if len(set(rows.values())) > 1:
            raise InputError("the columns of a trace must be equally long", observed=rows)

    def __len__(self) -> int:
        return len(self.session)

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(np.unique(self.session))

    @property
    def duration_s(self) -> float:
        """From the first submission to the last; of the longest session before session starts are given."""
        return float(self.time_s.max() - self.time_s.min()) if len(self) else 0.0

    def prefix_tree(self) -> tuple[PrefixTree, Int32]:
        """The radix tree of all prompts, and the node [n] at which each ends."""
        return prefix_tree(self.parent, self.shared_blocks, self.n_blocks)

    def ideal_hit_rate(self) -> float:
        """The share of prompt blocks found in a cache that never forgets."""
        return ideal_hit_rate(self.prefix_tree()[0], self.n_blocks)

    def with_session_starts(self, starts_s: Floats) -> Trace:
        """The trace with session ``k`` starting at ``starts_s[k]``.

        Raises:
            InputError: not one finite start, at least 0, per session.
        """
        starts = np.asarray(starts_s, np.float64)
        if starts.shape != (self.sessions,) or not (np.isfinite(starts) & (starts >= 0)).all():
            raise InputError(
                "every session needs a start that is not negative",
                observed=f"shape {starts.shape}",
                expected=f"{self.sessions} starts in seconds",
            )
        return replace(self, time_s=self.time_s + starts[self.session])

    def select(self, keep: Bools) -> Trace:
        """The calls for which ``keep`` [n] holds, with sessions and shared prefixes as among them alone."""
        tree, leaf = self.prefix_tree()
        parent, shared = prefix_relation(tree, leaf[keep])
        columns: dict[str, Any] = {name: getattr(self, name)[keep] for name in _COLUMNS}
        session = np.unique(columns["session"], return_inverse=True)[1].astype(np.int32)
        first = np.diff(session, prepend=-1) != 0
        columns |= {"parent": parent, "shared_blocks": shared, "session": session}
        columns["gap_s"] = np.where(first, np.nan, columns["gap_s"])
        return replace(self, **columns)

    def head(self, calls: int) -> Trace:
        """The first ``calls`` rows."""
        return self.select(np.arange(len(self)) < calls)

    def first_sessions(self, sessions: int) -> Trace:
        """The first ``sessions`` sessions, whole."""
        return self.select(self.session < sessions)

    def window(self, start_s: float, end_s: float) -> Trace:
        """The calls submitted in ``start_s <= time < end_s``, counted from ``start_s``.

        Raises:
            InputError: the window holds no call.
        """
        keep = (self.time_s >= start_s) & (self.time_s < end_s)
        if not keep.any():
            raise InputError(
                "no call lies in the window",
                observed=f"{start_s:g} s to {end_s:g} s",
                expected=f"within {self.time_s.min():g} s to {self.time_s.max():g} s",
            )
        part = self.select(keep)
        return replace(part, time_s=part.time_s - start_s)

    def scaled_rate(self, factor: float) -> Trace:
        """The same calls in the same order, submitted ``factor`` times as fast; gaps inside sessions stay.

        Raises:
            InputError: the factor is not above zero.
        """
        if not factor > 0:
            raise InputError("a rate is scaled by a factor above zero", observed=factor)
        first = _first_time(self.session, self.time_s)
        return replace(self, time_s=self.time_s - first * (1 - 1 / factor))


_COLUMNS = tuple(field.name for field in fields(Trace) if str(field.type) in ("Int32", "Int64", "Floats"))


def read_trace(path: str | Path, *, rate_per_s: float | None = None, seed: int = 0) -> Trace:
    """Read a trace; its form is told from its suffix and its columns.

    Forms: Mooncake ``.jsonl`` and ``.jsonl.gz``; ``.csv`` of Azure or Vidur; ``.parquet`` with arrivals and lengths or
    lengths alone; recorded sessions (``requests.parquet`` with ``sessions.parquet`` beside it, or their folder).

    Args:
        path: the file, or the folder that holds ``requests.parquet``.
        rate_per_s: replace the arrivals of a table (if any) by a Poisson process of that many calls per second.
        seed: of that process.

    Raises:
        TraceError: not a trace, or a row breaks a rule; names the file and the row.
    """
    path = Path(path)
    path = path / "requests.parquet" if path.is_dir() else path
    if not path.is_file():
        raise TraceError("no such trace", where=Where(str(path)), fix="give a .jsonl, .csv or .parquet file")
    calls = _read(path, rate_per_s, seed)
    check_calls(calls, path)
    columns = {name: getattr(calls, name) for name in (*_COLUMNS, "kind", "block_tokens", "notes")}
    name = path.parent.name if path.name == "requests.parquet" else path.name.split(".")[0]
    return Trace(name=name, source=Source(Grade.MEASURED, path.name), **columns)


def _read(path: Path, rate_per_s: float | None, seed: int) -> Calls:
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return mooncake.read(path)
    if path.suffix not in (".csv", ".parquet"):
        raise TraceError(
            "cannot tell the form of the trace",
            observed=path.name,
            where=Where(str(path)),
            expected="a file named .jsonl, .jsonl.gz, .csv or .parquet",
        )
    rows = table.load(path)
    if {"prefix_of", "prefix_blocks"} & set(rows.column_names):
        return weka.read(path, rows)
    return table.read(path, rows, _poisson(rate_per_s, rows.num_rows, seed))


def _poisson(rate_per_s: float | None, n: int, seed: int) -> Floats | None:
    if rate_per_s is None:
        return None
    if not rate_per_s > 0:
        raise InputError("an arrival rate must be above zero", observed=rate_per_s)
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_per_s, n))


def _first_time(session: Int32, time_s: Floats) -> Floats:
    """[n] the first submission of each call's session."""
    first = np.full(int(session.max(initial=-1)) + 1, np.inf)
    np.minimum.at(first, session, time_s)
    return first[session]
