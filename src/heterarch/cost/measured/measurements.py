"""Measured kernels from files: one table per family, device, number format and engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from heterarch.catalog.catalog import Catalog
from heterarch.cost.kernels.families import FAMILIES
from heterarch.cost.kernels.formats import kernel_format
from heterarch.cost.measured.columns import SUFFIXES, Columns, Floats, Mask, read_columns
from heterarch.errors import InputError, UnknownNameError

#: shape columns that are alike for the rows of one group: groups, not rows, are held out to score a fit
GROUPS = {
    "gemm": ("n", "k"),
    "attention_prefill": ("heads", "kv_heads", "head_dim", "window"),
    "attention_decode": ("heads", "kv_heads", "head_dim", "window"),
    "moe": ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size"),
}


@dataclass(frozen=True)
class Defaults:
    """What a file's rows have where it has no column for it: device (catalogue id), engine and its version."""

    device: str = ""
    engine: str = ""
    engine_version: str = ""


@dataclass(frozen=True)
class KernelTable:
    """Measured kernels of one family, device, format and engine; arrays of one length.

    ``device`` and ``dtype`` are ids of the catalogue and of :data:`heterarch.cost.kernels.formats.FORMATS`, or the
    names of the file where these are unknown. ``rows`` are lines of ``file`` (parquet: rows, from 1).
    """

    family: str
    device: str
    dtype: str
    engine: str
    engine_version: str
    shapes: Mapping[str, Floats]
    seconds: Floats
    groups: list[str]
    file: str
    rows: Floats

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """(family, device, format, engine): what one fit is for."""
        return self.family, self.device, self.dtype, self.engine

    @property
    def name(self) -> str:
        """For messages: ``gemm on h100-sxm in bf16 (vllm)``."""
        return f"{self.family} on {self.device} in {self.dtype}" + (f" ({self.engine})" if self.engine else "")


class Labels(NamedTuple):
    """What each row ran on and in, as the file names it."""

    devices: list[str]
    dtypes: list[str]
    engines: list[str]
    versions: list[str]

    def part(self, chosen: Mask) -> Labels:
        """Those of some rows."""
        return Labels(*(list(itertools.compress(texts, chosen)) for texts in self))


class Rows(NamedTuple):
    """Kernels of one family as they stand in a file, of any device, format and engine."""

    family: str
    shapes: Mapping[str, Floats]
    seconds: Floats
    labels: Labels
    places: Floats  # lines of the file


@dataclass(frozen=True)
class Schema:
    """A kind of measurement file: its name, the columns it is known by, and how its rows are read."""

    name: str
    columns: tuple[str, ...]
    read: Callable[[Columns, Defaults, Catalog], Iterator[Rows]]


def read_kernels(
    path: Path | str, catalog: Catalog | None = None, defaults: Defaults = Defaults()
) -> list[KernelTable]:
    """The measured kernels of a file, or of every file of a folder that holds some.

    Files are recognised by their columns: see :data:`heterarch.cost.measured.schemas.SCHEMAS`. Rows are as in the file:
    NaN, impossible and repeated ones are for :func:`heterarch.cost.measured.screening.screen`.

    Raises:
        InputError: a file cannot be read, no schema fits its columns, or a cell is no number; a folder holds no
            measured kernels.
    """
    found = catalog or Catalog.load()
    if not Path(path).is_dir():
        return kernel_tables(read_columns(path), found, defaults)
    tables = [
        table
        for file in sorted(file for file in Path(path).iterdir() if file.suffix in SUFFIXES)
        for table in kernel_tables(read_columns(file), found, defaults, required=False)
    ]
    if not tables:
        raise InputError("the folder holds no file of measured kernels", where=str(path))
    return tables


def kernel_tables(
    columns: Columns, catalog: Catalog, defaults: Defaults = Defaults(), *, required: bool = True
) -> list[KernelTable]:
    """The kernels in ``columns``; none where no schema fits and they are not ``required``. For errors see
    :func:`read_kernels`."""
    schema = schema_of(columns, defaults)
    if schema is None:
        if required:
            raise _unrecognised(columns)
        return []
    parts = schema.read(columns, defaults, catalog)
    return pooled(table for rows in parts for table in _tables(rows, columns.file, catalog))


