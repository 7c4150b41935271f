"""Recorded coding-agent sessions (Weka's kv-cache-tester): calls with their prefix relation in 64-token blocks.

``requests.parquet`` has one row per LLM call and one per subagent (``kind`` = subagent, a marker without tokens);
``sessions.parquet`` beside it, where present, gives the block size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from heterarch.errors import TraceError, Where
from heterarch.workload.formats.base import Calls, refuse, require_calls, require_columns
from heterarch.workload.formats.table import known_numbers, load, numbers, whole_numbers
from heterarch.workload.prefix import prefix_relation, prefix_tree

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = (
    "trace", "i", "parent", "kind", "t_s", "prompt_tokens", "output_tokens", "n_blocks", "prefix_blocks", "prefix_of",
    "api_time", "think_time", "sub_duration_s",
)  # fmt: skip
BLOCK_TOKENS = 64
Floats = NDArray[np.float64]


def read(path: Path, table: pa.Table) -> Calls:
    """Read the calls of every session, each session in the order of submission.

    Calls of a subagent are recorded from its own start; they are moved to the session's clock, on which a marker
    stands at the subagent's end. A session's gaps are the recorded ones; where a subagent comes between, or none is
    recorded, they follow from the times.

    Raises:
        TraceError: a column or a value is missing, or the prefix relation is not one.
    """
    require_columns(path, COLUMNS, table.column_names, "a file of recorded sessions")
    row = np.arange(1, table.num_rows + 1)
    session = _codes(table["trace"])
    marker = table["kind"].to_numpy(zero_copy_only=False) == "subagent"
    start = _subagent_start(path, table, session, marker, row)
    keep = np.flatnonzero(~marker)
    require_calls(path, len(keep))
    table, row, session = table.take(keep), row[keep], session[keep]
    time_s = numbers(path, table, "t_s", row) + start[keep]
    agent = whole_numbers(path, table, "parent", row)
    _refuse_going_back(path, session, agent, time_s, row)
    order = np.lexsort((time_s, session))  # stable
    parent, shared, blocks = _relation(path, table, session, row, order)
    gap_s, guessed = _gaps(path, table, session, agent, time_s, order)
    output = whole_numbers(path, table, "output_tokens", row)
    return Calls(
        kind="sessions",
        block_tokens=_block_tokens(path),
        row=row[order],
        session=session[order].astype(np.int32),
        time_s=time_s[order],
        gap_s=gap_s,
        prompt_tokens=whole_numbers(path, table, "prompt_tokens", row)[order],
        output_tokens=np.maximum(output, 1)[order],
        parent=parent,
        shared_blocks=shared,
        n_blocks=blocks,
        notes=_notes(int(marker.sum()), int((output == 0).sum()), guessed),
    )


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """[rows] 0, 1, ... for each different value, in the order of the file."""
    codes: NDArray[np.int64] = column.combine_chunks().dictionary_encode().indices.cast("int64").to_numpy()
    return codes


def _rows_of(session: NDArray[np.int64], position: NDArray[np.int64]) -> dict[tuple[int, int], int]:
    return {key: at for at, key in enumerate(zip(session.tolist(), position.tolist(), strict=True))}


def _subagent_start(
    path: Path, table: pa.Table, session: NDArray[np.int64], marker: NDArray[np.bool_], row: NDArray[np.int64]
) -> Floats:
    """[rows] seconds to add to a call's time: the start of its subagent, 0 for calls of the session itself."""
    time_s, length = numbers(path, table, "t_s", row), known_numbers(path, table, "sub_duration_s")
    position, above = whole_numbers(path, table, "i", row), whole_numbers(path, table, "parent", row)
    place = _rows_of(session, position)
    shift = np.zeros(table.num_rows)
    for at in np.flatnonzero((above >= 0) & ~marker).tolist():
        found = place.get((int(session[at]), int(above[at])))
        if found is None or not marker[found]:
            raise TraceError(
                "a subagent's call names no subagent",
                observed=f"parent {above[at]}",
                where=Where(str(path), int(row[at])),
            )
        shift[at] = time_s[found] - float(np.nan_to_num(length[found]))
    return shift


