"""Dense matrix multiplications: what they move, and how well fits predict shapes that were left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.cost.fitting.fit import Measurements, Table, fit_family, shared_basis
from heterarch.cost.kernels.base import Floats
from heterarch.cost.kernels.formats import FORMATS
from heterarch.cost.kernels.gemm import AXES, GEMM
from heterarch.cost.measured.measurements import read_kernels
from heterarch.cost.residual import Basis, residual


def test_work_of_16_bits() -> None:
    work = GEMM.work({"m": 16, "n": 4096, "k": 1024}, "bf16")
    assert work.flops[0] == 2 * 16 * 4096 * 1024
    assert work.bytes[0] == 2 * (16 * 1024 + 1024 * 4096 + 16 * 4096)


def test_narrow_activations_are_quantised_first() -> None:
    work = GEMM.work({"m": 16, "n": 4096, "k": 1024}, "fp8")
    assert work.bytes[0] == (2 + 1 + 1) * 16 * 1024 + 1024 * 4096 + 2 * 16 * 4096


def test_weights_alone_may_be_narrow() -> None:
    work = GEMM.work({"m": 16, "n": 4096, "k": 1024}, "int4")
    assert work.bytes[0] == 2 * 16 * 1024 + 0.53125 * 1024 * 4096 + 2 * 16 * 4096


@pytest.mark.parametrize(
    ("m", "n", "k", "expected"),
    [
        (256, 512, 1024, {"ragged m": 0, "waste m 64": 0, "waste m 256": 0, "waste n 256": 0, "ragged n, k": 0}),
        (257, 512, 1024, {"ragged m": 1, "waste m 64": 320 / 257 - 1, "waste m 256": 512 / 257 - 1}),
        (4, 64, 1024, {"ragged m": 0, "waste m 64": 1, "ragged n, k": 1}),
        (128, 4096, 6144, {"k of 3": 1, "ragged n, k": 0}),
        (128, 6144, 4096, {"k of 3": 0}),
        (128, 4096, 96, {"ragged n, k": 1, "waste m 256": 1, "waste n 256": 0}),
    ],
)
def test_tiles(m: int, n: int, k: int, expected: dict[str, float]) -> None:
    at = dict(zip(AXES, GEMM.work({"m": m, "n": n, "k": k}, "bf16").at[0], strict=True))
    assert at["log2 m"] == np.log2(m)
    assert {name: at[name] for name in expected} == pytest.approx(expected)


@pytest.fixture(scope="module")
def tables(shared_data: Path) -> dict[tuple[str, str], Table]:
    catalog = Catalog.load()
    found = {}
    for table in read_kernels(shared_data / "measured" / "op_gemm.parquet", catalog):
        device = catalog.devices[table.device]
        data = Measurements(table.shapes, table.seconds, table.groups)
        rates = device.peak(FORMATS[table.dtype].compute), device.mem_bytes_per_s
        found[table.device, table.dtype] = Table(table.dtype, data, *rates)
    return found


def chosen(tables: dict[tuple[str, str], Table], *keys: tuple[str, str]) -> Basis:
    return shared_basis(GEMM, [tables[key] for key in keys])


def predicted(table: Table, law_of: Table, basis: Basis) -> tuple[Floats, Floats]:
    """(seconds, those of the law alone) of ``table``, by a fit to ``law_of``."""
    fit = fit_family(
        GEMM, law_of.dtype, law_of.data, device="d", engine="vllm", engine_version="", peak=law_of.peak,
        bandwidth=law_of.bandwidth, basis=basis,
    )  # fmt: skip
    work = GEMM.work(table.data.shapes, table.dtype)
    law_s = fit.law.seconds(work, table.peak, table.bandwidth)
    return law_s * np.exp(residual(basis.values(work.at), np.array(fit.weights))), law_s


def mean_error(predicted_s: Floats, table: Table) -> float:
    return float(np.abs(predicted_s / table.data.seconds - 1).mean())


def left_out(table: Table, share: int = 4) -> tuple[Table, Table]:
    """(rows of three in four weight shapes, the other rows)."""
    names = sorted({str(group) for group in table.data.groups})
    order = {name: number for number, name in enumerate(np.random.default_rng(3).permutation(names))}
    out = np.array([order[str(group)] % share == 0 for group in table.data.groups])
    return _part(table, ~out), _part(table, out)


def _part(table: Table, rows: Floats) -> Table:
    shapes = {name: np.asarray(column)[rows] for name, column in table.data.shapes.items()}
    groups = [group for group, chosen in zip(table.data.groups, rows, strict=True) if chosen]
    return table._replace(data=Measurements(shapes, table.data.seconds[rows], groups))


@pytest.mark.parametrize("key", [("h100-sxm", "bf16"), ("h100-sxm", "fp8-block"), ("b200", "fp4")])
def test_weight_shapes_that_were_left_out_are_within_10_percent(
    tables: dict[tuple[str, str], Table], key: tuple[str, str]
) -> None:
    seen, unseen = left_out(tables[key])
    basis = shared_basis(GEMM, [seen])
    assert mean_error(predicted(unseen, seen, basis)[0], unseen) < 0.10


def test_a_chip_of_the_same_architecture_is_within_15_percent(tables: dict[tuple[str, str], Table]) -> None:
    donor, target = tables["b200", "bf16"], tables["gb200-nvl72", "bf16"]
    seconds, law_s = predicted(target, donor, chosen(tables, ("b200", "bf16")))
    assert mean_error(seconds, target) < 0.15
    assert mean_error(seconds, target) < mean_error(law_s, target)
