"""The standard simulation cases: speed, memory, and how close the reference simulator's results are.

    python benchmarks/sim_speed.py --case S1 [--router builtin|python] [--repeats 5]

S1 (stable), S1x (out of KV memory) and S8 (eight engines) replay the Azure conversation trace of 2023 (file order,
prompts clipped to 4,096 tokens with their output) on Llama-2-7B, one A100-80GB per engine: 512 tokens per iteration,
512 sequences, 118,784 tokens of KV of which admission leaves 74 blocks free, chunked prefill, no prefix cache. The step
cost is the affine fit to Vidur's own batches, so that only the engine model differs. The router takes the engine with
the fewest queued requests, the lowest on a tie. 1M is generated: a million requests on 100 engines of four types.

Timed is CPU from inputs in memory to one record per request, figures per engine and summaries. The full engine with
the built-in router, with the same router in Python, and the plain loop of ``reference_loop.py`` run in turns.
``reference`` holds Vidur's figures (commit 7d47513), whose TPOT divides by output tokens - 2; so does ours here. A
speed counts where every gate is true. Without the real data the trace is generated and there are no gates.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from machine import data_folder, facts, show
from sim_cases import (
    CASES,
    RECORDED_PER_S,
    STEP,
    Case,
    Columns,
    calls,
    gates,
    generated,
    million,
    recorded,
    sha256,
    standard_pool,
)
from splitwise import s40

from heterarch.plan.document import Pool
from heterarch.policy.base import RouterView
from heterarch.report.aggregate import Records, e2e_s, summarise, ttft_s
from heterarch.sim import outcome
from heterarch.sim.drive import drive
from heterarch.sim.pools import pool_table
from heterarch.sim.state import State, new_state, settled
from heterarch.sim.tasks import Tasks, no_prefixes

BUILTIN = "least-queued"
ENGINE_TOTALS = ("iteration", "output_tokens", "peak_running", "preemptions")


class FewestQueued:
    """The built-in ``least-queued`` in Python, for engines that are all healthy."""

    name = "fewest-queued"

    def decide(self, view: RouterView) -> int:
        """The engine with the shortest queue, the lowest on a tie."""
        return int(view.queued.argmin())


class Run(NamedTuple):
    """What a run takes and gives."""

    cpu_s: float
    engines: dict[str, list[float]]  # per engine
    figures: dict[str, Any]  # mean, p50, p95, p99


def timed(work: Tasks, pools: Sequence[Pool], in_python: bool) -> Run:
    """One run with its records, figures of each engine and summaries."""
    start = time.process_time()
    state, rows, requests = _recorded_run(work, pools, in_python)
    span = outcome.span_s(state)
    capacity = state.pools["capacity"][state.engines["pool"]]
    engines = {
        "busy": (state.engines["busy_s"] / span).tolist(),
        "kv_used": (state.engines["kv_block_s"] / (capacity * span)).tolist(),
        **{name: state.engines[name].tolist() for name in ENGINE_TOTALS},
    }
    later = rows["output_tokens"] - 2
    tpot_ms = np.where(later > 0, 1e3 * (rows["finish_s"] - rows["first_token_s"]) / np.maximum(later, 1), np.nan)
    found = {"ttft_s": ttft_s(rows), "tpot_ms": tpot_ms, "e2e_s": e2e_s(requests)}
    figures = {name: _figures(values) for name, values in found.items()}
    seconds = time.process_time() - start
    return Run(seconds, engines, figures)


def _recorded_run(work: Tasks, pools: Sequence[Pool], in_python: bool) -> tuple[State, Records, Records]:
    """What is left of the state, records of calls and of requests."""
    tree = no_prefixes()
    state = new_state(pool_table(pools, None if in_python else BUILTIN, 16), work, tree, False, steady=True)
    drive(state, work, tree, router=FewestQueued() if in_python else None)
    state = settled(state)
    rows = outcome.call_records(state, work)
    return state, rows, outcome.request_records(state)


def peak_bytes(work: Tasks, pools: Sequence[Pool], in_python: bool) -> int:
    """Most bytes beside the input at any time of a run with its records, passing ones too; the core must be loaded."""
    tracemalloc.start()
    _recorded_run(work, pools, in_python)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def result(name: str, in_python: bool, repeats: int) -> dict[str, Any]:
    """The JSON object of a standard case."""
    case, folder = CASES[name], data_folder()
    columns = recorded(case, folder) if folder else generated(case.requests, case.speed * RECORDED_PER_S)
    work, pools = calls(columns), [standard_pool(case.engines)]
    sides: dict[str, Callable[[], Any]] = {
        "builtin": lambda: timed(work, pools, False),
        "python": lambda: timed(work, pools, True),
        "plain_loop": lambda: _plain(case, columns),
    }
    runs = _in_turns(sides, repeats)
    last: Run = runs["python" if in_python else "builtin"][-1]
    plain = runs["plain_loop"][-1]
    iterations, restarts = sum(last.engines["iteration"]), int(sum(last.engines["preemptions"]))
    speed = {
        side: sum(done[-1].engines["iteration"] if side != "plain_loop" else [plain[1]])
        / statistics.median(run[0] for run in done)
        for side, done in runs.items()
    }
    return {
        "case": name,
        "trace": "recorded" if folder else "generated: real data not found",
        "sha256": sha256(columns),
        "sha256_as_defined": sha256(columns) == case.sha256 if folder else None,
        "router": "python" if in_python else "builtin",
        "requests": len(work.rows),
        "iterations": iterations,
        "restarts": restarts,
        "engines": last.engines,
        **last.figures,
        "reference": {key: getattr(case, key) for key in ("ttft_s", "tpot_ms", "e2e_s", "iterations", "loop_cpu_s")},
        "deviation": _deviation(last.figures, iterations, case) if folder else None,
        "gates": gates(case, last.figures, int(iterations), restarts) if folder else None,
        "plain_loop": {"iterations": plain[1], "restarts": plain[2], "largest_difference_s": _apart(plain, last)},
        "cpu_s": {side: [run[0] for run in done] for side, done in runs.items()},
        "iterations_per_cpu_s": speed,
        "share_of_plain_loop": {side: speed[side] / speed["plain_loop"] for side in ("builtin", "python")},
        "times_faster_than_reference": (
            case.loop_cpu_s / statistics.median(run[0] for run in runs["builtin"]) if folder else None
        ),
        "bytes_per_request": peak_bytes(work, pools, in_python) / len(work.rows),
        "process": _processes(name, columns),
    }


def million_result(in_python: bool) -> dict[str, Any]:
    """The JSON object of the case 1M: one run."""
    timed(calls(generated(100, 1.0)), [standard_pool(1)], in_python)  # loads or compiles the core
    work, pools = million()
    run = timed(work, pools, in_python)
    iterations, peak_mb = sum(run.engines["iteration"]), _peak_mb()
    return {
        "case": "1M",
        "router": "python" if in_python else "builtin",
        "requests": len(work.rows),
        "iterations": iterations,
        "restarts": int(sum(run.engines["preemptions"])),
        "engines": {"busy": run.engines["busy"]},
        **run.figures,
        "cpu_s": {"python" if in_python else "builtin": [run.cpu_s]},
        "iterations_per_cpu_s": {"python" if in_python else "builtin": iterations / run.cpu_s},
        "bytes_per_request": peak_bytes(work, pools, in_python) / len(work.rows),
        "process": {"peak_rss_mb": peak_mb},
    }


def _in_turns(sides: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[Any]]:
    for side in sides.values():
        side()  # loads or compiles
    runs: dict[str, list[Any]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            runs[name].append(side())
    return runs


def _plain(case: Case, columns: Columns) -> tuple[float, int, int, Any]:
    """CPU seconds, iterations, restarts, TTFT and e2e of the plain loop."""
    from reference_loop import Engines, reference_run

    cost = (STEP.fixed_s, STEP.token_s, STEP.sequence_s, STEP.context_s, STEP.pair_s)
    engines = Engines(case.engines, 512, 512, 7424, 16, 74, *cost)
    start = time.process_time()
    first, finish, iterations, restarts = reference_run(engines, *columns.values())
    seconds = time.process_time() - start
    found = {"ttft_s": first - columns["arrival_s"], "e2e_s": finish - columns["arrival_s"]}
    return seconds, iterations, restarts, found


def _apart(plain: Any, run: Run) -> dict[str, float]:
    """How far the summaries of the plain loop are from those of the engine, at most."""
    figures = {name: _figures(values) for name, values in plain[3].items()}
    return {name: max(abs(a - b) for a, b in zip(row, run.figures[name], strict=True)) for name, row in figures.items()}


def _processes(name: str, columns: Columns) -> dict[str, float]:
    """One case in a process of its own, inputs on disk: with nothing compiled, and with everything compiled."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.npz"
        np.savez(path, arrival_s=columns["arrival_s"], prompt=columns["prompt"], output=columns["output"])
        command = [sys.executable, __file__, "--case", name, "--alone", str(path)]
        variables = {**os.environ, "NUMBA_CACHE_DIR": folder}
        cold, warm = (
            json.loads(subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout)
            for _ in range(2)
        )
    return {"first_cpu_s": cold["cpu_s"], "cpu_s": warm["cpu_s"], "peak_rss_mb": warm["peak_rss_mb"]}


