"""A recorded trace as tasks: every call is one LLM call, and a request of its own."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from heterarch.errors import InputError
from heterarch.sim.tasks import Prefixes, TaskKind, Tasks, prefixes, tasks
from heterarch.workload.trace import Trace

Replay = Literal["open", "closed"]


def replay_tasks(trace: Trace, pools: tuple[int, int], replay: Replay, op: int = -1) -> tuple[Tasks, Prefixes]:
    """The calls of ``trace`` on one prefill and one decode pool.

    ``open``: submitted at the recorded time. ``closed``: a session's first call at its recorded time, each later one
    ``gap_s`` after the session's previous call has ended (0 where the gap is unknown).

    Args:
        trace: the calls, sessions together and in order.
        pools: rows of the prefill and the decode pool in the plan.
        replay: open or closed.
        op: the decode op that the calls stand for.

    Raises:
        InputError: neither open nor closed.
    """
    if replay not in ("open", "closed"):
        raise InputError("a trace is replayed open or closed", observed=replay)
    n = len(trace)
    nodes, leaf = trace.prefix_tree()
    columns = {
        "kind": np.full(n, TaskKind.GENERATE),
        "release_s": trace.time_s,
        "request": np.arange(n),
        "session": trace.session,
        "op": np.full(n, op),
        "prompt_tokens": trace.prompt_tokens,
        "output_tokens": trace.output_tokens,
        "node": leaf,
        "prefill_pool": np.full(n, pools[0]),
        "decode_pool": np.full(n, pools[1]),
    }
    edges = np.zeros((0, 3), np.int64)
    if replay == "closed":
        follows = _following(trace.session)
        edges = np.stack([follows - 1, follows, np.zeros_like(follows)], axis=1)
        first = np.ones(n, np.bool_)
        first[follows] = False
        columns["release_s"] = np.where(first, trace.time_s, 0.0)
        columns["delay_s"] = np.where(first, 0.0, np.maximum(np.nan_to_num(trace.gap_s), 0.0))
    return tasks(columns, edges), prefixes(nodes.parent, nodes.blocks, trace.block_tokens)


def _following(session: NDArray[np.int32]) -> NDArray[np.int64]:
    """Rows whose predecessor is of the same session."""
    return np.flatnonzero(session[1:] == session[:-1]) + 1
