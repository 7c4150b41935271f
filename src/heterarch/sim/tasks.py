"""What the core runs: tasks with their dependencies, as frozen arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heterarch.errors import InputError

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
MOST_TOKENS = 1_000_000_000  # of a prompt or an answer: their sum is an int32
Table = Any  # a record array; its fields are attributes in compiled code


class TaskKind(IntEnum):
    """DELAY takes ``service_s`` on a tool pool (or on none); GENERATE is one LLM call."""

    DELAY = 0
    GENERATE = 1


#: one row per task; it is submitted ``delay_s`` after its last predecessor and its ``release_s``
TASK = np.dtype(
    [
        ("kind", np.int32),  # TaskKind
        ("release_s", np.float64),  # earliest start
        ("delay_s", np.float64),  # idle time between "predecessors done" and submission: a gap, think time
        ("service_s", np.float64),  # of a DELAY
        ("request", np.int32),  # agent request that the task belongs to
        ("session", np.int32),
        ("op", np.int32),  # op of the flat program, -1 for none
        ("prompt_tokens", np.int32),
        ("output_tokens", np.int32),
        ("node", np.int32),  # leaf of the prompt in the prefix tree, -1 when nothing can be shared
        ("node_out", np.int32),  # leaf after the answer is appended, -1 when unknown
        ("prefill_pool", np.int32),  # of a GENERATE; of a DELAY, its tool pool or -1
        ("decode_pool", np.int32),  # equal to prefill_pool on mixed engines and endpoints
        ("ttft_s", np.float64),  # sampled latency on an endpoint
        ("tpot_s", np.float64),
        ("deps", np.int32),  # number of predecessors
        ("first_edge", np.int32),  # its successors are edges[first_edge:end_edge]
        ("end_edge", np.int32),
    ],
    align=True,
)
#: ``at_first``: the successor may start at the first token instead of the end
EDGE = np.dtype([("task", np.int32), ("at_first", np.int32)])
RUN = np.dtype([("parent", np.int32), ("blocks", np.int32), ("end", np.int32)])
_MINUS_ONE = ("op", "node", "node_out", "prefill_pool", "decode_pool")
_DERIVED = ("deps", "first_edge", "end_edge")


class Tasks(NamedTuple):
    """n tasks and e edges between them."""

    rows: Table  # [n] TASK
    edges: Table  # [e] EDGE

    @property
    def requests(self) -> int:
        """Number of agent requests."""
        return int(self.rows["request"].max(initial=-1)) + 1

    @property
    def sessions(self) -> int:
        """Number of sessions."""
        return int(self.rows["session"].max(initial=-1)) + 1


class Prefixes(NamedTuple):
    """The prefix tree of all prompts in KV blocks of the engine.

    Run k: ``blocks`` blocks after run ``parent`` (-1: first); ``end`` blocks from the start of the prompt to its end.
    """

    runs: Table  # [N] RUN
    block_tokens: int


ENGINE_BLOCK_TOKENS = 16


def prefixes(parent: Int32, blocks: Int32, block_tokens: int) -> Prefixes:
    """A prefix tree whose runs count blocks of ``block_tokens``, in engine blocks (16 tokens where that divides).

    Raises:
        InputError: a node whose parent does not come before it.
    """
    if np.any(parent >= np.arange(len(parent))):
        raise InputError("the parent of a prefix node must come before it")
    size = ENGINE_BLOCK_TOKENS if block_tokens % ENGINE_BLOCK_TOKENS == 0 and block_tokens else block_tokens
    size = size or ENGINE_BLOCK_TOKENS
    runs = (blocks.astype(np.int64) * max(1, block_tokens // size)).astype(np.int32)
    table = np.zeros(len(parent), RUN)
    table["parent"], table["blocks"] = parent, runs
    end = runs.tolist()
    for node, above in enumerate(parent.tolist()):
        if above >= 0:
            end[node] += end[above]
    table["end"] = end
    return Prefixes(table, size)


def no_prefixes(block_tokens: int = ENGINE_BLOCK_TOKENS) -> Prefixes:
    """The tree of prompts that share nothing."""
    return Prefixes(np.zeros(0, RUN), block_tokens)


class TaskTable:
    """Collects tasks one by one; :meth:`freeze` gives the arrays."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.edges: list[tuple[int, int, bool]] = []

    def add(self, after: Iterable[int] = (), streaming: Iterable[int] = (), **values: float) -> int:
        """A task that starts when those in ``after`` are done and those in ``streaming`` gave a first token."""
        row = len(self.rows)
        self.rows.append(values)
        whole = set(after)
        self.edges.extend((task, row, False) for task in sorted(whole))
        self.edges.extend((task, row, True) for task in sorted(set(streaming) - whole))
        return row

    def freeze(self) -> Tasks:
        """The collected tasks."""
        names = [name for name in TASK.names or () if name not in _DERIVED]
        columns = {name: np.array([row.get(name, _default(name)) for row in self.rows]) for name in names}
        return tasks(columns, np.array(self.edges, np.int64).reshape(-1, 3))


def tasks(columns: Mapping[str, NDArray[Any]], edges: NDArray[np.int64] | None = None) -> Tasks:
    """Tasks from columns of :data:`TASK` (absent ones get 0, or -1 for what they lack).

    Args:
        columns: [n] each.
        edges: [e, 3] before, after, at_first.

    Raises:
        InputError: columns of unequal length, a call of more than ``MOST_TOKENS``, or an edge from or to a task that
            does not exist.
    """
    n = len(columns["kind"])
    if any(len(column) != n for column in columns.values()):
        raise InputError("every column of the tasks needs one row per task", expected=n)
    for name in ("prompt_tokens", "output_tokens"):
        most = int(columns.get(name, np.zeros(1)).max(initial=0))
        if most > MOST_TOKENS:
            raise InputError(f"a call has too many {name}", observed=f"{most:,}", expected=f"at most {MOST_TOKENS:,}")
    rows = np.zeros(n, TASK)
    for name in _MINUS_ONE:
        rows[name] = -1
    for name, column in columns.items():
        rows[name] = column
    edges = np.zeros((0, 3), np.int64) if edges is None else edges
    if len(edges) and (int(edges[:, :2].min()) < 0 or int(edges[:, :2].max()) >= n):
        raise InputError("an edge leads to a task that does not exist", expected=f"0..{n - 1}")
    ordered = edges[np.argsort(edges[:, 0], kind="stable")]
    ends = np.cumsum(np.bincount(ordered[:, 0], minlength=n))
    rows["end_edge"] = ends[:n]
    rows["first_edge"][1:] = ends[: n - 1]
    rows["deps"] = np.bincount(ordered[:, 1], minlength=n)[:n]
    table = np.zeros(len(ordered), EDGE)
    table["task"], table["at_first"] = ordered[:, 1], ordered[:, 2]
    return Tasks(rows, table)


def _default(name: str) -> int:
    return -1 if name in _MINUS_ONE else 0