def _alone(name: str, path: str) -> dict[str, float]:
    with np.load(path) as saved:
        timed(calls(saved), [standard_pool(CASES[name].engines)], False)
    return {"cpu_s": time.process_time(), "peak_rss_mb": _peak_mb()}


def _peak_mb() -> float:
    """Of this program alone; what getrusage says on Linux includes the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024


def _figures(values: Any) -> tuple[float, float, float, float]:
    row = summarise(values)
    return row.mean, row.p50, row.p95, row.p99


def _deviation(figures: dict[str, Any], iterations: float, case: Case) -> dict[str, Any]:
    ratios = {
        name: [round(a / b - 1, 4) for a, b in zip(row, getattr(case, name), strict=True)]
        for name, row in figures.items()
    }
    return {**ratios, "iterations": round(iterations / case.iterations - 1, 4)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one case and print its JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[*CASES, "S40", "1M"], default="S1")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--router", choices=("builtin", "python"), default="builtin", help="whose results are shown")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    in_python = options.router == "python"
    if options.alone:
        return show(_alone(options.case, options.alone))
    first = facts("sim_speed")
    if options.case == "S40":
        return show({**first, **s40(in_python, options.repeats, data_folder())})
    found = million_result(in_python) if options.case == "1M" else result(options.case, in_python, options.repeats)
    show({**first, **found})


if __name__ == "__main__":
    main()
