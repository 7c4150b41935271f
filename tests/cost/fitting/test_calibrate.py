"""From measured kernels to a calibration: what is fitted, what is refused, and what the document says of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.document import load_calibration
from heterarch.cost.fitting.calibrate import CalibrationResult, calibrate, rates
from heterarch.cost.kernels.base import Law
from heterarch.cost.library import Library
from heterarch.cost.measured.measurements import read_kernels
from heterarch.errors import InputError

from ..kernel_files import LAW, Row, gemm_rows, write

SLOWER = Law(compute=0.3, memory=0.4, overhead_s=8e-6, sharpness=3.0)


def fitted(catalog: Catalog, *files: Path, prior: Library | None = None) -> CalibrationResult:
    tables = [table for file in files for table in read_kernels(file, catalog)]
    return calibrate(tables, catalog.devices, prior=prior, name="own", date="2026-11-23")


def seconds(library: Library, catalog: Catalog, m: float, n: float, k: float, device: str = "h100-sxm") -> float:
    kernel = library.kernel("gemm", catalog.device(device), "bf16", "vllm")
    return float(kernel.seconds({"m": m, "n": n, "k": k})[0])


def exact(catalog: Catalog, law: Law, m: float, n: float, k: float) -> float:
    from heterarch.cost.kernels.gemm import GEMM

    device = catalog.device("h100-sxm")
    return float(
        law.seconds(GEMM.work({"m": m, "n": n, "k": k}, "bf16"), device.peak("bf16"), device.mem_bytes_per_s)[0]
    )


@pytest.fixture
def rows(catalog: Catalog) -> list[Row]:
    return gemm_rows(catalog.device("h100-sxm"), ms=8)


def test_a_fit_predicts_shapes_it_has_not_seen(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    path = write(tmp_path / "a.csv", rows)
    done = fitted(catalog, path)
    (outcome,) = done.outcomes
    assert outcome.used
    assert (outcome.rows, outcome.prior) == (360, None)
    assert outcome.held_out is not None
    assert outcome.held_out < 0.03
    library = Library([done.calibration], catalog.devices)
    assert seconds(library, catalog, 700, 4096, 4096) == pytest.approx(exact(catalog, LAW, 700, 4096, 4096), rel=0.05)


def test_the_document_says_where_it_comes_from(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    path = write(tmp_path / "a.csv", rows)
    done = fitted(catalog, path)
    done.calibration.save(tmp_path / "calibration.json")
    read = load_calibration(tmp_path / "calibration.json")
    assert read == done.calibration
    (file,) = read.files
    assert (file.file, file.rows) == ("a.csv", 360)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    (fit,) = read.fits
    assert (fit.device, fit.dtype, fit.engine, fit.engine_version) == ("h100-sxm", "bf16", "vllm", "1.0")
    assert fit.domain["log2 m"] == (0.0, pytest.approx(13.0, abs=0.01))
    assert fit.held_out.rows == 360


def test_the_same_files_give_the_same_document(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    path = write(tmp_path / "a.csv", rows)
    assert fitted(catalog, path).calibration == fitted(catalog, path).calibration


def test_few_new_rows_move_a_fit_only_near_them(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    """Twenty rows of small m that are twice as slow: the fit follows them there and stays elsewhere."""
    before = Library([fitted(catalog, write(tmp_path / "a.csv", rows)).calibration], catalog.devices)
    small = [row | {"latency_ms": float(str(row["latency_ms"])) * 2} for row in rows if int(str(row["m"])) <= 4][:24]
    done = fitted(catalog, write(tmp_path / "b.csv", small), prior=before)
    (outcome,) = done.outcomes
    assert outcome.used
    assert outcome.prior == pytest.approx(0.5, abs=0.03)
    assert outcome.held_out is not None
    assert outcome.held_out < 0.25
    after = Library([done.calibration, *before.calibrations], catalog.devices)
    near, far = (2, 256, 2048), (8192, 8192, 8192)
    assert seconds(after, catalog, *near) == pytest.approx(2 * seconds(before, catalog, *near), rel=0.2)
    assert seconds(after, catalog, *far) == pytest.approx(seconds(before, catalog, *far), rel=0.02)
    assert done.calibration.families["gemm"] == before.calibrations[0].families["gemm"]


def test_a_fit_that_is_worse_on_held_out_rows_is_refused(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    path = write(tmp_path / "a.csv", rows)
    before = Library([fitted(catalog, path).calibration], catalog.devices)
    noise = np.random.default_rng(3).normal(0, 0.5, 40)
    noisy = [
        row | {"latency_ms": float(str(row["latency_ms"])) * float(np.exp(e))}
        for row, e in zip(rows[::9], noise, strict=True)
    ]
    done = fitted(catalog, write(tmp_path / "b.csv", noisy), prior=before)
    (outcome,) = done.outcomes
    assert not outcome.used
    assert done.calibration.fits == []
    assert outcome.held_out is not None
    assert outcome.prior is not None
    assert (
        outcome.why
        == f"held-out error {outcome.held_out:.1%} is not below the prior's {outcome.prior:.1%}: the prior stays"
    )


def test_a_new_device_is_fitted_from_its_own_rows(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    before = Library([fitted(catalog, write(tmp_path / "a.csv", rows)).calibration], catalog.devices)
    other = gemm_rows(catalog.device("b200"), SLOWER)
    done = fitted(catalog, write(tmp_path / "b.csv", other), prior=before)
    (outcome,) = done.outcomes
    assert (outcome.device, outcome.used) == ("b200", True)
    assert done.calibration.fits[0].compute == pytest.approx(SLOWER.compute, rel=0.1)


def test_too_few_rows_keep_the_prior(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    done = fitted(
        catalog, write(tmp_path / "a.csv", rows), write(tmp_path / "b.csv", gemm_rows(catalog.device("b200"))[:5])
    )
    assert [outcome.used for outcome in done.outcomes] == [True, False]
    assert done.outcomes[1].why == "5 usable rows are too few for a fit (at least 12): the prior stays"


def test_rows_of_several_files_are_pooled(tmp_path: Path, rows: list[Row], catalog: Catalog) -> None:
    done = fitted(catalog, write(tmp_path / "a.csv", rows[::2]), write(tmp_path / "b.csv", rows[1::2]))
    (outcome,) = done.outcomes
    assert outcome.rows == 360
    assert [file.rows for file in done.calibration.files] == [180, 180]


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"hardware": "zx-9"}, "unknown device 'zx-9'"),
        ({"hardware": "h100-smx"}, "did you mean h100-sxm"),
        ({"dtype": "fp6"}, "unknown kernel format 'fp6'"),
        ({"latency_ms": "nan"}, "no row of gemm on h100-sxm in bf16 (vllm) is usable"),
    ],
)
def test_a_table_that_cannot_be_used_is_reported_beside_the_others(
    tmp_path: Path, rows: list[Row], catalog: Catalog, cells: Row, says: str
) -> None:
    bad = write(tmp_path / "bad.csv", rows, lambda *_: cells)
    done = fitted(catalog, write(tmp_path / "a.csv", gemm_rows(catalog.device("b200"))), bad)
    assert sorted(outcome.used for outcome in done.outcomes) == [False, True]
    assert says in next(outcome.why for outcome in done.outcomes if not outcome.used)
    with pytest.raises(InputError) as caught:
        fitted(catalog, bad)
    assert says in str(caught.value)


def test_rates_of_the_data_sheet(catalog: Catalog) -> None:
    h100 = catalog.device("h100-sxm")
    assert rates("gemm", h100, "fp8") == (1979e12, 3350e9)
    assert rates("all_reduce", h100, "bf16")[1] == 450e9
    assert rates("all_reduce", catalog.device("l40s"), "bf16")[1] == catalog.device("l40s").host_bytes_per_s
    with pytest.raises(InputError, match="no peak is known at which"):
        rates("gemm", catalog.device("jetson-thor-t5000"), "bf16")
    with pytest.raises(InputError, match="unknown kernel format 'fp6'"):
        rates("gemm", h100, "fp6")


def test_leaving_shape_groups_out_of_the_shared_gemms(shared_data: Path, catalog: Catalog) -> None:
    """The bar of GEMMs on seen devices is 10 % on shapes that were not measured."""
    tables = read_kernels(shared_data / "measured" / "op_gemm.parquet", catalog)
    chosen = [table for table in tables if table.key[1:3] == ("h100-sxm", "bf16")]
    done = calibrate(chosen, catalog.devices, prior=None, name="x", date="2026-11-23")
    assert done.outcomes[0].held_out is not None
    assert done.outcomes[0].held_out < 0.10