def pooled(tables: Iterable[KernelTable]) -> list[KernelTable]:
    """Tables of one family, device, format and engine as one, under the file of the first."""
    found: dict[tuple[str, str, str, str], list[KernelTable]] = {}
    for table in tables:
        found.setdefault(table.key, []).append(table)
    return [parts[0] if len(parts) == 1 else _joined(parts) for parts in found.values()]


def _joined(parts: list[KernelTable]) -> KernelTable:
    versions = dict.fromkeys(part.engine_version for part in parts if part.engine_version)
    return replace(
        parts[0],
        engine_version=", ".join(versions),
        shapes={name: np.concatenate([part.shapes[name] for part in parts]) for name in parts[0].shapes},
        seconds=np.concatenate([part.seconds for part in parts]),
        groups=[group for part in parts for group in part.groups],
        rows=np.concatenate([part.rows for part in parts]),
    )


def schema_of(columns: Columns, defaults: Defaults = Defaults()) -> Schema | None:
    """The schema whose columns the file has; the one with most of them."""
    from heterarch.cost.measured.schemas import SCHEMAS

    given = {"hardware"} if defaults.device else set()
    fitting = [schema for schema in SCHEMAS if {*schema.columns} <= {*columns.cells, *given}]
    return max(fitting, key=lambda schema: len(schema.columns), default=None)


def _unrecognised(columns: Columns) -> InputError:
    """Names the nearest schema and what of it is missing."""
    from heterarch.cost.measured.schemas import SCHEMAS

    nearest = max(SCHEMAS, key=lambda schema: len({*schema.columns} & {*columns.cells}) / len(schema.columns))
    missing = [name for name in nearest.columns if name not in columns]
    shared = len(nearest.columns) - len(missing)
    kinds = ", ".join(schema.name for schema in SCHEMAS)
    return InputError(
        "the columns are those of no kind of measurement"
        + (f"; nearest is {nearest.name}, without {', '.join(missing)}" if shared else ""),
        observed=", ".join(columns.cells),
        expected=f"the columns of one of: {kinds}" if not shared else ", ".join(nearest.columns) + " and a latency",
        where=columns.file,
        fix="--device names the hardware of a file without that column" if "hardware" in missing else None,
    )


def _tables(rows: Rows, file: str, catalog: Catalog) -> Iterator[KernelTable]:
    """One table per device, format and engine."""
    labels = rows.labels
    keys = list(zip(labels.devices, labels.dtypes, labels.engines, strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    for (device, dtype, engine), members in itertools.groupby(order, keys.__getitem__):
        chosen = np.array(list(members))
        shapes = {name: values[chosen] for name, values in rows.shapes.items()}
        yield KernelTable(
            family=rows.family,
            device=_device_id(device, catalog),
            dtype=_format(dtype),
            engine=engine,
            engine_version=", ".join(sorted({labels.versions[row] for row in chosen} - {""})),
            shapes=_own_columns(rows.family, shapes),
            seconds=rows.seconds[chosen],
            groups=_groups(rows.family, shapes),
            file=file,
            rows=rows.places[chosen],
        )


def _own_columns(family: str, shapes: dict[str, Floats]) -> dict[str, Floats]:
    return {name: shapes[name] for name in FAMILIES[family].columns} if family in FAMILIES else shapes


def _groups(family: str, shapes: dict[str, Floats]) -> list[str]:
    names = GROUPS.get(family, tuple(shapes))
    return [" ".join(f"{value:g}" for value in row) for row in zip(*(shapes[name] for name in names), strict=True)]


def _device_id(name: str, catalog: Catalog) -> str:
    try:
        return catalog.find_device(name).id
    except UnknownNameError:
        return name


def _format(name: str) -> str:
    try:
        return kernel_format(name)
    except UnknownNameError:
        return name
