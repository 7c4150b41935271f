"""``heterarch tco``: what a model costs per token and call on each device, and what would change the ranking."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import typer

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.device import Device
from heterarch.catalog.fleet import fleet
from heterarch.catalog.hosted import listed_price
from heterarch.catalog.server import Site
from heterarch.cli.output import CALIBRATION_HELP, JSON_HELP, OVERLAY_HELP, note, print_json, print_line, print_table
from heterarch.cost.config import EngineConfig
from heterarch.cost.document import load_calibration
from heterarch.cost.energy import grid_gco2e_per_kwh, power_model
from heterarch.cost.engine import step_source
from heterarch.cost.library import library_of
from heterarch.cost.money.accounting import Accounting, MissingPriceError, OwnerTerms
from heterarch.cost.money.endpoint import TokenPrices
from heterarch.cost.money.operating import OperatingPoint, operating_point, widths
from heterarch.cost.money.sensitivity import Case, Ranking, cases, ranking
from heterarch.cost.money.spot import Preemption
from heterarch.cost.money.tco import Calls, marginal_cost, mean_usd_per_mtok, run_usd
from heterarch.errors import InputError
from heterarch.units import HOUR_S, format_number

app = typer.Typer(rich_markup_mode=None)
Rows = list[dict[str, Any]]


@app.command()
def tco(
    model: str = typer.Argument(help="Id of a model of the catalogue."),
    device: list[str] = typer.Option([], help="Ids of devices; default: those of the packaged fleet mixed."),
    api: list[str] = typer.Option([], help="provider:model of a hosted API to compare with."),
    accounting: str = typer.Option("all", help=f"What counts as cost: all, {', '.join(Accounting)}."),
    tp: int = typer.Option(0, min=0, help="Tensor parallel devices of each attention group; 0: as few as it takes."),
    ep: int = typer.Option(1, min=1, help="Ways in which experts are spread."),
    attention_dp: int = typer.Option(1, min=1, help="Attention groups; tp x attention-dp devices in all."),
    dtype: str = typer.Option("", help="Format of the weights; default: as published."),
    prompt: int = typer.Option(4000, min=1, help="Prompt tokens of a call."),
    output: int = typer.Option(500, min=0, help="Output tokens of a call."),
    cached: float = typer.Option(0.0, min=0.0, max=1.0, help="Share of the prompt that is found in the KV cache."),
    batch: int = typer.Option(32, min=1, help="Calls that an engine decodes together, where its memory holds them."),
    site: str = typer.Option("us-average", help="Id of a site: power price, PUE, grid."),
    electricity: str = typer.Option("", help="USD per kWh to compare: 0.05,0.12,0.30; default: the site's."),
    utilisation: str = typer.Option("", help="Shares of the hours that an owner uses: 0.3,0.6,0.9; default: 1."),
    interest: str = typer.Option("", help="Yearly interest to compare: 0.05,0.12; default: 0.08."),
    years: str = typer.Option("", help="Lifetimes to compare: 3,4,6; default: 4."),
    preemptions: float = typer.Option(Preemption().per_h, min=0, help="Preemptions of a spot device per hour."),
    resources: bool = typer.Option(False, "--resources", help="Also what a GB, a TB/s and a PFLOP/s cost per hour."),
    calibration: list[Path] = typer.Option([], help=CALIBRATION_HELP),
    overlay: list[Path] = typer.Option([], help=OVERLAY_HELP),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Dollars per million tokens and per call, watts and grams on each device, and what would change the ranking."""
    rows = Catalog.load(*overlay)
    place, terms, preemption = rows.site(site), OwnerTerms(), Preemption(per_h=preemptions)
    calls = Calls(prompt, float(min(int(prompt * cached), prompt - 1)), output)
    shape = rows.find_model(model)
    library = library_of(map(load_calibration, calibration), rows.devices)
    engine = partial(EngineConfig, model=shape, dtype=dtype or shape.dtype, attention_dp=attention_dp, library=library)
    splits = partial(widths, tp=(tp,) if tp else (1, 2, 4, 8), ep=ep)
    points, left_out = _points([rows.find_device(name) for name in device or _fleet_devices(rows)],
                               lambda one: splits(engine(one)), calls, batch)  # fmt: skip
    chosen = _accountings(accounting)

    def money(case: Case, point: OperatingPoint) -> Any:
        return case.money(rows, point.config.device.id, place, terms, preemption)

    grid = {
        "usd_per_kwh": _numbers(electricity, "--electricity"),
        "utilisation": _numbers(utilisation, "--utilisation", 0.01, 1.0),
        "rate": _numbers(interest, "--interest"),
        "years": _numbers(years, "--years", 0.1),
    }
    ranked = [ranking(case, points, money) for case in cases(chosen, **grid)]
    hosted = {name: listed_price(*_provider(name)) for name in api}
    answer = {
        "model": model,
        "engines": [_engine(point, place) for point in points],
        "prices": [row for name in chosen for row in _priced(name, points, money)] + _hosted(hosted, calls),
        "resources": [row for name in chosen for row in _resources(name, points, money)] if resources else [],
        "ranking": [_json(found) for found in ranked],
        "left_out": left_out,
        "notes": list(dict.fromkeys(text for point in points for text in point.config.conversions)),
    }
    if as_json:
        print_json(answer)
        return
    _show(answer, ranked)