def _refuse_going_back(
    path: Path, session: NDArray[np.int64], agent: NDArray[np.int64], time_s: Floats, row: NDArray[np.int64]
) -> None:
    order = np.lexsort((row, agent, session))
    same = (np.diff(session[order]) == 0) & (np.diff(agent[order]) == 0)
    back = np.concatenate([[False], same & (np.diff(time_s[order]) < 0)])
    refuse(path, row[order], back, "time goes back within a session", time_s[order])


def _relation(
    path: Path, table: pa.Table, session: NDArray[np.int64], row: NDArray[np.int64], order: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """The prefix relation of the calls in ``order``."""
    place = _rows_of(session, whole_numbers(path, table, "i", row))
    named = whole_numbers(path, table, "prefix_of", row)
    blocks, shared = (whole_numbers(path, table, name, row).astype(np.int32) for name in ("n_blocks", "prefix_blocks"))
    found = [place.get(key, -2) for key in zip(session.tolist(), named.tolist(), strict=True)]
    parent = np.where(named < 0, -1, np.array(found, np.int64))
    refuse(path, row, (parent == -2) | (parent >= np.arange(len(parent))), "prefix_of names no earlier call", named)
    longest = np.minimum(blocks, np.where(parent < 0, 0, blocks[parent]))
    refuse(path, row, (shared < 0) | (shared > longest), "prefix_blocks exceeds one of the two prompts", shared)
    refuse(path, row, blocks < 1, "a prompt needs at least one block", blocks)
    tree, leaf = prefix_tree(parent.astype(np.int32), shared, blocks)
    return (*prefix_relation(tree, leaf[order]), blocks[order])


def _gaps(
    path: Path,
    table: pa.Table,
    session: NDArray[np.int64],
    agent: NDArray[np.int64],
    time_s: Floats,
    order: NDArray[np.int64],
) -> tuple[Floats, int]:
    """[n] idle seconds before each call, in ``order``; NaN for a first call. Also how many took a median call time."""
    think, service = (known_numbers(path, table, name)[order] for name in ("think_time", "api_time"))
    session, agent, time_s = session[order], agent[order], time_s[order]
    usual = float(np.nanmedian(service)) if np.isfinite(service).any() else 0.0
    idle = np.maximum(0.0, np.diff(time_s) - np.nan_to_num(service, nan=usual)[:-1])
    recorded = (agent[1:] == agent[:-1]) & np.isfinite(think[1:])
    first = session[1:] != session[:-1]
    guessed = ~first & ~recorded & np.isnan(service[:-1])
    gap_s = np.where(first, np.nan, np.where(recorded, think[1:], idle))
    return np.concatenate([[np.nan], gap_s]), int(guessed.sum())


def _block_tokens(path: Path) -> int:
    beside = path.with_name("sessions.parquet")
    if not beside.exists():
        return BLOCK_TOKENS
    sessions = load(beside)
    require_columns(beside, ("block_size",), sessions.column_names, "a table of recorded sessions")
    sizes = set(known_numbers(beside, sessions, "block_size").tolist())
    if len(sizes) != 1 or not min(sizes) >= 1:
        raise TraceError(
            "the sessions need one block size, at least 1", observed=sorted(sizes), where=Where(str(beside))
        )
    return int(sizes.pop())


def _notes(markers: int, silent: int, guessed: int) -> tuple[str, ...]:
    said = (
        (markers, "subagent markers are not calls"),
        (silent, "calls record no output token: read as 1"),
        (guessed, "gaps follow a call of unrecorded length: the median length was assumed"),
    )
    return tuple(f"{count} {text}" for count, text in said if count)
