"""Spot nodes: how many engines of a pool there are, from recorded availability."""

from __future__ import annotations

from typing import Any

from heterarch.errors import InputError
from heterarch.sim.faults import Spot

COLUMNS = ("collection", "zone", "nodes", "gap_s", "tick", "available")


def engine_levels(spot: Spot, engines: int) -> list[tuple[float, int]]:
    """When the pool has how many of its ``engines``: (seconds, engines) at the first tick and at each change.

    Raises:
        InputError: no tick, a count below zero or above ``nodes``, or a trace that the file does not have.
    """
    if spot.file:
        spot = read_spot(spot)
    available = spot.available[spot.first_tick :]
    nodes = spot.nodes or max(available, default=0)
    if not available or min(available) < 0 or max(available) > nodes:
        raise InputError(
            f"the spot nodes of pool {spot.pool} are wrong",
            observed=f"{len(available)} ticks of {nodes} nodes",
            expected="at least one tick, each of 0 to `nodes` nodes",
        )
    levels = [engines * here // nodes if nodes else 0 for here in available]
    changes = [k for k in range(len(levels)) if k == 0 or levels[k] != levels[k - 1]]
    return [(spot.at_s + k * spot.gap_s, levels[k]) for k in changes]


def read_spot(spot: Spot) -> Spot:
    """``spot`` with the ticks of its parquet file.

    Raises:
        InputError: no such file, no such columns, or not exactly one trace of that collection and zone.
    """
    import pyarrow.compute as pc

    table = _table(spot.file)
    for name in ("collection", "zone"):
        if getattr(spot, name):
            table = table.filter(pc.equal(pc.cast(table[name], "string"), getattr(spot, name)))
    traces = _traces(table)
    if len(traces) != 1:
        raise InputError(
            "the file of spot nodes must be told which trace is meant",
            observed=f"collection {spot.collection or 'any'}, zone {spot.zone or 'any'}: {len(traces)} traces",
            expected="; ".join(_traces(_table(spot.file))),
            where=spot.file,
        )
    table = table.sort_by("tick")
    told = {"available": table["available"].to_pylist(), "file": ""}
    told |= {"nodes": table["nodes"][0].as_py(), "gap_s": float(table["gap_s"][0].as_py())}
    return spot.model_copy(update=told)


def _traces(table: Any) -> list[str]:
    found = table.group_by(["collection", "zone"]).aggregate([]).to_pylist()
    return sorted(f"{row['collection']} {row['zone']}" for row in found)


def _table(file: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file, columns=list(COLUMNS))
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError("cannot read spot nodes", observed=str(error), where=file) from None
    missing = sorted(set(COLUMNS) - set(table.column_names))
    if missing:
        raise InputError("columns are missing", observed=", ".join(missing), expected=", ".join(COLUMNS), where=file)
    return table
