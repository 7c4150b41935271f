"""The pools of a run over time, as rows, as a part of the report and as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from heterarch.documents import write_text
from heterarch.report.aggregate import Records
from heterarch.report.records import Labels, write_parquet
from heterarch.report.schema import PoolSeries, Series

#: one row per sample and pool, by time; see :class:`heterarch.report.schema.PoolSeries`
SAMPLE = np.dtype(
    [
        ("time_s", np.float64),
        ("pool", np.int32),
        ("queued", np.int64),
        ("running", np.int64),
        ("kv_share", np.float64),
        ("cached_share", np.float64),
        ("busy_share", np.float64),
        ("usd", np.float64),
    ]
)
_SHARES = ("kv_share", "cached_share", "busy_share")


def series_of(samples: Records, pools: Sequence[str]) -> Series:
    """The :data:`SAMPLE` rows for a report, shares to four decimals, USD and seconds to six."""
    parts = []
    for row, name in enumerate(pools):
        mine = samples[samples["pool"] == row]
        counts = {column: mine[column].tolist() for column in ("queued", "running")}
        shares = {column: np.round(mine[column], 4).tolist() for column in _SHARES}
        parts.append(PoolSeries(name=name, **counts, **shares, usd=np.round(mine["usd"], 6).tolist()))
    return Series(time_s=np.round(np.unique(samples["time_s"]), 6).tolist(), pools=parts)


def write_series(samples: Records, path: Path | str, labels: Labels, facts: Mapping[str, object]) -> None:
    """Write :data:`SAMPLE` rows as CSV where the name ends in .csv, else as parquet with ``facts`` as metadata.

    Raises:
        InputError: the folder is absent or may not be written, or the disk is full.
    """
    if Path(path).suffix.lower() != ".csv":
        write_parquet(samples, path, labels, facts)
        return
    names = samples.dtype.names or ()
    lines = [",".join(names)]
    for row in samples.tolist():
        cells = dict(zip(names, row, strict=True)) | {"pool": labels.pools[row[1]]}
        lines.append(",".join(str(cell) for cell in cells.values()))
    write_text(path, "\n".join(lines) + "\n")
