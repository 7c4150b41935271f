"""``heterarch catalog``: what is known of devices, models and prices, and where each number comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.device import Device
from heterarch.catalog.model import Model
from heterarch.cli.output import JSON_HELP, note, print_json, print_table
from heterarch.errors import InputError
from heterarch.units import GB, TERA

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Rows = list[dict[str, Any]]

_OVERLAY = typer.Option(None, "--overlay", help="CSV or YAML file, or folder, laid over the catalogue.")
_JSON = typer.Option(False, "--json", help=JSON_HELP)
_ID = typer.Argument(None, help="One id: every number with its source and grade.")


@app.callback()
def catalog() -> None:
    """Devices, models, prices, servers, links and sites, with their sources."""


@app.command()
def devices(
    id: str | None = _ID, vendor: str = typer.Option("", help="Only this maker's."),
    overlay: list[Path] | None = _OVERLAY, as_json: bool = _JSON,
) -> None:  # fmt: skip
    """Devices: dense peaks, memory, links per direction, power."""
    found = Catalog.load(*(overlay or ()))
    if id is not None:
        _show_sources(found.device(id), as_json)
        return
    chosen = [device for device in found.devices.values() if vendor.lower() in device.vendor.lower()]
    _show("devices", map(_device_row, chosen), as_json)


@app.command()
def models(
    id: str | None = _ID, family: str = typer.Option("", help="Only this family."),
    overlay: list[Path] | None = _OVERLAY, as_json: bool = _JSON,
) -> None:  # fmt: skip
    """Models: parameters and KV bytes computed from their shapes."""
    found = Catalog.load(*(overlay or ()))
    chosen = [found.model(id)] if id is not None else list(found.models.values())
    _show("models", (_model_row(model) for model in chosen if family in model.family), as_json)


@app.command()
def prices(
    device: str | None = typer.Argument(None, help="Only this device's quotes."),
    kind: str = typer.Option("", help="Only this kind: on-demand, spot, purchase, ..."),
    overlay: list[Path] | None = _OVERLAY, as_json: bool = _JSON,
) -> None:  # fmt: skip
    """Dated quotes: what was asked, by whom, when."""
    found = Catalog.load(*(overlay or ()))
    quotes = found.quotes_for(found.device(device).id) if device else found.quotes
    rows = [
        {"device": q.device_id, "kind": q.kind, "USD": q.usd, "per": q.unit.removeprefix("usd_per_"),
         "provider": q.provider, "date": q.date, "source": str(q.source)}
        for q in quotes if kind in ("", q.kind)
    ]  # fmt: skip
    _show("prices", rows, as_json)


_COLUMNS = {
    "servers": ("id", "device", "devices", "host_vcpus", "host_mem_bytes", "scaleup", "nic", "nics"),
    "links": ("id", "bytes_per_s", "latency_s"),
    "sites": ("id", "usd_per_kwh", "pue", "gco2e_per_kwh", "egress_usd_per_gb"),
}


def _entries(name: str, title: str) -> Callable[..., None]:
    def command(overlay: list[Path] | None = _OVERLAY, as_json: bool = _JSON) -> None:
        table = getattr(Catalog.load(*(overlay or ())), name)
        rows = [entry.model_dump(mode="json") for entry in table.values()]
        if as_json:
            print_json(rows)
            return
        print_table(name, rows, _COLUMNS[name])
        note("Every number has a source and a grade: --json shows them.")

    command.__doc__ = title
    return command


app.command("servers")(_entries("servers", "Servers: how many devices, host, links."))
app.command("links")(_entries("links", "Links: bytes/s per direction, latency."))
app.command("sites")(_entries("sites", "Sites: power price, PUE, grid carbon."))


def _show(title: str, rows: Iterable[dict[str, Any]], as_json: bool) -> None:
    listed = list(rows)
    if as_json:
        print_json(listed)
        return
    print_table(title, listed)
    note(f"{len(listed)} {title}. Every number has a source and a grade: --json, or one id, shows them.")


def _device_row(device: Device) -> dict[str, Any]:
    peaks = {f"{name} TFLOPS": _scaled(device.peaks.get(name), TERA) for name in ("bf16", "fp8", "fp4")}
    return {
        "id": device.id,
        "class": device.device_class,
        **peaks,
        "GB": _scaled(device.mem_bytes or None, GB),
        "GB/s": _scaled(device.mem_bytes_per_s or None, GB),
        "link GB/s": _scaled(device.scaleup_bytes_per_s, GB),
        "TDP W": device.tdp_w,
        "year": str(device.year),
    }


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _show_sources(device: Device, as_json: bool) -> None:
    values: dict[str, Any] = {
        **{name: value for name, value in vars(device).items() if isinstance(value, int | float)},
        **device.peaks,
    }
    rows: Rows = [
        {"field": name, "value": values[name], "grade": str(source.grade), "source": source.citation}
        for name, source in device.sources.items()
        if name in values
    ]
    if as_json:
        print_json({"id": device.id, "name": device.name, "note": device.note, "numbers": rows})
        return
    print_table(f"{device.id}: {device.name}", rows)
    if device.note:
        note(device.note)


def _model_row(model: Model) -> dict[str, Any]:
    return {
        "id": model.id,
        "layers": model.layers,
        "attention": "MLA" if model.mla else "GQA" if model.kv_heads < model.heads else "MHA",
        "params B": _billions(model.parameters),
        "active B": _billions(model.active_parameters),
        "KV B/token": _or_none(model.kv_bytes_per_token),
        "context": model.context or None,
        "dtype": model.dtype,
    }


def _billions(count: Callable[[], int]) -> float | None:
    value = _or_none(count)
    return None if value is None else value / 1e9


def _or_none(count: Callable[[], int]) -> int | None:
    try:
        return count()
    except InputError:
        return None
