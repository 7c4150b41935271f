"""The catalogue: the packaged tables, with a user's own laid over them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from heterarch.catalog.config_json import read_config
from heterarch.catalog.device import Device
from heterarch.catalog.model import Model
from heterarch.catalog.model_table import read_attention_source, read_model
from heterarch.catalog.names import find_device_id, find_model_id
from heterarch.catalog.plausible import CatalogWarning, check_device, check_link
from heterarch.catalog.price import Quote
from heterarch.catalog.rows import Row, check_columns, read_csv, read_yaml
from heterarch.catalog.server import Link, Server, Site
from heterarch.catalog.tables import TABLES, DeviceCells, read_quote, read_sources
from heterarch.documents import validate
from heterarch.errors import InputError, UnknownNameError, Where, nearest
from heterarch.units import Source

DATA = Path(__file__).parent / "data"
PACKAGED = (
    *("sources.csv", "devices.csv", "devices-cpu.csv", "models.csv", "prices.csv", "purchases.csv"),
    *("links.yaml", "servers.yaml", "sites.yaml"),
)
RowKind = Literal["device", "model", "server", "link", "site", "quotes"]
_ENTRIES: dict[str, type[Server | Link | Site]] = {"servers": Server, "links": Link, "sites": Site}
_Any = TypeVar("_Any")


@dataclass(frozen=True)
class Catalog:
    """Devices, models, prices, servers, links and sites by id; every number in it has a source.

    ``warnings``: numbers of overlays that look wrong by a factor.
    """

    devices: Mapping[str, Device]
    models: Mapping[str, Model]
    quotes: tuple[Quote, ...]
    servers: Mapping[str, Server]
    links: Mapping[str, Link]
    sites: Mapping[str, Site]
    warnings: tuple[CatalogWarning, ...] = ()

    @classmethod
    def load(cls, *overlays: Path | str) -> Catalog:
        """The packaged catalogue with ``overlays`` laid over it in order: CSV or YAML files, or folders of them.

        A JSON file is the ``config.json`` of a model. A row whose id exists replaces the cells that it fills; another
        row is added. A quote replaces the one of the same device, provider, kind and date.

        Raises:
            InputError: a file that cannot be read, an unknown table, column or source code, a number without a
                source, a contradiction; with file and line.
        """
        tables = _Tables()
        for name in PACKAGED:
            tables.read(DATA / name)
        if not overlays:
            return tables.catalog()
        packaged = tables.catalog()
        for overlay in overlays:
            for path in _files(Path(overlay)):
                tables.read(path)
        found = tables.catalog()
        return dataclasses.replace(found, warnings=tuple(tables.warnings(found, packaged)))

    def device(self, device_id: str) -> Device:
        """The device of that id, in any case; raises UnknownNameError."""
        return _find("device", device_id, self.devices)

    def model(self, model_id: str) -> Model:
        """The model of that id, in any case; raises UnknownNameError."""
        return _find("model", model_id, self.models)

    def find_model(self, name: str) -> Model:
        """The model whose checkpoint is called ``name``, such as ``nvidia/DeepSeek-R1-NVFP4``.

        Organisation, case, and endings for tuning, precision and date do not matter; size and version do.

        Raises:
            UnknownNameError: no model of that shape.
            InputError: several models have that name.
        """
        if name in self.models:
            return self.models[name]
        return self.models[find_model_id(name, {key: model.aliases for key, model in self.models.items()})]

    def find_device(self, name: str) -> Device:
        """The device that a measurement file, its maker or its driver calls ``name``, such as ``h100_sxm``.

        Raises:
            UnknownNameError: no such device, or a name that several variants share.
            InputError: several devices have that name.
        """
        if name in self.devices:
            return self.devices[name]
        return self.devices[find_device_id(name, {key: (row.name, *row.aliases) for key, row in self.devices.items()})]

    def server(self, server_id: str) -> Server:
        """The server of that id; raises UnknownNameError."""
        return _find("server", server_id, self.servers)

    def link(self, link_id: str) -> Link:
        """The link of that id; raises UnknownNameError."""
        return _find("link", link_id, self.links)

    def site(self, site_id: str) -> Site:
        """The site of that id; raises UnknownNameError."""
        return _find("site", site_id, self.sites)

    def servers_of(self, device_id: str) -> tuple[Server, ...]:
        """The servers built from that device, most devices first."""
        found = [server for server in self.servers.values() if server.device == device_id]
        return tuple(sorted(found, key=lambda server: (-server.devices, server.id)))

    def quotes_for(self, device_id: str, kind: str | None = None) -> tuple[Quote, ...]:
        """The quotes of a device (of one kind), newest first, the cheapest of a date first; empty if none."""
        found = [q for q in self.quotes if q.device_id == device_id and kind in (None, q.kind)]
        found.sort(key=lambda quote: (quote.usd, quote.provider))
        return tuple(sorted(found, key=lambda quote: quote.date, reverse=True))

    def row_sha256(self, kind: RowKind, row_id: str) -> str:
        """SHA-256 of everything the catalogue says about one row; ``quotes``: all quotes of a device.

        Raises:
            UnknownNameError: no such row.
        """
        quotes = kind == "quotes"
        row: object = self.quotes_for(self.device(row_id).id) if quotes else getattr(self, kind)(row_id)
        return hashlib.sha256(json.dumps(_content(row), sort_keys=True).encode()).hexdigest()


@dataclass
class _Tables:
    """Rows gathered while loading."""

    codes: dict[str, Source] = field(default_factory=dict)
    devices: dict[str, tuple[DeviceCells, Row]] = field(default_factory=dict)
    places: dict[str, Where] = field(default_factory=dict)
    models: dict[str, Row] = field(default_factory=dict)
    configs: dict[str, Model] = field(default_factory=dict)
    prices: list[Row] = field(default_factory=list)
    entries: dict[str, dict[str, tuple[dict[str, Any], Where]]] = field(
        default_factory=lambda: {table: {} for table in _ENTRIES}
    )

    def read(self, path: Path) -> None:
        """Add the rows of one file."""
        if path.suffix == ".json":
            config = read_config(path)
            self.configs[config.id] = config
            return
        if path.suffix == ".csv":
            header, rows = read_csv(path)
            table = _table_of(header, Where(str(path), 1))
            check_columns(header, TABLES[table], Where(str(path), 1))
            self.add(table, rows)
            return
        for table, found in read_yaml(path, (*TABLES, *_ENTRIES)).items():
            if table in _ENTRIES:
                self.add_entries(table, found)
                continue
            for cells, where in found:
                check_columns(map(str, cells), TABLES[table], where)
            texts = [({k: "" if v is None else str(v) for k, v in cells.items()}, where) for cells, where in found]
            self.add(table, [Row(cells, where) for cells, where in texts])

    def add(self, table: str, rows: list[Row]) -> None:
        if table == "sources":
            self.codes |= read_sources(rows)
        elif table == "prices":
            self.prices += rows
        elif table == "devices":
            for row in rows:
                cells, _ = self.devices.setdefault(row.required("id"), (DeviceCells(), row))
                cells.add(row, self.codes)
                self.places[row.text("id")] = row.where
        else:
            for row in rows:
                old = self.models.get(row.required("id"))
                filled = {column: cell for column, cell in row.cells.items() if cell.strip()}
                if old and "source" not in filled:
                    raise InputError("the numbers of this row have no source", where=row.where)
                read_attention_source(row)
                self.models[row.text("id")] = Row({**(old.cells if old else {}), **filled}, row.where)

    def add_entries(self, table: str, rows: Iterable[tuple[Mapping[str, object], Where]]) -> None:
        for cells, where in rows:
            key = str(cells.get("id", ""))
            old, _ = self.entries[table].get(key, ({}, where))
            if old and not cells.get("sources"):
                raise InputError("the numbers of this row have no source", fix="give 'sources'", where=where)
            self.entries[table][key] = (_laid_over(old, cells), where)

    def catalog(self) -> Catalog:
        devices = {key: cells.device(row) for key, (cells, row) in self.devices.items()}
        quotes = [quote for cells, _ in self.devices.values() if (quote := cells.purchase_quote())]
        quotes += [read_quote(row, devices) for row in self.prices]
        entries = {table: self._entries(table) for table in _ENTRIES}
        _check_references(entries, devices)
        return Catalog(
            devices=devices,
            models={key: read_model(row) for key, row in self.models.items()} | self.configs,
            quotes=tuple({(q.device_id, q.provider, q.kind, q.date): q for q in quotes}.values()),
            servers={key: row for key, (row, _) in entries["servers"].items() if isinstance(row, Server)},
            links={key: row for key, (row, _) in entries["links"].items() if isinstance(row, Link)},
            sites={key: row for key, (row, _) in entries["sites"].items() if isinstance(row, Site)},
        )

    def warnings(self, found: Catalog, packaged: Catalog) -> Iterator[CatalogWarning]:
        """Doubts about what overlays changed."""
        for device in found.devices.values():
            if device != packaged.devices.get(device.id):
                yield from check_device(device, packaged.devices, self.places[device.id])
        for link in found.links.values():
            yield from check_link(link, packaged.links, self.entries["links"][link.id][1])

    def _entries(self, table: str) -> dict[str, tuple[Server | Link | Site, Where]]:
        kind = _ENTRIES[table]
        return {
            key: (validate(kind, cells, lambda _, where=where: where), where)  # type: ignore[misc]
            for key, (cells, where) in self.entries[table].items()
        }


def _laid_over(old: dict[str, Any], new: Mapping[str, object]) -> dict[str, Any]:
    """``new`` over ``old``, in which the numbers of ``old`` keep their sources."""
    kept = {name: old["sources"].get(name, old["sources"].get("*")) for name in old if name in _numbers(old)}
    given = dict(new.get("sources") or {})  # type: ignore[call-overload]
    default = given.pop("*", None)
    fresh = {name: default for name in _numbers(dict(new)) if default is not None}
    return {**old, **new, "sources": {**kept, **fresh, **given}} if old else dict(new)


def _numbers(cells: dict[str, Any]) -> set[str]:
    return {name for name, value in cells.items() if isinstance(value, int | float)}


def _table_of(header: Iterable[str], where: Where) -> str:
    columns = set(header)
    table = max(TABLES, key=lambda name: len(columns.intersection(TABLES[name])))
    key = TABLES[table][0]
    if key not in columns:
        raise InputError(
            "cannot tell which table this is",
            observed=", ".join(nearest("", columns)) or "no columns",
            expected="the columns of devices.csv, models.csv, prices.csv or sources.csv",
            where=where,
        )
    return table


def _check_references(
    entries: Mapping[str, Mapping[str, tuple[Server | Link | Site, Where]]], devices: Mapping[str, Device]
) -> None:
    for row, where in entries["servers"].values():
        for name in ("device", "host_device"):
            if (key := getattr(row, name)) and key not in devices:
                raise UnknownNameError("device", key, devices, where=where)
        for name in ("scaleup", "host_link", "nic"):
            if (key := getattr(row, name)) and key not in entries["links"]:
                raise UnknownNameError("link", key, entries["links"], where=where)


def _files(overlay: Path) -> list[Path]:
    if not overlay.is_dir():
        if overlay.suffix not in (".csv", ".yaml", ".yml", ".json"):
            raise InputError(
                "an overlay is a CSV or YAML file or a folder of them, or the config.json of a model",
                where=str(overlay),
            )
        return [overlay]
    found = [path for path in sorted(overlay.iterdir()) if path.suffix in (".csv", ".yaml", ".yml")]
    return sorted(found, key=lambda path: path.name != "sources.csv")


def _find(kind: str, key: str, table: Mapping[str, _Any]) -> _Any:
    if key in table:
        return table[key]
    folded = [name for name in table if name.casefold() == key.casefold()]
    if len(folded) == 1:
        return table[folded[0]]
    raise UnknownNameError(kind, key, table)


def _content(row: object) -> object:
    if isinstance(row, BaseModel):
        return row.model_dump(mode="json")
    if isinstance(row, tuple):
        return [_content(item) for item in row]
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return dataclasses.asdict(row)
    return row
