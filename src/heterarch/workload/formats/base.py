"""What every reader hands over, and the checks that all of them share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heterarch.errors import TraceError, Where, nearest

Kind = Literal["open", "sessions"]
#: KV block of traces that record no prefixes, tokens (vLLM's default)
BLOCK_TOKENS = 16


class Calls(NamedTuple):
    """The calls of a file as arrays of n; see :class:`heterarch.workload.trace.Trace` for the columns.

    ``row[i]`` is the place of call ``i`` in the file, counted from 1: its line in a text file, its row in a table.
    """

    kind: Kind
    block_tokens: int
    row: NDArray[np.int64]
    session: NDArray[np.int32]
    time_s: NDArray[np.float64]
    gap_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    parent: NDArray[np.int32]
    shared_blocks: NDArray[np.int32]
    n_blocks: NDArray[np.int32]
    notes: tuple[str, ...] = ()


def open_calls(
    row: NDArray[np.int64], time_s: NDArray[np.float64], prompt: NDArray[np.int64], output: NDArray[np.int64]
) -> Calls:
    """Independent calls that share nothing: every call is a session of its own, in blocks of 16 tokens."""
    n = len(row)
    return Calls(
        "open",
        BLOCK_TOKENS,
        row,
        np.arange(n, dtype=np.int32),
        time_s,
        np.full(n, np.nan),
        prompt,
        output,
        np.full(n, -1, np.int32),
        np.zeros(n, np.int32),
        (-(-prompt // BLOCK_TOKENS)).astype(np.int32),
    )


def require_columns(path: Path, wanted: Iterable[str], found: Iterable[str], form: str) -> None:
    """Refuse a table that lacks a column, naming the columns of the file that were most likely meant.

    Raises:
        TraceError: a column is missing.
    """
    names = list(found)
    missing = [column for column in wanted if column not in names]
    if missing:
        near = {column: ", ".join(nearest(column, names, 2)) for column in missing}
        hints = "; ".join(f"{column}: perhaps {close}" for column, close in near.items() if close)
        raise TraceError(
            f"{form} needs the columns {', '.join(missing)}",
            observed=", ".join(names) or "no column",
            where=Where(str(path)),
            fix="rename the columns" + (f" ({hints})" if hints else ""),
        )


def require_calls(path: Path, calls: int) -> None:
    """Refuse a file without calls.

    Raises:
        TraceError: there are none.
    """
    if not calls:
        raise TraceError("the trace holds no call", where=Where(str(path)), fix="give a file with at least one call")


def refuse(
    path: Path,
    row: NDArray[np.int64],
    bad: NDArray[np.bool_],
    what: str,
    observed: NDArray[Any],
    expected: str | None = None,
) -> None:
    """Refuse a file in which ``bad`` holds anywhere, pointing at the first row and saying how many there are.

    Raises:
        TraceError: a row is bad.
    """
    if bad.any():
        at = int(np.argmax(bad))
        value = observed[at].item() if hasattr(observed[at], "item") else observed[at]
        more = int(bad.sum()) - 1
        raise TraceError(
            what + (f" (and {more} more rows)" if more else ""),
            observed=value,
            expected=expected,
            where=Where(str(path), int(row[at])),
            fix="correct or remove the row",
        )


def check_calls(calls: Calls, path: Path) -> None:
    """The rules that every trace keeps.

    Raises:
        TraceError: no call; a time that is negative, not a number or goes back; a call without tokens.
    """
    require_calls(path, len(calls.row))
    row, time_s = calls.row, calls.time_s
    refuse(path, row, ~np.isfinite(time_s), "a submission time is not a number", time_s)
    together = calls.kind == "open" or np.diff(calls.session, prepend=0) == 0
    back = together & (np.diff(time_s, prepend=time_s[0]) < 0)
    refuse(path, row, back, "time goes back", time_s, "seconds no earlier than those of the row before")
    refuse(path, row, time_s < 0, "a submission time is negative", time_s, "seconds from the start, at least 0")
    refuse(path, row, calls.gap_s < 0, "an idle time is negative", calls.gap_s)
    refuse(path, row, calls.prompt_tokens < 1, "a prompt needs at least one token", calls.prompt_tokens)
    refuse(path, row, calls.output_tokens < 1, "an answer needs at least one token", calls.output_tokens)
