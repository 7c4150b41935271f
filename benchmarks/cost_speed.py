"""How fast the cost model prices configurations x batches x lengths, per second of CPU; prints one JSON object."""

from __future__ import annotations

import argparse
import time

import machine
import numpy as np

from heterarch.catalog.catalog import Catalog
from heterarch.cost.engine import decode_s, engine_configs, engine_table, prefill_s, step_cost
from heterarch.cost.library import default_library

DEVICES = ("a100-80-sxm", "h100-sxm", "h200-sxm", "b200", "b300", "l40s", "mi300x", "gaudi3")
MODELS = ("Meta-Llama-3.1-8B", "Meta-Llama-3.1-70B", "Qwen3-30B-A3B", "gpt-oss-120b")
BATCHES = np.unique(np.geomspace(1, 1024, 40).round())
LENGTHS = np.unique(np.geomspace(64, 131072, 60).round())


def table_points_per_s(points: int) -> dict[str, float]:
    """One call from configurations to seconds: kernels, closed forms and the grid; and the grid alone."""
    catalog = Catalog.load()
    configs = list(engine_configs([catalog.device(d) for d in DEVICES], [catalog.model(m) for m in MODELS]))
    step_cost.cache_clear()
    started = time.process_time()
    table = engine_table(configs)
    made = time.process_time() - started
    batch, length = (grid.ravel()[None, :] for grid in np.meshgrid(BATCHES, LENGTHS))
    columns = table.columns()
    started = time.process_time()
    priced = 0
    while priced < points:
        decode_s(columns, batch, length)
        prefill_s(columns, length, 0)
        priced += 2 * len(table) * batch.size
    grid = time.process_time() - started
    once = 2 * len(table) * batch.size
    return {
        "configurations": len(table),
        "points_of_one_call": once,
        "cpu_s_of_the_closed_forms": made,
        "points_per_s_and_core": once / (made + once * grid / priced),
        "points_per_s_and_core_of_known_configurations": priced / grid,
        "cpu_s_per_configuration": made / len(configs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=2_000_000, help="points to price at least")
    options = parser.parse_args()
    found = machine.facts("cost_speed")
    default_library()
    machine.show({**found, **table_points_per_s(options.points)})


if __name__ == "__main__":
    main()