def _show(answer: dict[str, Any], ranked: list[Ranking]) -> None:
    print_table(f"{answer['model']}: engines", _headed(answer["engines"], _ENGINES))
    prices = "USD of an engine-hour, of a million tokens by kind, of a thousand calls"
    print_table(prices, _headed(answer["prices"], _PRICES))
    if answer["resources"]:
        print_table("USD per hour of a unit of each resource", _headed(answer["resources"], _RESOURCES))
    rows = [_ranking_row(found) for found in ranked if found.usd_per_mtok]
    columns = [name for name in (rows[0] if rows else ()) if any(row[name] is not None for row in rows)]
    print_table("cheapest first, USD per million tokens", rows, columns)
    firsts = Counter(next(iter(found.usd_per_mtok)) for found in ranked if found.usd_per_mtok)
    for name, count in firsts.most_common():
        print_line(f"{name} is cheapest in {count} of {firsts.total()} cases")
    for name, reason in answer["left_out"].items():
        note(f"{name} is left out: {reason}")
    for text in answer["notes"]:
        note(text)
    for reason in dict.fromkeys(reason for found in ranked for reason in found.left_out.values()):
        note(reason)


def _points(
    devices: Iterable[Device], engines: Callable[[Device], list[EngineConfig]], calls: Calls, batch: int
) -> tuple[list[OperatingPoint], dict[str, str]]:
    """The operating point of each device, and why a device has none; all the devices' errors when none has one."""
    points, left_out = [], {}
    for device in dict.fromkeys(devices):
        try:
            point = operating_point(engines(device), calls, batch)
            assert point.seconds
            points.append(point)
        except InputError as error:
            left_out[device.id] = error.what
    if not points:
        raise InputError("no device serves the model", observed="; ".join(left_out.values()), fix="choose others")
    return points, left_out


def _fleet_devices(rows: Catalog) -> list[str]:
    return [entry.device for entry in fleet("mixed").devices if rows.device(entry.device).device_class != "cpu"]


#: field -> heading, and what the field is multiplied with under it
_ENGINES = {
    "engine": ("engine", 0), "batch": ("batch", 0), "ttft_s": ("TTFT ms", 1e3), "tpot_s": ("TPOT ms", 1e3),
    "tokens_per_s": ("tokens/s", 1), "watts": ("W", 1), "joules_per_call": ("Wh/call", 1 / HOUR_S),
    "gco2e_per_call": ("gCO2e/call", 1), "embodied_gco2e_per_call": ("embodied", 1), "grade": ("time grade", 0),
    "power_grade": ("power grade", 0),
}  # fmt: skip
_PRICES = {
    "accounting": ("accounting", 0), "device": ("device", 0), "usd_per_engine_h": ("$/h", 1),
    "input_usd_per_mtok": ("input", 1), "cached_usd_per_mtok": ("cached", 1), "output_usd_per_mtok": ("output", 1),
    "mean_usd_per_mtok": ("all tokens", 1), "usd_per_call": ("1,000 calls", 1e3),
}  # fmt: skip
_RESOURCES = {
    "accounting": ("accounting", 0), "device": ("device", 0), "usd_per_gb": ("GB", 1),
    "usd_per_gb_per_s": ("TB/s", 1e3), "usd_per_tflops": ("PFLOP/s bf16", 1e3),
}  # fmt: skip


