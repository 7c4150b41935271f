"""How close the calibrated kernel times are to measured ones, per family, device and format, as one JSON object.

    python benchmarks/op_accuracy.py [--data FOLDER or FILE] [--calibration FILE] [--leave-device-out]

Measured files are recognised by their columns, as `heterarch calibrate` does. Errors are |predicted / measured - 1|.
Files and rows that cannot be read or predicted count as unanswered.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heterarch.catalog.catalog import Catalog
from heterarch.cost.document import Calibration, load_calibration, shipped
from heterarch.cost.fitting.calibrate import LINKED, rates
from heterarch.cost.library import Library
from heterarch.cost.measured.columns import SUFFIXES, read_columns
from heterarch.cost.measured.measurements import KernelTable, kernel_tables
from heterarch.cost.measured.screening import usable
from heterarch.errors import HeterarchError, InputError, UnknownNameError

Floats = NDArray[np.float64]


class Scored(NamedTuple):
    """A table with its predictions: absolute relative errors [rows], the relation of the fit, and its source."""

    table: KernelTable
    errors: Floats
    covered: float
    relation: str
    source: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict every measured kernel and print one JSON object."""
    from machine import data_folder, facts, show, show_skipped  # beside this script

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="measured kernels, default HETERARCH_DATA/measured")
    parser.add_argument("--calibration", type=Path, help="calibration document, default the shipped one")
    parser.add_argument("--leave-device-out", action="store_true", help="predict each device without its own fits")
    chosen = parser.parse_args(arguments)
    folder = data_folder()
    data = chosen.data or (folder / "measured" if folder else None)
    if data is None:
        return show_skipped("op_accuracy")
    first = facts("op_accuracy")
    calibration = load_calibration(chosen.calibration) if chosen.calibration else shipped()
    show({**first, **accuracy(data, calibration, chosen.leave_device_out)})


def accuracy(data: Path, calibration: Calibration, leave_device_out: bool = False) -> dict[str, Any]:
    """Everything that is printed after the facts of the machine."""
    catalog = Catalog.load()
    libraries = {
        device: Library([_without(calibration, device) if leave_device_out else calibration], catalog.devices)
        for device in catalog.devices
    }
    unanswered: Counter[str] = Counter()
    tables = [table for file in files_of(data) for table in tables_of(file, catalog, unanswered)]
    unknown = sorted({table.device for table in tables if table.device not in catalog.devices})
    scored: list[Scored] = []
    refused: dict[str, str] = {}
    for table in tables:
        if table.device not in catalog.devices:
            unanswered[f"{table.file}: unknown device {table.device!r}"] += len(table)
            continue
        try:
            scored.append(score(table, libraries[table.device], catalog))
        except HeterarchError as error:
            refused[table.name] = str(error)
            unanswered[f"{table.file}: {error.what}"] += len(table)
    answered = sum(len(one.errors) for one in scored)
    fitted = {file.sha256 for file in calibration.files}
    return {
        "calibration": calibration.name,
        "device_left_out": leave_device_out,
        "fitted_files_sha256_match": {file.name: _sha256(file) in fitted for file in _files(tables)},
        "families": _by_family(scored),
        "totals": _totals(scored),
        "answered": round(answered / max(answered + unanswered.total(), 1), 4),
        "unanswered": dict(unanswered),
        "unknown_devices": unknown,
        "refused": refused,
    }


def files_of(data: Path) -> list[Path]:
    """The file itself, or the files of a folder that may hold measurements."""
    return sorted(file for file in data.iterdir() if file.suffix in SUFFIXES) if data.is_dir() else [data]


def tables_of(file: Path, catalog: Catalog, unanswered: Counter[str]) -> list[KernelTable]:
    """The measured kernels of a file; adds what cannot be read to ``unanswered``, with its rows."""
    rows = 0
    try:
        columns = read_columns(file)
        while True:
            rows = len(columns)
            try:
                return kernel_tables(columns, catalog, required=False)
            except UnknownNameError as error:
                known = [name != error.name for name in columns.texts("model")]
                if all(known):
                    raise
                unanswered[f"{file}: {error.what}"] += known.count(False)
                columns = columns.part(known)
    except HeterarchError as error:
        unanswered[str(error).splitlines()[0] if error.where else f"{file}: {error.what}"] += rows
        return []


def _without(calibration: Calibration, device: str) -> Calibration:
    return calibration.model_copy(update={"fits": [fit for fit in calibration.fits if fit.device != device]})


def score(table: KernelTable, library: Library, catalog: Catalog) -> Scored:
    """Predict the rows of a table, without those that hold no time."""
    device = catalog.devices[table.device]
    link = rates(table.family, device, table.dtype)[1] if table.family in LINKED else 0.0
    kernel = library.kernel(table.family, device, table.dtype, table.engine, link)
    valid = usable(table)
    if not valid.any():
        raise InputError("no row has a time and sizes above 0")
    shapes = {name: column[valid] for name, column in table.shapes.items()}
    found, measured_s = kernel.estimate(shapes), table.seconds[valid]
    log_error = np.abs(np.log(measured_s / found.seconds))
    covered = float((log_error <= found.sigma).mean())
    return Scored(table, np.abs(found.seconds / measured_s - 1), covered, kernel.relation, kernel.source.citation)


def _by_family(scored: Iterable[Scored]) -> dict[str, Any]:
    families: dict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for one in scored:
        table = one.table
        label = f"{table.dtype}, {table.engine}" if table.engine else table.dtype
        part = {"relation": one.relation, **_errors(one.errors), "within_sigma": round(one.covered, 3)}
        families[table.family][table.device][label] = part | {"source": one.source}
    return families


def _totals(scored: Iterable[Scored]) -> dict[str, Any]:
    """Family -> relation -> errors of all rows, and the mean over tables, in which each counts alike."""
    groups: dict[str, dict[str, list[Floats]]] = defaultdict(lambda: defaultdict(list))
    for one in scored:
        for family in {one.table.family, "collective" if one.table.family in LINKED else one.table.family}:
            groups[family][one.relation].append(one.errors)
    return {
        family: {
            relation: {**_errors(np.concatenate(parts)), "mean_of_tables": round(_mean(p.mean() for p in parts), 4)}
            for relation, parts in relations.items()
        }
        for family, relations in groups.items()
    }


def _errors(errors: Floats) -> dict[str, float]:
    return {"rows": len(errors), "mean": round(float(errors.mean()), 4), "median": round(float(np.median(errors)), 4)}


def _mean(values: Iterable[Any]) -> float:
    return float(np.mean(list(values)))


def _files(tables: Iterable[KernelTable]) -> list[Path]:
    return sorted({Path(table.file) for table in tables})


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
