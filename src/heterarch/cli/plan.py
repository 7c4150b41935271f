"""``heterarch plan``: the cheapest placement that keeps the promise."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import typer

from heterarch.cli.output import (
    CALIBRATION_HELP,
    JSON_HELP,
    OVERLAY_HELP,
    above_zero,
    console,
    file_to_write,
    note,
    print_json,
)
from heterarch.cli.pipeline import catalog_and_fleet, compile_agent
from heterarch.cost.document import load_calibration
from heterarch.cost.library import library_of
from heterarch.cost.money.accounting import Accounting
from heterarch.graph.reference import relative
from heterarch.plan.document import Plan
from heterarch.plan.planner import plan as make_plan
from heterarch.plan.render import render_plan
from heterarch.plan.store import save_plan
from heterarch.report.slo import read_slos
from heterarch.workload.profile import load_workload

app = typer.Typer(rich_markup_mode=None)


@app.command()
def plan(
    agent: str = typer.Argument(help="file.py[:name], file.yaml or package.module:name."),
    fleet: str = typer.Option("mixed", help="A packaged fleet (mixed, laptop) or a fleet file."),
    workload: str = typer.Option("chat", help="A packaged workload (coding-fleet, chat, voice, rag) or a file."),
    slo: list[str] = typer.Option([], help="For instance e2e.p95<=30s, or an SLO file; default: the workload's own."),
    output: Path = typer.Option(
        Path("plan.yaml"), "-o", "--output", help="Plan file to write.", callback=file_to_write
    ),
    rate: float | None = typer.Option(
        None, help="Sessions per second; default: the workload's own.", callback=above_zero
    ),
    accounting: str | None = typer.Option(None, help=f"What counts as cost: {', '.join(Accounting)}."),
    dtype: list[str] = typer.Option([], help="Formats that weights may be served in; default: as published."),
    router: str = typer.Option("prefix-affinity", help="prefix-affinity, least-pending-tokens or least-queued."),
    margin: float = typer.Option(1.0, min=1.0, help="Factor by which predicted latencies must be below their limits."),
    check: bool = typer.Option(True, help="Check the plan in the simulator, tighten and plan again if it misses."),
    requests: int = typer.Option(1000, min=1, help="Requests of a checking simulation."),
    explain: bool = typer.Option(True, help="Find alternatives and reasons; takes several times as long as the plan."),
    seed: int = typer.Option(0, min=0, help="Seed of everything sampled."),
    overlay: list[Path] = typer.Option([], help=OVERLAY_HELP),
    calibration: list[Path] = typer.Option([], help=CALIBRATION_HELP),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Plan an agent for a workload on a fleet; write the plan, and print it with its reasons."""
    compiled = compile_agent(agent)
    rows, found = catalog_and_fleet(fleet, overlay)
    load = load_workload(workload)
    load = load.at_rate(rate) if rate is not None else load
    checker = None
    if check:
        from heterarch.sim.simulate import evaluator

        checker = evaluator(compiled.flat, requests=requests)
    with console(stderr=True).status(f"planning {compiled.agent.name} for {load.name} on {found.name}"):
        made = make_plan(
            compiled.authored, compiled.flat, found, rows, load, slos=read_slos(slo) if slo else None,
            accounting=accounting, dtypes=dtype, margin=margin, router=router, seed=seed, evaluator=checker,
            explain=explain, library=library_of(map(load_calibration, calibration), rows.devices),
        )  # fmt: skip
    made = with_files(made, [*found.catalog, *overlay], calibration)
    save_plan(made, output)
    show(made, as_json)
    note(f"wrote {output}")


def show(made: Plan, as_json: bool) -> None:
    """The plan as tables, or as JSON."""
    if as_json:
        print_json(made.model_dump(mode="json"))
    else:
        console().print(render_plan(made))


def with_files(made: Plan, overlays: Sequence[Path | str], calibrations: Sequence[Path]) -> Plan:
    """The plan that remembers which files its catalogue was read with, so that others read the same, and which
    calibrations its step times come from."""
    hashes = {relative(str(path)): hashlib.sha256(path.read_bytes()).hexdigest() for path in calibrations}
    files = {"catalog_files": [relative(str(path)) for path in overlays], "calibration_sha256": hashes}
    notes = [f"Step times use the calibration {', '.join(hashes)} first."] if hashes else []
    provenance = made.provenance.model_copy(update=files)
    return made.model_copy(update={"notes": [*made.notes, *notes], "provenance": provenance})
