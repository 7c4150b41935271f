"""Records of a run as a parquet file, for tools of the reader's choice."""

from __future__ import annotations

import os
from pathlib import Path

from heterarch.errors import InputError
from heterarch.report.aggregate import Records


def write_parquet(records: Records, path: Path | str) -> None:
    """Write a structured array, one column per field; the file appears whole or not at all.

    Raises:
        InputError: the folder is absent or may not be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = Path(path)
    partial = target.with_name(f".{target.name}.partial")
    table = pa.table({name: records[name] for name in records.dtype.names or ()})
    try:
        pq.write_table(table, partial)
        os.replace(partial, target)
    except OSError as error:
        raise InputError("cannot write the file", observed=error.strerror, where=str(path)) from None
    finally:
        partial.unlink(missing_ok=True)
