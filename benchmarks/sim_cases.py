"""The standard simulation cases: requests, engines, and what the reference simulator found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heterarch.plan.document import Pool, StepPart
from heterarch.sim.tasks import TaskKind, Tasks, tasks

Columns = Mapping[str, NDArray[Any]]
STEP = StepPart(fixed_s=9.958e-3, token_s=5.059e-5, sequence_s=-5.170e-5, context_s=3.335e-7, pair_s=2.417e-9)
LONGEST = 4096  # tokens of prompt and output together


class Case(NamedTuple):
    """A case under Vidur: mean, p50, p95, p99 of TTFT s, TPOT ms and e2e s, and the CPU seconds of its loop.

    ``within`` is the share by which the percentiles may differ, None where they are chaotic and only shown.
    """

    requests: int
    speed: float  # of the recorded arrivals
    engines: int
    sha256: str  # first 16 digits, of the int32 rows (prompt, output)
    ttft_s: tuple[float, ...]
    tpot_ms: tuple[float, ...]
    e2e_s: tuple[float, ...]
    iterations: int
    restarts: int  # at most
    within: float | None
    loop_cpu_s: float


CASES = {
    "S1": Case(
        4096, 2 / 3, 1, "85605deb759015a2", (0.193, 0.136, 0.509, 0.734), (25.24, 24.48, 37.69, 42.61),
        (6.540, 5.225, 14.653, 17.973), 55_326, 0, 0.05, 13.78,
    ),
    "S1x": Case(
        4096, 1.0, 1, "85605deb759015a2", (19.894, 19.712, 44.394, 47.210), (62.69, 67.61, 70.72, 71.77),
        (35.671, 35.120, 67.743, 73.830), 16_953, 5, None, 7.54,
    ),
    "S8": Case(
        8192, 16 / 3, 8, "2c5a1b9cf3fd6a0c", (0.310, 0.246, 0.787, 1.057), (50.08, 58.04, 69.06, 70.83),
        (12.171, 7.620, 29.105, 38.128), 77_000, 5, 0.08, 27.08,
    ),
}  # fmt: skip
_PARTS = ("fixed_s", "token_s", "sequence_s", "context_s", "pair_s")
ITERATIONS_WITHIN = 0.03
RECORDED_PER_S = 4.923  # requests of the recorded trace
MILLION = 1_000_000
SPEEDS = (1.0, 1.7, 2.6, 0.6)  # of the four device types of the case 1M, relative to the standard engine
ENGINES_EACH = 25
LOAD = 2.4  # requests per second and standard engine in the case 1M


def recorded(case: Case, folder: Path) -> Columns:
    """arrival_s, prompt and output [n] of the recorded conversation trace, cut to the longest as Vidur does."""
    import pyarrow.parquet as pq  # only where there is a file to read

    rows = pq.read_table(folder / "traces" / "azure_llm_2023" / "conv.parquet").slice(0, case.requests)
    arrival = rows["arrival_s"].to_numpy()
    return _cut(np.round((arrival - arrival[0]) / case.speed, 6), rows["prompt_tokens"], rows["output_tokens"])


def generated(requests: int, per_s: float, seed: int = 1) -> Columns:
    """Requests of the same shape as the recorded ones: Poisson arrivals, log-normal lengths."""
    rng = np.random.default_rng(seed)
    prompt = np.maximum(1, rng.lognormal(6.6, 1.0, requests)).astype(np.int64)
    output = np.maximum(2, rng.lognormal(5.2, 0.8, requests)).astype(np.int64)
    return _cut(np.cumsum(rng.exponential(1 / per_s, requests)), prompt, output)


def sha256(columns: Columns) -> str:
    """The first 16 digits of the hash of the little-endian int32 rows (prompt, output)."""
    rows = np.stack([columns["prompt"], columns["output"]], axis=1).astype("<i4")
    return hashlib.sha256(rows.tobytes()).hexdigest()[:16]


def calls(columns: Columns, pool: NDArray[np.int64] | int = 0) -> Tasks:
    """Each row as one LLM call, a request of its own, on ``pool``."""
    n = len(columns["prompt"])
    table = {
        "kind": np.full(n, TaskKind.GENERATE),
        "release_s": columns["arrival_s"],
        "request": np.arange(n),
        "session": np.arange(n),
        "prompt_tokens": columns["prompt"],
        "output_tokens": columns["output"],
        "prefill_pool": np.full(n, pool),
        "decode_pool": np.full(n, pool),
    }
    return tasks(table)


def standard_pool(engines: int, name: str = "llama-2-7b", faster: float = 1.0) -> Pool:
    """Llama-2-7B on A100-80GB engines: 512 tokens and sequences per iteration, 7,424 KV blocks of 16 tokens."""
    step = STEP.model_copy(update={part: getattr(STEP, part) / faster for part in _PARTS})
    return Pool(
        name=name, role="mixed", device="A100-80GB", engines=engines, concurrency=512, max_batched_tokens=512,
        kv_tokens=118_784, kv_bytes_per_token=524_288, step=step,
    )  # fmt: skip


def million() -> tuple[Tasks, list[Pool]]:
    """One million generated requests on 100 engines of four device types, each type in proportion to its speed."""
    share = np.array(SPEEDS) / sum(SPEEDS)
    columns = generated(MILLION, LOAD * ENGINES_EACH * sum(SPEEDS))
    pool = np.random.default_rng(2).choice(len(SPEEDS), MILLION, p=share)
    pools = [standard_pool(ENGINES_EACH, f"type-{row}", speed) for row, speed in enumerate(SPEEDS)]
    return calls(columns, pool), pools


def gates(case: Case, found: Mapping[str, Any], iterations: int, restarts: int) -> dict[str, bool | None]:
    """Whether the results are those of the reference closely enough for a speed to count; None: shown, not judged."""
    judged: dict[str, bool | None] = {
        "iterations": abs(iterations / case.iterations - 1) <= ITERATIONS_WITHIN,
        "restarts": restarts <= case.restarts,
    }
    for name in ("ttft_s", "tpot_ms", "e2e_s"):
        off = max(abs(a / b - 1) for a, b in zip(found[name], getattr(case, name), strict=True))
        judged[name] = None if case.within is None else off <= case.within
    return judged


def _cut(arrival_s: NDArray[np.float64], prompt: Any, output: Any) -> Columns:
    made = np.minimum(np.asarray(output), LONGEST - 1)
    cut = np.minimum(np.asarray(prompt), LONGEST - made)
    return {"arrival_s": arrival_s, "prompt": cut.astype(np.int32), "output": made.astype(np.int32)}
