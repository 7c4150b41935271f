"""What the columns of the catalogue's tables mean: rows in, devices and quotes out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from heterarch.catalog.device import Device
from heterarch.catalog.model_table import MODEL_COLUMNS
from heterarch.catalog.price import GRADE_OF_KIND, QUOTE_KINDS, Quote, QuoteUnit
from heterarch.catalog.rows import Row, read_aliases
from heterarch.catalog.sources import CellSources, read_cell
from heterarch.errors import InputError, UnknownNameError
from heterarch.units import GB, TERA, Grade, Source


class Column(NamedTuple):
    """A number of a device: its field (or peak), scale to SI, source column, and names in that source column."""

    name: str
    scale: float
    source: str
    words: tuple[str, ...] = ()


PEAKS = ("fp32", "tf32", "bf16", "fp8", "int8", "fp4")
DEVICE_NUMBERS = {
    **{
        f"{peak}_{'tops' if peak == 'int8' else 'tflops'}": Column(
            peak, TERA, "src_compute", (peak,) if peak == "fp32" else (peak, "tensor")
        )
        for peak in PEAKS
    },
    "mem_gb": Column("mem_bytes", GB, "src_memory"),
    "mem_bw_gbs": Column("mem_bytes_per_s", GB, "src_memory"),
    "scaleup_gbs_per_dir": Column("scaleup_bytes_per_s", GB, "src_link"),
    "scaleup_domain": Column("scaleup_domain", 1, "src_link", ("pod",)),
    "host_gbs_per_dir": Column("host_bytes_per_s", GB, "src_link"),
    "scaleout_nic_gbit": Column("nic_bytes_per_s", GB / 8, "src_link"),
    "tdp_w": Column("tdp_w", 1, "src_power", ("tdp",)),
    "idle_w": Column("idle_w", 1, "src_power", ("idle",)),
    "wall_kw_per_device": Column("wall_w", 1e3, "src_power", ("wall",)),
    "die_mm2_total": Column("die_mm2", 1, "src_die"),
    "transistors_bn": Column("transistors", 1e9, "src_die", ("transistors",)),
    "embodied_kgco2e": Column("embodied_kgco2e", 1, "src_embodied"),
    "capex_usd": Column("capex_usd", 1, "src_capex"),
    "owner_cost_usd_h": Column("owner_cost_usd_h", 1, "src_owner_cost"),
    "ondemand_usd_h": Column("ondemand_usd_h", 1, "src_cloud"),
    "spot_usd_h": Column("spot_usd_h", 1, "src_cloud"),
}
DEVICE_TEXTS = {
    "id": "id",
    "vendor": "vendor",
    "name": "name",
    "class": "device_class",
    "arch": "arch",
    "process": "process",
    "mem_type": "mem_type",
    "scaleup_tech": "scaleup_tech",
    "note": "note",
}
_WORDS = {word for column in DEVICE_NUMBERS.values() for word in column.words}
_INTEGERS = {"mem_bytes", "scaleup_domain"}
_QUOTED = {"capex_usd", "owner_cost_usd_h", "ondemand_usd_h", "spot_usd_h"}
DEVICE_COLUMNS = (
    *DEVICE_TEXTS,
    "year",
    "host_link",
    "aliases",
    *DEVICE_NUMBERS,
    *{c.source for c in DEVICE_NUMBERS.values()},
)

PRICE_COLUMNS = ("device_id", "provider", "kind", "usd_per_device_hour", "usd_per_device", "date", "grade", "source")
SOURCE_COLUMNS = ("code", "grade", "citation", "date", "licence")
TABLES = {
    "devices": DEVICE_COLUMNS,
    "models": MODEL_COLUMNS,
    "prices": PRICE_COLUMNS,
    "sources": SOURCE_COLUMNS,
}


@dataclass
class DeviceCells:
    """What the rows seen so far say about one device: texts, numbers, and the source of each number."""

    texts: dict[str, str] = field(default_factory=dict)
    year: int = 0
    aliases: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)

    def add(self, row: Row, codes: Mapping[str, Source]) -> None:
        """Take over every cell that ``row`` fills.

        Raises:
            InputError: a number that is none, or one without a source.
        """
        self.texts |= {name: row.text(column) for column, name in DEVICE_TEXTS.items() if row.text(column)}
        self.year = row.integer("year", self.year)
        self.aliases = read_aliases(row) or self.aliases
        cells: dict[str, CellSources] = {}
        for name, column in DEVICE_NUMBERS.items():
            value = row.number(name)
            if value is None:
                continue
            if column.source not in cells:
                cells[column.source] = read_cell(row.text(column.source), codes, _WORDS, row.where)
            source = cells[column.source].of(*column.words)
            if source is None:
                raise InputError(
                    f"the number in column {name!r} has no source",
                    observed=row.text(name),
                    expected=f"a code of sources.csv or 'grade: citation' in column {column.source!r}",
                    where=row.where,
                )
            self.numbers[column.name] = float(f"{value * column.scale:.12g}")  # 0.1 x 10^12 without the dust of 0.1
            self.sources[column.name] = source

    def device(self, row: Row) -> Device:
        """The device; ``row`` is where to point when something is missing."""
        for name, column in (("vendor", "vendor"), ("name", "name"), ("device_class", "class")):
            if not self.texts.get(name):
                raise InputError(f"the column {column!r} must not be empty", where=row.where)
        fields: dict[str, object] = {"mem_bytes": 0, "mem_bytes_per_s": 0.0, **self.texts}
        for name, value in self.numbers.items():
            if name not in PEAKS and name not in _QUOTED:
                fields[name] = round(value) if name in _INTEGERS else value
        peaks = {name: self.numbers[name] for name in PEAKS if self.numbers.get(name)}
        sources = {name: source for name, source in self.sources.items() if name not in _QUOTED}
        return Device(year=self.year, aliases=self.aliases, peaks=peaks, sources=sources, **fields)  # type: ignore[arg-type]

    def purchase_quote(self) -> Quote | None:
        """The list price of the ``capex_usd`` column, dated by the year of the device."""
        usd = self.numbers.get("capex_usd")
        if not usd:
            return None
        source = self.sources["capex_usd"]
        return Quote(self.texts["id"], "list price", "purchase", usd, "usd_per_device", str(self.year), source)


def read_sources(rows: Iterable[Row]) -> dict[str, Source]:
    """Source codes; raises InputError for a row without a known grade or a citation."""
    codes = {}
    for row in rows:
        grade = row.required("grade")
        if grade not in list(Grade):
            raise UnknownNameError("grade", grade, list(Grade), where=row.where)
        dated = ", ".join(part for part in (row.required("citation"), row.text("date")) if part)
        codes[row.required("code")] = Source(Grade(grade), dated)
    return codes


def read_quote(row: Row, devices: Iterable[str]) -> Quote:
    """One price quote; raises InputError for an unknown device or kind, no date, or not exactly one price."""
    device, kind = row.required("device_id"), row.required("kind")
    names = list(devices)
    if device not in names:
        raise UnknownNameError("device", device, names, where=row.where)
    if kind not in QUOTE_KINDS:
        raise UnknownNameError("kind of quote", kind, QUOTE_KINDS, where=row.where)
    usd, unit = _usd(row, kind)
    date = row.required("date")
    if not re.fullmatch(r"\d{4}(-\d\d){0,2}(/\d{4}(-\d\d){0,2})?", date):
        raise InputError("the date is not ISO", observed=date, expected="2026, 2026-08 or 2026-08-31", where=row.where)
    grade = row.text("grade") or GRADE_OF_KIND.get(kind, Grade.VENDOR)
    if grade not in list(Grade):
        raise UnknownNameError("grade", grade, list(Grade), where=row.where)
    source = Source(Grade(grade), row.required("source"))
    return Quote(device, row.required("provider"), kind, usd, cast("QuoteUnit", unit), date, source)


def _usd(row: Row, kind: str) -> tuple[float, str]:
    per_hour, per_device = row.number("usd_per_device_hour"), row.number("usd_per_device")
    usd, column = (per_device, "usd_per_device") if kind == "purchase" else (per_hour, "usd_per_device_hour")
    if usd is None or (per_hour is not None and per_device is not None):
        raise InputError(f"a quote of kind {kind!r} needs a price in {column!r} and no other", where=row.where)
    return usd, "usd_per_device" if kind == "purchase" else "usd_per_device_h"
