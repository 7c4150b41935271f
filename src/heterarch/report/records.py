"""Records of a run as parquet files, for tools of the reader's choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heterarch.documents import replacing
from heterarch.report.aggregate import Records, Status


@dataclass(frozen=True)
class Labels:
    """What the numbers in records stand for: pools, ops and reasons by row."""

    pools: Sequence[str]
    ops: Sequence[str] = ()
    reasons: Sequence[str] = ()

    def column(self, records: Records, name: str) -> Any:
        """A column as an Arrow array: pools, ops, engines (POOL/ROW), reasons, status by name, others as they are."""
        codes = records[name]
        if name in ("engine", "decode_engine"):
            return self._engines(records["decode_pool" if name == "decode_engine" else "pool"], codes)
        pools = {"pool": self.pools, "decode_pool": self.pools, "op": self.ops, "reason": self.reasons}
        names = {**pools, "status": [status.name.lower() for status in Status]}.get(name)
        return codes if names is None else _named(codes, names)

    def _engines(self, pools: NDArray[np.int32], engines: NDArray[np.int32]) -> Any:
        pairs, codes = np.unique(np.stack([pools, engines], axis=1), axis=0, return_inverse=True)
        names = [f"{self.pools[pool]}/{engine}" if engine >= 0 else "" for pool, engine in pairs.tolist()]
        return _named(np.where(engines < 0, -1, codes.reshape(-1)), names)


def write_parquet(
    records: Records, path: Path | str, labels: Labels | None = None, facts: Mapping[str, object] | None = None
) -> None:
    """Write a structured array, one column per field; the file appears whole or not at all.

    Args:
        records: [n] rows.
        path: of the file.
        labels: names for pools, ops, engines, reasons and status; without them their numbers are written.
        facts: of the run, for the file's metadata, under ``heterarch.NAME``.

    Raises:
        InputError: the folder is absent or may not be written, or the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = records.dtype.names or ()
    table = pa.table({name: labels.column(records, name) if labels else records[name] for name in names})
    table = table.replace_schema_metadata({f"heterarch.{name}": str(value) for name, value in (facts or {}).items()})
    with replacing(path) as stream:
        pq.write_table(table, stream)


def _named(codes: NDArray[Any], names: Sequence[str]) -> Any:
    import pyarrow as pa

    known = pa.array(np.maximum(codes, 0).astype(np.int32), mask=codes < 0)
    return pa.DictionaryArray.from_arrays(known, pa.array(list(names), pa.string()))
