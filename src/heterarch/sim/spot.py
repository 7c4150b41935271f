"""Spot nodes: how many engines of a pool there are, from recorded availability."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
    rows = _rows(spot.file)
    mine = [row for row in rows if spot.collection in ("", row[0]) and spot.zone in ("", row[1])]
    traces = sorted({(row[0], row[1]) for row in mine})
    if len(traces) != 1:
        names = sorted({(row[0], row[1]) for row in rows})
        raise InputError(
            "the file of spot nodes must be told which trace is meant",
            observed=f"collection {spot.collection or 'any'}, zone {spot.zone or 'any'}: {len(traces)} traces",
            expected="; ".join(f"{collection} {zone}" for collection, zone in names),
            where=spot.file,
        )
    mine.sort(key=lambda row: row[4])
    told = {"available": [row[5] for row in mine], "nodes": mine[0][2], "gap_s": float(mine[0][3]), "file": ""}
    return spot.model_copy(update=told)


def _rows(file: str) -> Sequence[tuple[str, str, int, float, int, int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(Path(file), columns=list(COLUMNS))
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            "cannot read spot nodes", observed=str(error), expected=", ".join(COLUMNS), where=file
        ) from None
    if table.num_columns < len(COLUMNS):
        raise InputError("columns are missing", observed=", ".join(table.column_names), expected=", ".join(COLUMNS),
                         where=file)  # fmt: skip
    return list(zip(*(table.column(name).to_pylist() for name in COLUMNS), strict=True))
