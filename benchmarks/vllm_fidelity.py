"""How close simulated runs of whole engines are to real runs of vLLM.

    python benchmarks/vllm_fidelity.py [--data DIR]

DIR holds ``vllm_runs/DEVICE__MODEL.csv``, one row per request with its arrival and lengths and, where the run's outcome
is known, its TTFT, TPOT and latency; and ``vllm_runs_summary.csv`` with the engine's settings. Every run is replayed

* **cold**: step costs from the shipped calibration; nothing of any run was fitted. Files do not say what joins the
  devices of an engine of several: it is taken to have the machine for itself, and machines of two cards to have no PCIe
  switch, without which NCCL sends messages through host memory. ``cold_with_peers``: the same engine behind a switch.
* **self-calibrated**: five constants of the step cost fitted to the outcome of the first 100 requests; the score is
  over the others.

Errors are shares, simulated / measured - 1.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import data_folder, facts, show, show_skipped
from numpy.typing import NDArray

from heterarch.catalog.catalog import Catalog
from heterarch.cost.config import EngineConfig
from heterarch.cost.engine import step_cost
from heterarch.cost.memory import kv_capacity_tokens
from heterarch.cost.step import StepCost
from heterarch.plan.document import Pool, StepPart
from heterarch.report.aggregate import summarise
from heterarch.sim.drive import drive
from heterarch.sim.pools import pool_table
from heterarch.sim.state import new_state
from heterarch.sim.tasks import ENGINE_BLOCK_TOKENS, Prefixes, TaskKind, Tasks, prefixes, tasks

Floats = NDArray[np.float64]
Latencies = dict[str, Floats]  # ttft_s, tpot_s, e2e_s: [requests]
Scores = dict[str, dict[str, float]]
SEEN = 100  # requests that the self-calibration knows
HEADROOM = 0.0  # share of KV that admission leaves free: none in vLLM's V1 scheduler, whose watermark defaults to 0
#: cards of a machine up to which each hangs from a CPU, without a PCIe switch; NCCL goes from peer to peer below a
#: switch only, and by default not across a CPU's host bridge (its NCCL_P2P_LEVEL)
WITHOUT_SWITCH = 2
#: (latency, figure): most absolute error
BARS: dict[str, dict[tuple[str, str], float]] = {
    "cold": {
        ("tpot_s", "mean"): 0.05, ("tpot_s", "median_ape"): 0.06, ("e2e_s", "mean"): 0.05, ("e2e_s", "p95"): 0.07,
        ("e2e_s", "median_ape"): 0.06, ("e2e_s", "ks"): 0.15, ("ttft_s", "mean"): 0.10,
    },
    "floor": {
        ("tpot_s", "mean"): 0.10, ("tpot_s", "median_ape"): 0.12, ("e2e_s", "mean"): 0.10, ("e2e_s", "p95"): 0.12,
        ("e2e_s", "median_ape"): 0.12, ("e2e_s", "ks"): 0.30, ("ttft_s", "mean"): 0.25,
    },
    "self_calibrated": {
        ("tpot_s", "mean"): 0.03, ("tpot_s", "median_ape"): 0.03, ("e2e_s", "mean"): 0.02, ("e2e_s", "p95"): 0.025,
        ("e2e_s", "median_ape"): 0.02, ("e2e_s", "ks"): 0.15, ("ttft_s", "mean"): 0.03,
    },
}  # fmt: skip
MOE_TTFT = 0.15  # bar of the mean TTFT of mixture-of-experts models, cold
DEFAULTS = {"tensor_parallel_size": "1", "max_num_seqs": "128", "max_num_batched_tokens": "2048"}


@dataclass(frozen=True)
class Run:
    """A recorded run: its engine, its requests, and their latencies where they are known."""

    name: str
    config: EngineConfig
    seats: int
    budget: int
    kv_tokens: int
    work: Tasks
    observed: Latencies | None

    def pool(self, cost: StepCost) -> Pool:
        """The engine with a step cost."""
        return Pool(
            name="vllm", role="mixed", device=self.config.device.id, engines=1, concurrency=self.seats,
            max_batched_tokens=self.budget, kv_tokens=self.kv_tokens, kv_headroom=HEADROOM, step=StepPart.of(cost),
        )  # fmt: skip


def read_runs(folder: Path) -> list[Run]:
    """The runs of a folder."""
    summary = folder / "vllm_runs_summary.csv"
    settings = {row["run"]: row for row in _rows(summary)} if summary.is_file() else {}
    catalog = Catalog.load()
    return [_run(path, settings.get(path.stem, {}), catalog) for path in sorted((folder / "vllm_runs").glob("*.csv"))]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _run(path: Path, known: Mapping[str, str], catalog: Catalog) -> Run:
    device, _, model = path.stem.partition("__")
    given = {**DEFAULTS, **{name: value for name, value in known.items() if value}}
    config = EngineConfig(
        catalog.find_device(given.get("hardware", device)),
        catalog.find_model(given.get("model", model)),
        tp=int(given["tensor_parallel_size"]),
        engine="vllm",
        peers=int(given["tensor_parallel_size"]) > WITHOUT_SWITCH,
    )
    rows = _rows(path)
    budget = int(given["max_num_batched_tokens"])
    kv = int(float(given.get("kv_tokens", 0))) or kv_capacity_tokens(config, batched_tokens=budget)
    return Run(path.stem, config, int(given["max_num_seqs"]), budget, kv, _work(rows), _observed(rows))


def _column(rows: Sequence[Mapping[str, str]], name: str) -> Floats:
    return np.array([float(row.get(name) or math.nan) for row in rows])


def _work(rows: Sequence[Mapping[str, str]]) -> Tasks:
    n = len(rows)
    columns = {
        "kind": np.full(n, TaskKind.GENERATE), "release_s": _column(rows, "rel_arrival_s"), "request": np.arange(n),
        "session": np.arange(n), "prompt_tokens": _column(rows, "input_toks"),
        "output_tokens": _column(rows, "output_toks"), "prefill_pool": np.zeros(n), "decode_pool": np.zeros(n),
        "node": np.arange(n),
    }  # fmt: skip
    return tasks(columns)


def _observed(rows: Sequence[Mapping[str, str]]) -> Latencies | None:
    names = {"ttft_s": "ttft_ms", "tpot_s": "tpot_ms", "e2e_s": "latency_ms"}
    found = {name: _column(rows, column) / 1e3 for name, column in names.items()}
    return found if all(np.isfinite(values).all() for values in found.values()) else None


def replay(run: Run, cost: StepCost) -> Latencies:
    """The simulated latencies of every request."""
    tree = _prompts(run.work)
    state = new_state(pool_table([run.pool(cost)], "least-pending-tokens", tree.block_tokens), run.work, tree, False)
    drive(state, run.work, tree)
    first, finish, arrival = state.sequences["first_s"], state.sequences["finish_s"], run.work.rows["release_s"]
    tokens = np.maximum(run.work.rows["output_tokens"] - 1, 1)
    return {"ttft_s": first - arrival, "tpot_s": (finish - first) / tokens, "e2e_s": finish - arrival}


def _prompts(work: Tasks) -> Prefixes:
    """Every prompt by itself: prefix caching, which vLLM has on, serves a request that is evicted and starts again."""
    blocks = (work.rows["prompt_tokens"] // ENGINE_BLOCK_TOKENS).astype(np.int32)
    return prefixes(np.full(len(blocks), -1, np.int32), blocks, ENGINE_BLOCK_TOKENS)


def score(simulated: Latencies, observed: Latencies, rows: slice) -> Scores:
    """Relative errors of mean and percentiles, median absolute error per request, Kolmogorov-Smirnov distance."""
    found = {}
    for name, measured in observed.items():
        a, b = simulated[name][rows], measured[rows]
        ours, theirs = summarise(a), summarise(b)
        errors = {
            figure: getattr(ours, figure) / getattr(theirs, figure) - 1 for figure in ("mean", "p50", "p95", "p99")
        }
        errors |= {"median_ape": float(np.median(np.abs(a / b - 1))), "ks": _ks(a, b)}
        found[name] = {figure: round(error, 4) for figure, error in errors.items()}
    return found


def _ks(a: Floats, b: Floats) -> float:
    points = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(values), points, side="right") / len(values) for values in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


def missed(scores: Scores, setting: str, moe: bool) -> list[str]:
    """The figures above their bar."""
    bars = BARS[setting] | ({("ttft_s", "mean"): MOE_TTFT} if moe and setting == "cold" else {})
    return [f"{name} {figure}" for (name, figure), bar in bars.items() if abs(scores[name][figure]) > bar]


def adjusted(cost: StepCost, constants: Floats) -> StepCost:
    """A step with five constants: seconds more per iteration and per sequence; factors of the linear layers, of
    attention, and of decode attention beside a prompt.
    """
    overhead_s, sequence_s, linear, attention, beside = constants
    return StepCost(
        cost.fixed_s + overhead_s, linear * cost.token_s, linear * cost.bends_s, attention * cost.pair_s,
        attention * cost.context_s, cost.sequence_s + sequence_s, beside * cost.mixed_s,
    )  # fmt: skip


def self_calibrated(run: Run, cost: StepCost, observed: Latencies) -> Floats:
    """The constants of :func:`adjusted` whose run is nearest to the first requests."""
    from scipy.optimize import minimize

    units, seen = np.array([1e-3, 1e-5, 0.1, 0.1, 0.1]), slice(0, SEEN)

    def constants(x: Floats) -> Floats:
        return np.asarray(np.array([0.0, 0.0, 1.0, 1.0, 1.0]) + units * x)

    def loss(x: Floats) -> float:
        found = replay(run, adjusted(cost, constants(x)))
        scale = {
            "ttft_s": observed["e2e_s"][seen].mean(),
            "tpot_s": observed["tpot_s"][seen],
            "e2e_s": observed["e2e_s"][seen],
        }
        parts = [np.abs(found[name][seen] - observed[name][seen]) / scale[name] for name in observed]
        return float(np.mean(parts)) + 1e-4 * float(x @ x)

    found = minimize(loss, np.zeros(5), method="Powell", options={"xtol": 1e-2, "ftol": 1e-4, "maxfev": 600})
    return constants(found.x)


def result(run: Run) -> dict[str, Any]:
    """What a run gives."""
    cost = step_cost(run.config)
    cold = replay(run, cost)
    found: dict[str, Any] = {
        "device": run.config.device.id, "model": run.config.model.id, "tp": run.config.tp, "kv_tokens": run.kv_tokens,
        "requests": len(run.work.rows),
        "simulated": {name: summarise(values).model_dump(exclude={"n", "p90"}) for name, values in cold.items()},
        "cold": None, "cold_with_peers": None, "self_calibrated": None,
    }  # fmt: skip
    if run.observed is None:
        return found
    everything, moe = slice(None), run.config.model.experts > 0
    found["cold"] = _verdict(score(cold, run.observed, everything), ("cold", "floor"), moe)
    if run.config.tp > 1 and run.config.staged:
        peers = replay(run, step_cost(replace(run.config, peers=True)))
        found["cold_with_peers"] = _verdict(score(peers, run.observed, everything), ("cold", "floor"), moe)
    constants = self_calibrated(run, cost, run.observed)
    own = replay(run, adjusted(cost, constants))
    found["self_calibrated"] = _verdict(score(own, run.observed, slice(SEEN, None)), ("self_calibrated",), moe)
    found["self_calibrated"]["constants"] = [float(f"{value:.4g}") for value in constants]
    return found


def _verdict(scores: Scores, settings: Sequence[str], moe: bool) -> dict[str, Any]:
    return {**scores, "missed": {setting: missed(scores, setting, moe) for setting in settings}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Replay every run and print the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the runs (default: HETERARCH_DATA/measured)")
    options = parser.parse_args(arguments)
    shared = data_folder()
    folder = options.data or (shared / "measured" if shared else None)
    if folder is None or not (folder / "vllm_runs").is_dir():
        return show_skipped("vllm_fidelity")
    first = facts("vllm_fidelity")
    show({**first, "runs": {run.name: result(run) for run in read_runs(folder)}})


if __name__ == "__main__":
    main()
