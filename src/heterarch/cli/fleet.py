"""``heterarch fleet``: show, check and detect what may be used."""

from __future__ import annotations

from pathlib import Path

import typer

from heterarch.catalog.detect import detect as look
from heterarch.catalog.fleet import fleet as read_fleet
from heterarch.cli.output import JSON_HELP, note, print_json, print_table
from heterarch.errors import InputError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def fleet() -> None:
    """What may be used: show, check, or detect this machine."""


@app.command()
def show(
    name: str = typer.Argument("mixed", help="A packaged fleet, or a fleet file; it is checked."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Devices with their limits, hosted APIs with their prices."""
    found = read_fleet(name)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    print_table(
        f"fleet {found.name} at {found.site}, accounting {found.accounting or 'not set'}",
        [{"device": d.device, "limit": d.limit, "owned": d.owned, "server": d.server} for d in found.devices],
    )
    rows = []
    for endpoint in found.endpoints:
        price = endpoint.token_price()
        rows.append(
            {"endpoint": endpoint.name, "serves": endpoint.serves, "USD/M in": price.input_usd_per_mtok,
             "cached": price.cached_usd_per_mtok, "out": price.output_usd_per_mtok,
             "req/min": endpoint.requests_per_min}
        )  # fmt: skip
    if rows:
        print_table("hosted APIs", rows)


@app.command()
def detect(
    output: Path = typer.Option(Path("fleet.yaml"), "-o", "--output", help="Fleet file to write."),
    force: bool = typer.Option(False, help="Replace the file if it exists."),
    measure: bool = typer.Option(True, help="Spend half a second on memory and compute rates of the CPU."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Write a fleet file, and a catalogue overlay beside it, from what this machine has."""
    if output.exists() and not force:
        raise InputError("the file exists", where=str(output), fix="name another with -o, or replace it with --force")
    machine = look(measure)
    written = machine.write(output)
    if as_json:
        print_json({"files": [str(path) for path in written], "fleet": machine.fleet().model_dump(mode="json"),
                    "catalog": machine.overlay(), "notes": machine.notes})  # fmt: skip
        return
    rows = [{"device": machine.cpu, "count": 1, "catalogue id": "cpu-local"}]
    rows += [{"device": gpu.name, "count": 1, "catalogue id": gpu.device_id} for gpu in machine.gpus]
    print_table(f"{machine.cores} cores, {machine.mem_bytes / 1e9:.1f} GB", rows)
    for text in (*machine.notes, f"wrote {' and '.join(map(str, written))}"):
        note(text)
