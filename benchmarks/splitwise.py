"""Step costs from the Splitwise profile, and the standard case S40: 40 DGX-H100 as splitwise-sim serves them.

    python benchmarks/sim_speed.py --case S40

10,000 requests of the Azure conversation trace at 16 times its speed, clipped to 4,096 tokens, on 40 servers of 8 H100
(TP8) with Llama-2-70B: whole prompts first, up to 2,048 tokens and 512 sequences; the engine with the fewest pending
tokens. Iterations take what splitwise-sim (commit 8f99e7d) takes from the profile: medians by batched tokens, linear in
between and beyond, prompts and decodes together 1.1 times the prompt pass of as many tokens, decodes alone the decode
time where the profile's prompt tokens x batch size are as many as the decodes. ``reference`` holds its figures.
"""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sim_cases import Case, calls, recorded, sha256

from heterarch.plan.document import Pool, StepPart
from heterarch.policy.base import Router, RouterView
from heterarch.report.aggregate import e2e_s, summarise, ttft_s
from heterarch.sim import outcome
from heterarch.sim.drive import drive
from heterarch.sim.pools import pool_table
from heterarch.sim.state import State, new_state
from heterarch.sim.tasks import Tasks, no_prefixes

MIXED = 1.1  # seconds of prompts and decodes together over those of a prompt pass of as many tokens
MEMORY_BYTES = 8 * 80 * 2**30  # of a DGX
WEIGHTS_BYTES = 135e9  # as splitwise-sim has them
KV_BYTES = 327_680  # per token: 80 layers, 8 KV heads of 128, two bytes, keys and values
WITHIN = 0.10
S40 = Case(
    10_000, 16.0, 40, "2e9730a61d42a27b", (0.136, 0.103, 0.391, 0.400), (39.2, 37.8, 50.4, 59.0),
    (8.594, 5.503, 18.950, 23.944), 0, 0, WITHIN, 21.3,
)  # fmt: skip
BUILTIN = "prefix-affinity"  # where no prefix is shared: prompt tokens to compute, and 1/32 of the context in decode


class Row(NamedTuple):
    """A measured configuration: prompt tokens and sequences of a batch, seconds of its prompt pass and of a token."""

    prompt: int
    sequences: int
    prompt_s: float
    token_s: float


def profile(folder: Path, model: str, hardware: str, tp: int = 8) -> list[Row]:
    """The measured rows of a model on a server."""
    with (folder / "measured" / "iteration_splitwise.csv").open() as file:
        return [
            Row(
                int(row["prompt_size"]),
                int(row["batch_size"]),
                *(1e-3 * float(row[k]) for k in ("prompt_ms", "token_ms")),
            )
            for row in csv.DictReader(file)
            if (row["model"], row["hardware"], int(row["tensor_parallel"])) == (model, hardware, tp)
        ]


