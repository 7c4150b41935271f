"""How much of the KV of recorded coding sessions is still there when it is wanted again, by idle TTL.

    python benchmarks/kv_ttl.py [--trace PATH]

The calls are simulated at their recorded times, each as long as recorded (the median where it is not), on a hosted API
with room for everything that forgets what was unused for longer than the TTL. ``block_hit_rate``: prompt blocks found
at lookup; ``prefill_amplification``: prompt tokens computed over those that a cache which never forgets computes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import data_folder, facts, show, show_skipped

from heterarch.errors import InputError
from heterarch.plan.document import EndpointPart, Pool
from heterarch.sim.drive import drive
from heterarch.sim.pools import pool_table
from heterarch.sim.reuse import reuse_of
from heterarch.sim.state import new_state
from heterarch.sim.tasks import Prefixes, TaskKind, Tasks, prefixes, tasks
from heterarch.workload.formats import table, weka
from heterarch.workload.prefix import prefix_tree

TTL_S = (10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0)
API = EndpointPart(
    provider="any", api_model="any", input_usd_per_mtok=0.0, cached_usd_per_mtok=0.0, output_usd_per_mtok=0.0,
    ttft_p50_s=0.0, ttft_p95_s=0.0, tpot_p50_s=0.0, price_date="", source="",
)  # fmt: skip


def recorded(path: Path) -> tuple[Tasks, Prefixes, int]:
    """The calls of a file of recorded sessions as tasks of their recorded length; how many took the median length.

    Raises:
        InputError: not such a file.
    """
    path = path / "requests.parquet" if path.is_dir() else path
    rows = table.load(path)
    calls = weka.read(path, rows)
    length_s = table.known_numbers(path, rows, "api_time")[calls.row - 1]
    unknown = ~np.isfinite(length_s)
    if unknown.all():
        raise InputError("no call has an api_time", observed=str(path))
    n = len(length_s)
    tree, leaf = prefix_tree(calls.parent, calls.shared_blocks, calls.n_blocks)
    columns = {
        "kind": np.full(n, TaskKind.GENERATE),
        "release_s": calls.time_s,
        "request": np.arange(n),
        "session": calls.session,
        "prompt_tokens": calls.prompt_tokens,
        "output_tokens": calls.output_tokens,
        "node": leaf,
        "prefill_pool": np.zeros(n),
        "decode_pool": np.zeros(n),
        "ttft_s": np.where(unknown, np.median(length_s[~unknown]), length_s),
    }
    return tasks(columns), prefixes(tree.parent, tree.blocks, calls.block_tokens), int(unknown.sum())


def reuse_with(ttl_s: float | None, work: Tasks, tree: Prefixes) -> dict[str, Any]:
    """Hit rate and amplification with an idle TTL, None for ever."""
    pool = Pool(name="api", role="endpoint", device="api", engines=1, endpoint=API, kv_ttl_s=ttl_s)
    state = new_state(pool_table([pool], None, tree.block_tokens), work, tree, False)
    drive(state, work, tree)
    clock = state.clock[0]
    return {
        "block_hit_rate": float(clock["hit_blocks"] / clock["asked_blocks"]),
        "prefill_amplification": reuse_of([pool], state, np.arange(1)).prefill_amplification,
    }


def result(path: Path) -> dict[str, Any]:
    """The JSON object."""
    first = facts("kv_ttl")
    work, tree, unknown = recorded(path)
    reuse_with(None, work, tree)  # loads or compiles the core
    start = time.process_time()
    curve = {f"{ttl_s:g}" if ttl_s else "infinite": reuse_with(ttl_s, work, tree) for ttl_s in (*TTL_S, None)}
    return {
        **first,
        "sessions": work.sessions,
        "calls": len(work.rows),
        "calls_of_median_length": unknown,
        "prompt_blocks": int(tree.runs["end"][work.rows["node"]].sum()),
        "block_tokens": tree.block_tokens,
        "loop_cpu_s": time.process_time() - start,
        "idle_ttl_s": curve,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the JSON object of a trace."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, help="folder or requests.parquet; default: the shared data")
    path = parser.parse_args(arguments).trace
    folder = data_folder()
    if path is None and folder is not None:
        path = folder / "traces" / "claude_code_weka"
    if path is None:
        return show_skipped("kv_ttl")
    show(result(path))


if __name__ == "__main__":
    main()