def _headed(rows: Rows, headings: Mapping[str, tuple[str, float]]) -> Rows:
    """The rows under headings, numbers in their units."""
    return [
        {name: row[field] and row[field] * unit if unit else row[field] for field, (name, unit) in headings.items()}
        for row in rows
    ]


def _engine(point: OperatingPoint, site: Site) -> dict[str, Any]:
    operational, embodied = point.gco2e(site, grid_gco2e_per_kwh(site))
    return {
        "engine": point.config.name,
        "devices": point.config.devices,
        "batch": point.batch,
        "ttft_s": point.ttft_s,
        "tpot_s": point.tpot_s,
        "tokens_per_s": point.tokens_per_s,
        "watts": point.watts,
        "joules_per_call": point.joules,
        "gco2e_per_call": operational,
        "embodied_gco2e_per_call": embodied if point.config.device.embodied_kgco2e else None,
        "grade": str(step_source(point.config).grade),
        "power_grade": str(power_model(point.config.device).source.grade),
    }


def _priced(accounting: Accounting, points: list[OperatingPoint], money: Any) -> Rows:
    rows: Rows = []
    for point in points:
        try:
            usd = money(Case(accounting), point).usd_per_h
        except MissingPriceError:
            continue
        hourly = usd * point.config.devices
        row = {"accounting": str(accounting), "device": point.config.device.id, "usd_per_engine_h": hourly}
        rows.append(row | _prices_row(point.prices(usd), point.calls))
    return rows


def _hosted(prices: dict[str, Any], calls: Calls) -> Rows:
    return [
        {"accounting": "hosted API", "device": name, "usd_per_engine_h": None} | _prices_row(price, calls)
        for name, price in prices.items()
    ]


def _prices_row(price: TokenPrices, calls: Calls) -> dict[str, Any]:
    return {
        "input_usd_per_mtok": price.input_usd_per_mtok,
        "cached_usd_per_mtok": price.cached_usd_per_mtok,
        "output_usd_per_mtok": price.output_usd_per_mtok,
        "mean_usd_per_mtok": mean_usd_per_mtok(price, calls),
        "usd_per_call": run_usd(price, calls),
    }


def _resources(accounting: Accounting, points: list[OperatingPoint], money: Any) -> Rows:
    rows: Rows = []
    for point in points:
        try:
            unit = marginal_cost(point.config.device, money(Case(accounting), point).usd_per_h)
        except MissingPriceError:
            continue
        rows.append({"accounting": str(accounting), "device": point.config.device.id, **asdict(unit)})
    return rows


def _ranking_row(found: Ranking) -> dict[str, Any]:
    order = ", ".join(f"{name} {format_number(usd, 3)}" for name, usd in found.usd_per_mtok.items())
    case = found.case
    values = {"$/kWh": case.usd_per_kwh, "used": case.utilisation, "interest": case.rate, "years": case.years}
    return {"accounting": str(case.accounting), **values, "ranking": order}


def _json(found: Ranking) -> dict[str, Any]:
    return {**asdict(found.case), "usd_per_mtok": dict(found.usd_per_mtok), "left_out": dict(found.left_out)}


def _accountings(names: str) -> list[Accounting]:
    words = list(Accounting) if names == "all" else names.split(",")
    try:
        return [Accounting(word) for word in words]
    except ValueError:
        expected = f"all, {', '.join(Accounting)}"
        raise typer.BadParameter(f"{names!r} is not of {expected}", param_hint="--accounting") from None


def _numbers(text: str, option: str, least: float = 0.0, most: float = math.inf) -> list[float]:
    try:
        found = [float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        found = [math.nan]
    if not all(least <= value <= most and math.isfinite(value) for value in found):
        bounds = f" from {least:g}" + (f" to {most:g}" if math.isfinite(most) else "")
        raise typer.BadParameter(f"{text!r} is not a list of numbers{bounds}, such as 0.3,0.6", param_hint=option)
    return found


def _provider(name: str) -> tuple[str, str]:
    provider, _, api_model = name.partition(":")
    if not api_model:
        raise typer.BadParameter(f"{name!r} is not provider:model", param_hint="--api")
    return provider, api_model