def medians(pairs: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """The distinct first numbers, ascending, and the median of the second for each."""
    found: dict[int, list[float]] = {}
    for x, y in pairs:
        found.setdefault(x, []).append(y)
    points = sorted(found)
    return points, [statistics.median(found[x]) for x in points]


def curve(points: Sequence[int], seconds: Sequence[float], factor: float = 1.0) -> StepPart:
    """The step cost that is linear between the points and goes on with the slopes at both ends."""
    slopes = factor * np.diff(seconds) / np.diff(points)
    bends = dict(zip(points[1:-1], np.diff(slopes).tolist(), strict=True))
    return StepPart(fixed_s=factor * seconds[0] - slopes[0] * points[0], token_s=slopes[0], bends_s=bends)


def steps(rows: Sequence[Row], by_sequences: bool) -> dict[str, StepPart]:
    """``step``, ``prefill_step`` and ``decode_step`` of a pool.

    Args:
        rows: the profile.
        by_sequences: decodes take what the profile took with as many sequences (prompts of 512); otherwise what it took
            with as many prompt tokens, as splitwise-sim looks it up.
    """
    prompt = medians([(row.prompt * row.sequences, row.prompt_s) for row in rows])
    token = medians([(row.prompt * row.sequences, row.token_s) for row in rows])
    if by_sequences:
        token = medians([(row.sequences, row.token_s) for row in rows if row.prompt == 512])
    return {"step": curve(*prompt, MIXED), "prefill_step": curve(*prompt), "decode_step": curve(*token)}


def server(name: str, engines: int, costs: dict[str, StepPart], **changes: Any) -> Pool:
    """DGX servers that run Llama-2-70B as splitwise-sim's start state ``baseline`` does."""
    fields: dict[str, Any] = {
        "name": name, "role": "mixed", "device": "H100-80GB", "engines": engines, "devices_per_engine": 8, "tp": 8,
        "concurrency": 512, "max_batched_tokens": 2048, "batching": "whole-prompt", "kv_bytes_per_token": KV_BYTES,
        "kv_tokens": int((MEMORY_BYTES - WEIGHTS_BYTES) / KV_BYTES), **costs, **changes,
    }  # fmt: skip
    return Pool(**fields)


def simulated(work: Tasks, pools: Sequence[Pool], router: str | Router) -> State:
    """The world at its end."""
    tree = no_prefixes()
    name = router if isinstance(router, str) else None
    state = new_state(pool_table(pools, name, tree.block_tokens), work, tree, False)
    drive(state, work, tree, router=None if isinstance(router, str) else router)
    return state


class FewestPendingTokens:
    """splitwise-sim's token_jsq: prompt tokens not yet computed, and one for each sequence."""

    name = "fewest-pending-tokens"

    def decide(self, view: RouterView) -> int:
        """The engine with the fewest, the lowest on a tie."""
        return int((view.pending_tokens + view.running).argmin())


def timed(work: Tasks, pools: Sequence[Pool], router: str | Router) -> tuple[float, State, dict[str, Any]]:
    """CPU seconds of a run with its records and summaries, the world at its end, and mean, p50, p95 and p99."""
    start = time.process_time()
    state = simulated(work, pools, router)
    rows = outcome.call_records(state, work)
    requests = outcome.request_records(state)
    tbt_ms = 1e3 * (rows["finish_s"] - rows["first_token_s"]) / rows["output_tokens"]
    found = {"ttft_s": ttft_s(rows), "tpot_ms": tbt_ms, "e2e_s": e2e_s(requests)}
    figures = {name: _figures(values) for name, values in found.items()}
    return time.process_time() - start, state, figures


def s40(in_python: bool, repeats: int, folder: Path | None) -> dict[str, Any]:
    """The keys of the case S40, after those of every benchmark; its step costs need the real data."""
    if folder is None:
        return {"case": "S40", "skipped": "real data not found; set HETERARCH_DATA"}
    columns = recorded(S40, folder)
    work, pools = (
        calls(columns),
        [server("h100", S40.engines, steps(profile(folder, "llama2-70b", "h100-80gb"), False))],
    )
    sides: dict[str, str | Router] = {"builtin": BUILTIN, "python": FewestPendingTokens()}
    runs = {side: timed(work, pools, router) for side, router in sides.items()}  # loads or compiles
    cpu_s: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, router in sides.items():
            runs[side] = timed(work, pools, router)
            cpu_s[side].append(runs[side][0])
    _, state, figures = runs["python" if in_python else "builtin"]
    judged = {name: getattr(S40, name) for name in ("ttft_s", "tpot_ms", "e2e_s")}
    off = {name: [round(a / b - 1, 4) for a, b in zip(figures[name], row, strict=True)] for name, row in judged.items()}
    median = {side: statistics.median(seconds) for side, seconds in cpu_s.items()}
    return {
        "case": "S40",
        "sha256": sha256(columns),
        "sha256_as_defined": sha256(columns) == S40.sha256,
        "router": "python" if in_python else "builtin",
        "requests": len(work.rows),
        "iterations": int(state.engines["iteration"].sum() + state.engines["rests"].sum()),
        "restarts": int(state.engines["preemptions"].sum()),
        "rests": int(state.engines["rests"].sum()),
        **figures,
        "reference": {**judged, "loop_cpu_s": S40.loop_cpu_s},
        "deviation": off,
        "gates": {name: max(map(abs, off[name])) <= WITHIN for name in ("ttft_s", "e2e_s")},
        "cpu_s": cpu_s,
        "requests_per_cpu_s": {side: len(work.rows) / seconds for side, seconds in median.items()},
        "times_faster_than_reference": S40.loop_cpu_s / median["builtin"],
    }


def _figures(values: Any) -> tuple[float, float, float, float]:
    row = summarise(values)
    return row.mean, row.p50, row.p95, row.p99
