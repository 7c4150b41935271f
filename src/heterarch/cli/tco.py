"""``heterarch tco``: what a model costs per token and call on each device, and what would change the ranking."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.fleet import fleet
from heterarch.catalog.hosted import listed_price
from heterarch.cli.output import JSON_HELP, note, print_json, print_table
from heterarch.cost.config import EngineConfig
from heterarch.cost.energy import grid_gco2e_per_kwh
from heterarch.cost.engine import step_source
from heterarch.cost.money.accounting import Accounting, MissingPriceError, OwnerTerms
from heterarch.cost.money.endpoint import TokenPrices
from heterarch.cost.money.operating import OperatingPoint, operating_point, widths
from heterarch.cost.money.sensitivity import Case, Ranking, cases, ranking
from heterarch.cost.money.spot import Preemption
from heterarch.cost.money.tco import Calls, marginal_cost, mean_usd_per_mtok, run_usd
from heterarch.errors import InputError

app = typer.Typer(rich_markup_mode=None)
Rows = list[dict[str, Any]]


@app.command()
def tco(
    model: str = typer.Argument(help="Id of a model of the catalogue."),
    device: list[str] = typer.Option([], help="Ids of devices; default: those of the packaged fleet mixed."),
    api: list[str] = typer.Option([], help="provider:model of a hosted API to compare with."),
    accounting: str = typer.Option("all", help=f"What counts as cost: all, {', '.join(Accounting)}."),
    tp: int = typer.Option(0, min=0, help="Devices per engine; 0: as few as hold the batch."),
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
    catalog: list[Path] = typer.Option([], help="Overlays of the catalogue: CSV or YAML files, or folders."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Dollars per million tokens and per call, watts and grams on each device, and what would change the ranking."""
    rows = Catalog.load(*catalog)
    place, terms, preemption = rows.site(site), OwnerTerms(), Preemption(per_h=preemptions)
    calls = Calls(prompt, float(min(int(prompt * cached), prompt - 1)), output)
    points, left_out = _points(rows, model, device, calls, tp, dtype, batch)
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
    }
    if as_json:
        print_json(answer)
        return
    _show(answer, ranked)


def _show(answer: dict[str, Any], ranked: list[Ranking]) -> None:
    print_table(f"{answer['model']}: engines", answer["engines"])
    print_table("USD of an engine-hour, of a million tokens by kind, of a thousand calls", answer["prices"])
    if answer["resources"]:
        print_table("USD per hour of a unit of each resource", answer["resources"])
    rows = [_ranking_row(found) for found in ranked if found.usd_per_mtok]
    columns = [name for name in (rows[0] if rows else ()) if any(row[name] is not None for row in rows)]
    print_table("cheapest first, USD per million tokens", rows, columns)
    firsts = Counter(next(iter(found.usd_per_mtok)) for found in ranked if found.usd_per_mtok)
    for name, count in firsts.most_common():
        note(f"{name} is cheapest in {count} of {firsts.total()} cases")
    for name, reason in answer["left_out"].items():
        note(f"{name} is left out: {reason}")
    for reason in dict.fromkeys(reason for found in ranked for reason in found.left_out.values()):
        note(reason)


def _points(
    rows: Catalog, model: str, devices: list[str], calls: Calls, tp: int, dtype: str, batch: int
) -> tuple[list[OperatingPoint], dict[str, str]]:
    """The operating point of each device, and why a device has none; all the devices' errors when none has one."""
    shape = rows.find_model(model)
    points, left_out = [], {}
    for name in dict.fromkeys(devices) or _fleet_devices(rows):
        device = rows.find_device(name)
        try:
            config = EngineConfig(device, shape, dtype=dtype or shape.dtype)
            point = operating_point(widths(config, (tp,) if tp else (1, 2, 4, 8)), calls, batch)
            assert point.seconds
            points.append(point)
        except InputError as error:
            left_out[device.id] = error.what
    if not points:
        raise InputError(f"no device serves {model}", observed="; ".join(left_out.values()), fix="choose others")
    return points, left_out


def _fleet_devices(rows: Catalog) -> list[str]:
    return [entry.device for entry in fleet("mixed").devices if rows.device(entry.device).device_class != "cpu"]


def _engine(point: OperatingPoint, site: Any) -> dict[str, Any]:
    operational, embodied = point.gco2e(site, grid_gco2e_per_kwh(site))
    return {
        "engine": point.config.name,
        "batch": point.batch,
        "TTFT ms": point.ttft_s * 1000,
        "TPOT ms": point.tpot_s * 1000,
        "tokens/s": point.tokens_per_s,
        "W": point.watts,
        "Wh/call": point.joules / 3600,
        "gCO2e/call": operational,
        "embodied": embodied if point.config.device.embodied_kgco2e else None,
        "grade": str(step_source(point.config).grade),
    }


def _priced(accounting: Accounting, points: list[OperatingPoint], money: Any) -> Rows:
    rows: Rows = []
    for point in points:
        try:
            usd = money(Case(accounting), point).usd_per_h
        except MissingPriceError:
            continue
        row = {"accounting": str(accounting), "device": point.config.device.id, "$/h": usd * point.config.devices}
        rows.append(row | _prices_row(point.prices(usd), point.calls))
    return rows


def _hosted(prices: dict[str, Any], calls: Calls) -> Rows:
    return [
        {"accounting": "hosted API", "device": name, "$/h": None} | _prices_row(p, calls) for name, p in prices.items()
    ]


def _prices_row(price: TokenPrices, calls: Calls) -> dict[str, Any]:
    return {
        "input": price.input_usd_per_mtok,
        "cached": price.cached_usd_per_mtok,
        "output": price.output_usd_per_mtok,
        "all tokens": mean_usd_per_mtok(price, calls),
        "1,000 calls": run_usd(price, calls) * 1000,
    }


def _resources(accounting: Accounting, points: list[OperatingPoint], money: Any) -> Rows:
    rows: Rows = []
    for point in points:
        try:
            unit = marginal_cost(point.config.device, money(Case(accounting), point).usd_per_h)
        except MissingPriceError:
            continue
        units = {"GB": unit.usd_per_gb, "TB/s": unit.usd_per_gb_per_s, "PFLOP/s bf16": unit.usd_per_tflops}
        scaled = {name: usd and usd * (1 if name == "GB" else 1000) for name, usd in units.items()}
        rows.append({"accounting": str(accounting), "device": point.config.device.id, **scaled})
    return rows


def _ranking_row(found: Ranking) -> dict[str, Any]:
    order = ", ".join(f"{name} {usd:.3g}" for name, usd in found.usd_per_mtok.items())
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
