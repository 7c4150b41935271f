"""Files of measured kernels: how they are recognised, and every way in which they can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.fitting.calibrate import rates
from heterarch.cost.kernels.families import FAMILIES
from heterarch.cost.measured.columns import read_columns
from heterarch.cost.measured.measurements import Defaults, KernelTable, read_kernels
from heterarch.cost.measured.screening import Screened, screen
from heterarch.errors import InputError

from ..kernel_files import Row, gemm_rows, write


@pytest.fixture
def rows(catalog: Catalog) -> list[Row]:
    return gemm_rows(catalog.device("h100-sxm"))


def read_one(path: Path, catalog: Catalog) -> KernelTable:
    (table,) = read_kernels(path, catalog)
    return table


def screened(path: Path, catalog: Catalog) -> Screened:
    table = read_one(path, catalog)
    return screen(table, FAMILIES[table.family], *rates(table.family, catalog.device(table.device), table.dtype))


def test_a_csv_of_gemms(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    table = read_one(write(tmp_path / "a.csv", rows), catalog)
    assert table.key == ("gemm", "h100-sxm", "bf16", "vllm")
    assert table.engine_version == "1.0"
    assert len(table) == len(rows) == 45
    assert table.shapes["m"][0] == 1
    assert table.seconds[0] == pytest.approx(float(str(rows[0]["latency_ms"])) / 1e3)
    assert table.rows[0] == 2  # the line below the header
    assert len(set(table.groups)) == 9  # (n, k)


def test_parquet_is_read_as_csv_is(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    table, other = read_one(tmp_path / "a.parquet", catalog), read_one(write(tmp_path / "a.csv", rows), catalog)
    assert np.array_equal(table.seconds, other.seconds)
    assert table.groups == other.groups


@pytest.mark.parametrize(("column", "scale"), [("latency_s", 1e-3), ("latency_us", 1e3), ("time_us", 1e3)])
def test_the_unit_is_in_the_name(tmp_path: Path, rows: list[Row], catalog: Catalog, column: str, scale: float) -> None:
    plain = read_one(write(tmp_path / "ms.csv", rows), catalog)
    renamed = [{column if name == "latency_ms" else name: value for name, value in row.items()} for row in rows]
    other = write(tmp_path / "b.csv", renamed, lambda _, row: {column: float(str(row[column])) * scale})
    assert read_one(other, catalog).seconds == pytest.approx(plain.seconds)


def test_one_table_for_each_device_format_and_engine(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    path = write(tmp_path / "a.csv", rows, lambda i, _: {"dtype": ("fp8", "bfloat16")[i % 2]} if i < 20 else {})
    assert [(t.dtype, len(t)) for t in read_kernels(path, catalog)] == [("bf16", 35), ("fp8", 10)]


def test_the_device_may_be_given(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    bare = [{name: value for name, value in row.items() if name not in ("hardware", "framework")} for row in rows]
    path = write(tmp_path / "a.csv", bare)
    (table,) = read_kernels(path, catalog, Defaults(device="b200", engine="sglang"))
    assert (table.device, table.engine) == ("b200", "sglang")
    with pytest.raises(InputError, match="nearest is gemm, without hardware") as caught:
        read_kernels(path, catalog)
    assert "--device names the hardware" in str(caught.value)


def test_collectives_by_name_and_library(tmp_path: Path, catalog: Catalog) -> None:
    path = tmp_path / "c.csv"
    path.write_text(
        "hardware,library_version,kernel_source,op_name,dtype,num_gpus,message_bytes,latency_ms\n"
        "h100-sxm,2,NCCL,alltoall,half,8,1024,0.02\n"
        "h100-sxm,1,vLLM_custom_graph,all_reduce,bfloat16,4,1024,0.01\n"
    )
    found = [(t.family, t.dtype, t.engine, t.engine_version, len(t)) for t in read_kernels(path, catalog)]
    assert found == [("all_reduce", "bf16", "vllm-custom-graph", "1", 1), ("all_to_all", "bf16", "nccl", "2", 1)]


def test_collectives_between_machines_are_left_out(tmp_path: Path, catalog: Catalog) -> None:
    path = tmp_path / "c.csv"
    path.write_text(
        "node,collective,num_workers,devices_per_node,message_bytes,latency_ms\n"
        "h100-sxm,all_reduce,8,8,2048,0.03\nh100-sxm,all_reduce,16,8,2048,0.09\n"
    )
    table = read_one(path, catalog)
    assert table.rows.tolist() == [2]


def test_unknown_names_stay_as_they_are(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    path = write(tmp_path / "a.csv", rows, lambda *_: {"hardware": "zx-9", "dtype": "fp6"})
    table = read_one(path, catalog)
    assert (table.device, table.dtype) == ("zx-9", "fp6")


def test_a_folder_is_read_whole(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    write(tmp_path / "a.csv", rows)
    write(tmp_path / "b.csv", rows)
    (tmp_path / "notes.csv").write_text("day,what\n1,rain\n")
    assert len(read_kernels(tmp_path, catalog)) == 2
    (tmp_path / "a.csv").unlink()
    (tmp_path / "b.csv").unlink()
    with pytest.raises(InputError, match="the folder holds no file of measured kernels"):
        read_kernels(tmp_path, catalog)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file holds no rows"),
        ("m,n,k\n", "the file holds no rows"),
        ("hardware,dtype,m,n,latency_ms\nh100-sxm,bf16,1,2,3\n", "nearest is gemm, without k"),
        ("day,what\n1,rain\n", "the columns are those of no kind of measurement"),
        ("hardware,dtype,m,n,k\nh100-sxm,bf16,1,2,3\n", "the file has no column of times"),
        ("hardware,dtype,m,n,k,latency\nh100-sxm,bf16,1,2,3,4\n", "name the unit in the column's name"),
        ("hardware,dtype,m,n,k,latency_ms\nh100-sxm,bf16,1,2,3,4\nh100-sxm,bf16,1,2,3,fast\n", "a.csv:3: column 'latency_ms' holds no number\n  observed: 'fast'"),
        ("hardware,dtype,m,n,k,latency_ms\nh100-sxm,bf16,1,2,3\n", "a.csv:2: a row has not as many cells as the header\n  observed: 5 cells\n  expected: 6"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(tmp_path: Path, catalog: Catalog, text: str, says: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_kernels(path, catalog)
    assert says in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(InputError, match="cannot read the parquet file"):
        read_columns(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"not a measurement file\n  observed: .xlsx"):
        read_columns(tmp_path / "a.xlsx")
    with pytest.raises(InputError, match="cannot read the file"):
        read_columns(tmp_path / "absent.csv")
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n[2]\n')
    with pytest.raises(InputError, match="2: a line is no JSON object"):
        read_columns(tmp_path / "a.jsonl")


def test_good_rows_pass_untouched(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    kept = screened(write(tmp_path / "a.csv", rows), catalog)
    assert (len(kept.table), kept.notes) == (45, [])


def test_seconds_in_a_column_of_milliseconds(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    path = write(tmp_path / "a.csv", rows, lambda _, row: {"latency_ms": float(str(row["latency_ms"])) / 1e3})
    with pytest.raises(InputError) as caught:
        screened(path, catalog)
    assert "looks in a larger unit than its column says (seconds in a column of milliseconds)" in str(caught.value)
    assert "x below the roofline of the data sheet" in str(caught.value)


def test_microseconds_in_a_column_of_milliseconds(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    path = write(tmp_path / "a.csv", rows, lambda _, row: {"latency_ms": float(str(row["latency_ms"])) * 1e3})
    with pytest.raises(InputError, match=r"smaller unit than its column says \(microseconds"):
        screened(path, catalog)


@pytest.mark.parametrize("value", ["nan", "", "0", "-0.5", "inf"])
def test_impossible_times_are_left_out_and_named(tmp_path: Path, rows: list[Row], catalog: Catalog, value: str) -> None:
    kept = screened(write(tmp_path / "a.csv", rows, lambda i, _: {"latency_ms": value} if i == 3 else {}), catalog)
    assert len(kept.table) == 44
    assert "left out 1 of 45 rows, each of which is not a time above 0 with sizes above 0: row 5" in kept.notes[0]


def test_no_usable_row(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    with pytest.raises(InputError, match="no row of gemm on h100-sxm in bf16"):
        screened(write(tmp_path / "a.csv", rows, lambda *_: {"latency_ms": "nan"}), catalog)


def test_repeats_are_merged_to_their_median(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    slower = [row | {"latency_ms": float(str(row["latency_ms"])) * factor} for row in rows for factor in (1, 1.1, 1.3)]
    kept = screened(write(tmp_path / "a.csv", slower), catalog)
    alone = read_one(write(tmp_path / "b.csv", rows), catalog)
    assert sorted(kept.table.seconds) == pytest.approx(sorted(alone.seconds * 1.1))
    assert kept.notes == [
        f"{tmp_path / 'a.csv'}: merged 90 rows that repeat a shape of gemm on h100-sxm in bf16 (vllm)"
    ]


def test_contradictions_are_counted(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    twice = [*rows, *(row | {"latency_ms": float(str(row["latency_ms"])) * 2} for row in rows[:4])]
    kept = screened(write(tmp_path / "a.csv", twice), catalog)
    assert len(kept.table) == 45
    assert (
        "4 shapes of gemm on h100-sxm in bf16 (vllm) were measured with times that differ by more than 1.5x (up to 2x"
        in kept.notes[1]
    )


def test_rates_above_the_peak(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    def sparse(share: int) -> Path:
        def fast(i: int, row: Row) -> Row:
            flops = 2.0 * int(str(row["m"])) * int(str(row["n"])) * int(str(row["k"]))
            return {"latency_ms": flops / 1500e12 * 1e3} if i % share == share - 1 and flops > 1e9 else {}

        return write(tmp_path / f"{share}.csv", rows, fast)

    kept = screened(sparse(9), catalog)
    assert "each of which computes faster than the peak of 9.89e+14 FLOP/s" in kept.notes[0]
    with pytest.raises(
        InputError, match=r"of the rows of gemm on h100-sxm in bf16 \(vllm\) beat the device's peak"
    ) as caught:
        screened(sparse(2), catalog)
    assert "up to 1.5e+15 FLOP/s, 1.52x the peak" in str(caught.value)
    assert "dense, not sparse" in str(caught.value)


def test_one_slow_row_is_an_outlier(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    path = write(
        tmp_path / "a.csv", rows, lambda i, row: {"latency_ms": float(str(row["latency_ms"])) * 1e3} if i == 44 else {}
    )
    kept = screened(path, catalog)
    assert len(kept.table) == 44
    assert "is more than 200x slower than the others: another unit?" in kept.notes[0]


def test_the_shared_measurements_are_all_read(shared_data: Path, catalog: Catalog) -> None:
    tables = read_kernels(shared_data / "measured" / "op_gemm.parquet", catalog)
    assert sum(map(len, tables)) == 130_325
    assert {table.device for table in tables} <= {*catalog.devices}
    table = next(t for t in tables if t.key == ("gemm", "h100-sxm", "fp8-block", "vllm"))
    kept = screen(table, FAMILIES["gemm"], *rates("gemm", catalog.device("h100-sxm"), "fp8-block"))
    assert len(kept.table) == len(table)
    assert kept.notes == []
