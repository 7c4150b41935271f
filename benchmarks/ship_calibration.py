"""Fits the calibration that comes with the package to the folder of measured kernels; prints one JSON object.

As it stands only the collectives are fitted and nothing is written; ``--out`` fits every family, which takes minutes.
Where several files measured one kernel family on one device in one format, the first of FILES is fitted alone:
measurements of two harnesses differ by more than either's noise. The correction of whole engines rests on predictions
with the shipped kernels, so it is fitted in a second run, with --correction.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine

from heterarch.catalog.catalog import Catalog
from heterarch.cost.document import Calibration, MeasurementFile, shipped
from heterarch.cost.fitting.calibrate import LINKED, CalibrationResult, calibrate
from heterarch.cost.fitting.correction import fit_correction
from heterarch.cost.measured.measurements import KernelTable, read_kernels
from heterarch.cost.measured.served import predict, read_served

NAME = "ship_calibration"
SERVED = "e2e_inferencex.csv"
OUT = Path(__file__).parents[1] / "src" / "heterarch" / "cost" / "data" / "calibration.json"
FILES = (
    "op_gemm.parquet",
    "op_attention_prefill.parquet",
    "op_attention_decode.parquet",
    "op_moe.parquet",
    "op_collective.parquet",
    "layer_ops_vidur.parquet",
    "collective_vidur.csv",
    "op_llmservingsim.parquet",
)


def chosen(files: Iterable[list[KernelTable]]) -> Iterator[KernelTable]:
    """The tables of each file whose family, device and format no earlier file has."""
    seen: set[tuple[str, str, str]] = set()
    for tables in files:
        new = [table for table in tables if table.key[:3] not in seen]
        seen |= {table.key[:3] for table in new}
        yield from new


def shown(result: CalibrationResult) -> dict[str, Any]:
    """Figures of the fits: how many numbers they hold, and how each does on shapes that were held out."""
    return {
        "numbers_per_fit": max(len(fit.weights) + 4 for fit in result.calibration.fits),
        "fits": {
            f"{fit.family} {fit.device} {fit.dtype} {fit.engine}": {
                "rows": fit.rows,
                "held_out_mean_ape": fit.held_out,
                "refused": fit.why,
            }
            for fit in result.outcomes
        },
        "notes": result.notes,
    }


def with_correction(file: Path, catalog: Catalog) -> Calibration:
    """The shipped calibration with a correction fitted to the served points of ``file``."""
    points, _ = read_served(file, catalog)
    found = fit_correction(points, [predict(point) for point in points])
    kept = [part for part in shipped().files if part.file != file.name]
    own = MeasurementFile(file=file.name, sha256=hashlib.sha256(file.read_bytes()).hexdigest(), rows=len(points))
    return shipped().model_copy(update={"correction": found, "files": [*kept, own]})


def figures(document: Calibration) -> dict[str, float]:
    """How well the correction does on configurations that were held out."""
    part = document.correction
    assert part is not None
    return {"rows": part.rows, "tpot_held_out_median": part.tpot_error, "ttft_held_out_median": part.ttft_error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of measured kernels (default: HETERARCH_DATA/measured)")
    parser.add_argument("--out", type=Path, help="fit every family and write the calibration here")
    parser.add_argument("--date", default=datetime.now(UTC).date().isoformat(), help="of the document")
    parser.add_argument("--correction", action="store_true", help="fit the correction of whole engines instead")
    options = parser.parse_args()
    shared = machine.data_folder()
    folder = options.data or (shared / "measured" if shared else None)
    if folder is None or not (folder / FILES[0]).is_file():
        machine.show_skipped(NAME)
        return
    found = machine.facts(NAME)
    catalog, started = Catalog.load(), time.perf_counter()
    if options.correction:
        document = with_correction(folder / SERVED, catalog)
        document.save(options.out or OUT)
        machine.show(found | {"seconds": time.perf_counter() - started, "correction": figures(document)})
        return
    tables = chosen(read_kernels(folder / file, catalog) for file in FILES if (folder / file).is_file())
    result = calibrate(
        [table for table in tables if options.out or table.family in LINKED],
        catalog.devices,
        prior=None,
        name="shipped",
        date=options.date,
        progress=lambda done, total, what: print(f"{done}/{total} {what}", file=sys.stderr),
    )
    if options.out:
        result.calibration.save(options.out)
    size = len(result.calibration.model_dump_json(exclude_defaults=True))
    machine.show(found | {"seconds": time.perf_counter() - started, "bytes": size} | shown(result))


if __name__ == "__main__":
    main()
