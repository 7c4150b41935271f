"""Tables of arrivals and lengths: the Azure and Vidur CSV forms, and parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heterarch.errors import TraceError, Where
from heterarch.workload.formats.base import Calls, open_calls, refuse, require_calls, require_columns

if TYPE_CHECKING:
    import pyarrow as pa

#: column names of each form: arrival, prompt tokens, output tokens
FORMS = {
    "an Azure CSV": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "a Vidur CSV": ("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    "a table of calls": ("arrival_s", "prompt_tokens", "output_tokens"),
}


def load(path: Path) -> pa.Table:
    """The table in a CSV or parquet file, as it stands.

    Raises:
        TraceError: the file is not what its suffix says.
    """
    import pyarrow as pa  # only where there is a table to read
    import pyarrow.csv
    import pyarrow.parquet

    try:
        return pa.csv.read_csv(path) if path.suffix == ".csv" else pa.parquet.read_table(path)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        form = "CSV" if path.suffix == ".csv" else "parquet"
        raise TraceError(f"cannot read the file as {form}: {error}", where=Where(str(path))) from None


def read(path: Path, table: pa.Table, arrivals: NDArray[np.float64] | None) -> Calls:
    """Independent calls; ``arrivals`` [n], seconds, stand in for recorded ones.

    Raises:
        TraceError: a column is missing, a value is missing or not a number, or there are no arrivals.
    """
    form = form_of(table.column_names)
    time, prompt, output = FORMS[form]
    require_columns(path, (prompt, output), table.column_names, form)
    if arrivals is None and time not in table.column_names:
        raise TraceError(
            f"the trace records lengths but no arrivals (column {time})",
            where=Where(str(path)),
            observed=", ".join(table.column_names),
            fix="give the arrival rate: read_trace(path, rate_per_s=...)",
        )
    require_calls(path, table.num_rows)
    first = 2 if path.suffix == ".csv" else 1  # the header is line 1 of a CSV
    row = np.arange(first, first + table.num_rows)
    time_s = seconds(path, table, time, row) if arrivals is None else arrivals
    return open_calls(row, time_s, whole_numbers(path, table, prompt, row), whole_numbers(path, table, output, row))


def form_of(columns: list[str]) -> str:
    """The form that shares most column names with the table; a plain table of calls where none does."""
    return max(reversed(FORMS), key=lambda form: len(set(FORMS[form]) & set(columns)))


def numbers(path: Path, table: pa.Table, column: str, row: NDArray[np.int64]) -> NDArray[np.float64]:
    """A numeric column without gaps, as float64.

    Raises:
        TraceError: the column is not numeric, or a row has no value.
    """
    array = known_numbers(path, table, column)
    refuse(path, row, np.isnan(array), f"column {column} has no value", array)
    return array


def known_numbers(path: Path, table: pa.Table, column: str) -> NDArray[np.float64]:
    """A numeric column as float64, NaN where a row has no value.

    Raises:
        TraceError: the column is not numeric.
    """
    import pyarrow as pa

    values = table[column]
    if not (_numeric(values.type) or pa.types.is_null(values.type)):
        raise TraceError(f"column {column} must be numbers", observed=str(values.type), where=Where(str(path)))
    array: NDArray[np.float64] = values.cast(pa.float64()).to_numpy()
    return array


def whole_numbers(path: Path, table: pa.Table, column: str, row: NDArray[np.int64]) -> NDArray[np.int64]:
    """As :func:`numbers`, of a count, as int64.

    Raises:
        TraceError: also where a value is not whole.
    """
    values = numbers(path, table, column, row)
    whole = (values == np.rint(values)) & (np.abs(values) <= 2**53)
    refuse(path, row, ~whole, f"column {column} must be whole numbers", values)
    return values.astype(np.int64)


def seconds(path: Path, table: pa.Table, column: str, row: NDArray[np.int64]) -> NDArray[np.float64]:
    """A column of seconds, or of timestamps counted from the first of them, as float64.

    Raises:
        TraceError: a row has no value or is neither.
    """
    values = table[column]
    if _numeric(values.type):
        return numbers(path, table, column, row)
    stamps = _timestamps(path, values, column)
    refuse(path, row, np.isnat(stamps), f"column {column} has no value", stamps.astype(str))
    return (stamps - stamps[0]) / np.timedelta64(1, "s") if len(stamps) else np.zeros(0)


def _timestamps(path: Path, values: Any, column: str) -> NDArray[np.datetime64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = pc.replace_substring_regex(values, r"(Z|\+00:00)$", "")
    try:
        return np.asarray(values.to_numpy(zero_copy_only=False), "datetime64[ns]")
    except (ValueError, TypeError) as error:
        raise TraceError(f"column {column} must be seconds or timestamps: {error}", where=Where(str(path))) from None


def _numeric(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
