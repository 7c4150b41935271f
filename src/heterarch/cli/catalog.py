"""``heterarch catalog``: what is known of devices, models and prices, and where each number comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.config_json import read_config
from heterarch.catalog.device import Device
from heterarch.catalog.model import Model
from heterarch.cli.output import JSON_HELP, OVERLAY_HELP, note, print_json, print_table
from heterarch.units import GB, TERA, weakest

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Rows = list[dict[str, Any]]

_OVERLAY = typer.Option(None, "--overlay", help=OVERLAY_HELP)
_JSON = typer.Option(False, "--json", help=JSON_HELP)
_OVERLAYS = typer.Argument(..., help="CSV or YAML files, folders of them, or the config.json of a model.")
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
    found = _load(overlay)
    if id is not None:
        _show_sources(found.find_device(id), as_json)
        return
    chosen = [device for device in found.devices.values() if vendor.lower() in device.vendor.lower()]
    _show("devices", map(_device_row, chosen), as_json)


@app.command()
def models(
    id: str | None = typer.Argument(None, help="One id, a checkpoint's name, or a config.json: with its sources."),
    family: str = typer.Option("", help="Only this family."),
    overlay: list[Path] | None = _OVERLAY, as_json: bool = _JSON,
) -> None:  # fmt: skip
    """Models: parameters and KV bytes computed from their shapes."""
    found = _load(overlay)
    if id is not None:
        _show_model(read_config(id) if id.endswith(".json") else found.find_model(id), as_json)
        return
    _show("models", (_model_row(model) for model in found.models.values() if family in model.family), as_json)


@app.command()
def prices(
    device: str | None = typer.Argument(None, help="Only this device's quotes."),
    kind: str = typer.Option("", help="Only this kind: on-demand, spot, purchase, ..."),
    overlay: list[Path] | None = _OVERLAY, as_json: bool = _JSON,
) -> None:  # fmt: skip
    """Dated quotes: what was asked, by whom, when."""
    found = _load(overlay)
    quotes = found.quotes_for(found.device(device).id) if device else found.quotes
    rows = [
        {"device": q.device_id, "kind": q.kind, "USD": q.usd, "per": q.unit.removeprefix("usd_per_"),
         "provider": q.provider, "date": q.date, "source": str(q.source)}
        for q in quotes if kind in ("", q.kind)
    ]  # fmt: skip
    _show("prices", rows, as_json)


@app.command()
def check(overlay: list[Path] = _OVERLAYS, as_json: bool = _JSON) -> None:
    """Check overlays: errors, and numbers that look wrong by a factor; exit code 1 when there are any."""
    rows = [
        {"where": str(w.where), "what": w.what, "observed": w.observed, "expected": w.expected,
         "ratio": round(w.ratio, 3), "fix": w.fix}
        for w in Catalog.load(*overlay).warnings
    ]  # fmt: skip
    if as_json:
        print_json(rows)
    elif rows:
        print_table("doubtful numbers", rows)
    else:
        note("Nothing looks wrong.")
    if rows:
        raise typer.Exit(1)


#: table -> heading -> (field, unit that it is shown in)
_COLUMNS: dict[str, dict[str, tuple[str, float]]] = {
    "servers": {
        "id": ("id", 1), "device": ("device", 1), "devices": ("devices", 1), "host vCPUs": ("host_vcpus", 1),
        "host GB": ("host_mem_bytes", GB), "scale-up": ("scaleup", 1), "NIC": ("nic", 1), "NICs": ("nics", 1),
    },
    "links": {"id": ("id", 1), "GB/s": ("bytes_per_s", GB), "latency us": ("latency_s", 1e-6)},
    "sites": {
        "id": ("id", 1), "USD/kWh": ("usd_per_kwh", 1), "PUE": ("pue", 1), "gCO2e/kWh": ("gco2e_per_kwh", 1),
        "egress USD/GB": ("egress_usd_per_gb", 1),
    },
}  # fmt: skip


def _entries(name: str, title: str) -> Callable[..., None]:
    def command(overlay: list[Path] | None = _OVERLAY, as_json: bool = _JSON) -> None:
        table = getattr(_load(overlay), name)
        rows = [entry.model_dump(mode="json") for entry in table.values()]
        if as_json:
            print_json(rows)
            return
        columns = _COLUMNS[name].items()
        print_table(name, [{title: _in(row[field], unit) for title, (field, unit) in columns} for row in rows])
        note("Every number has a source and a grade: --json shows them.")

    command.__doc__ = title
    return command


app.command("servers")(_entries("servers", "Servers: how many devices, host, links."))
app.command("links")(_entries("links", "Links: bytes/s per direction, latency."))
app.command("sites")(_entries("sites", "Sites: power price, PUE, grid carbon."))


def _load(overlays: list[Path] | None) -> Catalog:
    found = Catalog.load(*(overlays or ()))
    for warning in found.warnings:
        note(f"warning: {warning}")
    return found


def _show(title: str, rows: Iterable[dict[str, Any]], as_json: bool) -> None:
    listed = list(rows)
    if as_json:
        print_json(listed)
        return
    print_table(title, listed)
    note(f"{len(listed)} {title}. Every number has a source and a grade: --json, or one id, shows them.")


#: the numbers in the table of devices, whose weakest grade it shows
_SHOWN = ("bf16", "fp8", "fp4", "mem_bytes", "mem_bytes_per_s", "scaleup_bytes_per_s", "tdp_w")


def _device_row(device: Device) -> dict[str, Any]:
    grades = [device.sources[name].grade for name in _SHOWN if name in device.sources]
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
        "grade": str(weakest(*grades)) if grades else None,
    }


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _in(value: Any, unit: float) -> Any:
    return value if unit == 1 else _scaled(value, unit)


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
        "attention": _attention(model),
        "params B": model.parameters() / 1e9,
        "active B": model.active_parameters() / 1e9,
        "KV B/token": round(model.kv_growth_bytes()),
        "context": model.context or None,
        "dtype": model.dtype,
        "grade": str(weakest(*(source.grade for source in (model.source, model.attention_source) if source))),
    }


def _attention(model: Model) -> str:
    first = model.attention[0]
    if first.kind == "compressed" or model.mla:
        heads = "MLA" if model.mla else "MQA"
    else:
        heads = "GQA" if first.kv_heads < first.heads else "MHA"
    others = dict.fromkeys(part.kind for part in model.attention if part.kind != "full")
    return "+".join((heads, *others))


def _show_model(model: Model, as_json: bool) -> None:
    kinds: Rows = [
        {"kind": part.kind, "layers": part.layers, "heads": part.heads, "KV heads": part.kv_heads,
         "window": part.window or None, "top k": part.topk or None, "tokens per entry": part.ratio or None,
         "KV B/token": round(part.growth_bytes("bf16")),
         "B/sequence": round(part.fixed_bytes(model.context, "bf16"))}
        for part in model.attention
    ]  # fmt: skip
    sources = [str(source) for source in (model.source, model.attention_source) if source]
    row = _model_row(model)
    if as_json:
        print_json([{**row, "layers by kind": kinds, "sources": sources, "note": model.note}])
        return
    print_table("models", [row])
    print_table("attention", kinds)
    for line in (*sources, model.note):
        if line:
            note(line)
