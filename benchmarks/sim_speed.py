"""The standard simulation cases: speed, and how close the reference simulator's results are.

    python benchmarks/sim_speed.py --case S1 [--repeats 5]

S1 (stable), S1x (out of KV memory) and S8 (eight engines) replay the Azure conversation trace of 2023 (file order,
prompts clipped to 4,096 tokens with their output) on Llama-2-7B, one A100-80GB per engine: 512 tokens per iteration,
512 sequences, 118,784 tokens of KV, chunked prefill, no prefix cache. The step cost is the affine fit to Vidur's own
batches, so that only the engine model differs. ``loop_cpu_s`` is the CPU time from inputs in memory to a report with
one record per request; ``process_cpu_s`` that of the whole process, import and code loading included.

``reference`` holds Vidur's figures (commit 7d47513) and ``deviation`` ours relative to them. S8 is routed as Vidur does
(least outstanding counts the queued requests only), by a router in Python; ``--router`` takes a built-in instead.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from machine import data_folder, facts, show, show_skipped

from heterarch.plan.document import Pool, StepPart
from heterarch.policy.base import Router, RouterView
from heterarch.report.aggregate import e2e_s, summarise, tpot_s, ttft_s
from heterarch.sim import outcome
from heterarch.sim.drive import drive
from heterarch.sim.pools import pool_table
from heterarch.sim.state import State, new_state
from heterarch.sim.tasks import TaskKind, Tasks, no_prefixes, tasks

#: requests, speed-up of the arrivals, engines
CASES = {"S1": (4096, 2 / 3, 1), "S1x": (4096, 1.0, 1), "S8": (8192, 16 / 3, 8)}
#: mean, p50, p95, p99 under Vidur: TTFT s, TPOT ms, e2e s; iterations; restarts; CPU seconds of its loop, metrics on
REFERENCE: dict[str, dict[str, Any]] = {
    "S1": {
        "ttft_s": (0.193, 0.136, 0.509, 0.734),
        "tpot_ms": (25.24, 24.48, 37.69, 42.61),
        "e2e_s": (6.540, 5.225, 14.653, 17.973),
        "iterations": 55_326,
        "loop_cpu_s": 13.78,
    },
    "S1x": {
        "ttft_s": (19.894, 19.712, 44.394, 47.210),
        "tpot_ms": (62.69, 67.61, 70.72, 71.77),
        "e2e_s": (35.671, 35.120, 67.743, 73.830),
        "iterations": 16_953,
        "loop_cpu_s": 7.54,
    },
    "S8": {
        "ttft_s": (0.310, 0.246, 0.787, 1.057),
        "tpot_ms": (50.08, 58.04, 69.06, 70.83),
        "e2e_s": (12.171, 7.620, 29.105, 38.128),
        "iterations": 76_000,
        "loop_cpu_s": 27.08,
    },
}
STEP = StepPart(fixed_s=9.958e-3, token_s=5.059e-5, sequence_s=-5.170e-5, context_s=3.335e-7, pair_s=2.417e-9)
LONGEST = 4096


class FewestQueued:
    """Least outstanding requests as Vidur counts them: those that wait; the lowest engine on a tie."""

    name = "fewest-queued"

    def decide(self, view: RouterView) -> int:
        """The engine with the shortest queue."""
        return int(np.argmin(view.queued))


def standard_case(case: str, folder: Path) -> tuple[Tasks, Pool]:
    """The requests and the pool of a case."""
    n, speed, engines = CASES[case]
    rows = pq.read_table(folder / "traces" / "azure_llm_2023" / "conv.parquet").slice(0, n)
    output = np.minimum(rows["output_tokens"].to_numpy(), LONGEST - 1)
    arrival = rows["arrival_s"].to_numpy()
    columns = {
        "kind": np.full(n, TaskKind.GENERATE),
        "release_s": np.round((arrival - arrival[0]) / speed, 6),
        "request": np.arange(n),
        "session": np.arange(n),
        "prompt_tokens": np.minimum(rows["prompt_tokens"].to_numpy(), LONGEST - output),
        "output_tokens": output,
        "prefill_pool": np.zeros(n),
        "decode_pool": np.zeros(n),
    }
    pool = Pool(
        name="llama-2-7b", role="mixed", device="A100-80GB", engines=engines, concurrency=512,
        max_batched_tokens=512, kv_tokens=118_784, kv_bytes_per_token=524_288, step=STEP,
    )  # fmt: skip
    return tasks(columns), pool


def timed(work: Tasks, pool: Pool, router: str | Router) -> tuple[float, State, dict[str, Any]]:
    """CPU seconds of one run with its records and summaries."""
    start = time.process_time()
    tree = no_prefixes()
    name = router if isinstance(router, str) else None
    state = new_state(pool_table([pool], name, tree.block_tokens), work, tree, False)
    drive(state, work, tree, router=None if isinstance(router, str) else router)
    calls = outcome.call_records(state, work)
    requests = outcome.request_records(state, np.zeros(len(state.requests)))
    found = {"ttft_s": ttft_s(calls), "tpot_ms": tpot_s(calls) * 1e3, "e2e_s": e2e_s(requests)}
    figures = {name: _figures(values) for name, values in found.items()}
    return time.process_time() - start, state, figures


def result(case: str, router: str | Router, repeats: int, folder: Path) -> dict[str, Any]:
    """The JSON object of a case."""
    first = facts("sim_speed")
    work, pool = standard_case(case, folder)
    timed(work, pool, router)  # loads or compiles the core
    runs = [timed(work, pool, router) for _ in range(repeats)]
    seconds = statistics.median(run[0] for run in runs)
    _, state, figures = runs[-1]
    iterations = int(state.engines["iteration"].sum())
    reference = REFERENCE[case]
    return {
        **first,
        "case": case,
        "router": router if isinstance(router, str) else router.name,
        "requests": len(work.rows),
        "iterations": iterations,
        "restarts": int(state.engines["preemptions"].sum()),
        "output_tokens": int(state.engines["output_tokens"].sum()),
        "busy": [round(float(b), 4) for b in state.engines["busy_s"] / outcome.span_s(state)],
        "peak_running": int(state.engines["peak_running"].max()),
        "loop_cpu_s": seconds,
        "loop_cpu_s_runs": [run[0] for run in runs],
        "process_cpu_s": time.process_time(),
        "requests_per_cpu_s": len(work.rows) / seconds,
        "iterations_per_cpu_s": iterations / seconds,
        **figures,
        "reference": reference,
        "deviation": _deviation(figures, iterations, reference),
        "times_faster_than_reference": reference["loop_cpu_s"] / seconds,
    }


def _figures(values: Any) -> tuple[float, float, float, float]:
    row = summarise(values)
    return row.mean, row.p50, row.p95, row.p99


def _deviation(figures: dict[str, Any], iterations: int, reference: dict[str, Any]) -> dict[str, Any]:
    ratios = {
        name: [round(a / b - 1, 4) for a, b in zip(row, reference[name], strict=True)] for name, row in figures.items()
    }
    return {**ratios, "iterations": round(iterations / reference["iterations"] - 1, 4)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one case and print its JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="S1")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--router", default="", help="a built-in router instead of the case's own")
    options = parser.parse_args(arguments)
    folder = data_folder()
    if folder is None:
        return show_skipped("sim_speed")
    own: str | Router = FewestQueued() if options.case == "S8" else "least-pending-tokens"
    show(result(options.case, options.router or own, options.repeats, folder))


if __name__ == "__main__":
    main()
