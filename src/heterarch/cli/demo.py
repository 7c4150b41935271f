"""``heterarch demo``: the whole journey on the coding agent, in about a minute."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from heterarch.cli.files import Files, write_files
from heterarch.cli.output import console, note
from heterarch.cli.pipeline import Compiled, catalog_and_fleet, compile_agent, flat_of
from heterarch.cli.run import Tokens, execute, read_inputs
from heterarch.cli.run import publish as publish_live
from heterarch.cli.simulate import show
from heterarch.documents import write_text
from heterarch.errors import InputError
from heterarch.ir.flat import OpKind
from heterarch.ir.text import parse_module, print_module
from heterarch.plan.document import Plan
from heterarch.plan.planner import plan as make_plan
from heterarch.plan.render import render_plan
from heterarch.plan.scale import scaled_down
from heterarch.plan.store import save_plan
from heterarch.run.live import RunOptions
from heterarch.sim.simulate import evaluator, run_simulation
from heterarch.workload.profile import Workload, load_workload

app = typer.Typer(rich_markup_mode=None)
AGENT = Path("examples/coding_agent.py")
TASK = "Count the lines of README.md and say whether it mentions a licence."


@app.command()
def demo(
    out: Path = typer.Option(Path("out/demo"), help="Folder for plan, reports and plots."),
    requests: int = typer.Option(1000, help="Agent requests to simulate."),
) -> None:
    """Capture, lower, plan, simulate and run the coding agent; leave plan, reports and a plot."""
    if not AGENT.is_file():
        raise InputError(
            "the demo needs the examples", observed=str(Path.cwd()), fix="run it in a checkout of heterarch"
        )
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    workload = load_workload("coding-fleet")
    compiled = _capture(out)
    plan = _plan(compiled, workload, out, requests)
    _simulate(plan, workload, out, requests)
    code = _run(plan, out)
    files = ", ".join(sorted(path.name for path in out.iterdir()))
    note(f"\ndemo: {time.monotonic() - start:.0f} s; everything is in {out}/: {files}")
    raise typer.Exit(code)


def _step(number: int, text: str) -> None:
    console().rule(f"{number}. {text}", align="left")


def _capture(out: Path) -> Compiled:
    _step(1, f"Capture {AGENT} and lower it through MLIR")
    compiled = compile_agent(str(AGENT))
    write_text(out / "coding_agent.mlir", print_module(compiled.module))
    for op in range(len(compiled.flat)):
        place = compiled.flat.where[op]
        console().print(
            f"   {OpKind(int(compiled.flat.kind[op])).name.lower():14}{compiled.flat.names[op]:22}{place}", style="dim"
        )
    return compiled


def _plan(compiled: Compiled, workload: Workload, out: Path, requests: int) -> Plan:
    _step(2, "Plan it for the workload coding-fleet on a mixed fleet, under owner annuity")
    catalog, fleet = catalog_and_fleet("mixed", [])
    with console(stderr=True).status("planning, and checking the plan in the simulator"):
        made = make_plan(
            compiled.authored, compiled.flat, fleet, catalog, workload, accounting="owner-annuity",
            evaluator=evaluator(compiled.flat, requests=requests),
        )  # fmt: skip
    save_plan(made, out / "plan.yaml")
    console().print(render_plan(made))
    return made


def _simulate(plan: Plan, workload: Workload, out: Path, requests: int) -> None:
    _step(3, "Simulate the plan with another seed than it was checked with")
    done = run_simulation(
        plan,
        flat_of(plan, "plan.yaml"),
        workload,
        seed=1,
        requests=requests,
        progress=True,
    )
    show(done, False)
    files = Files(report=out / "simulated.json", calls=out / "simulated.parquet", plot=out / "simulated.png")
    write_files(done, files)


def _run(plan: Plan, out: Path) -> int:
    _step(4, "Run it for real, scaled down: llama.cpp engines on this machine, KV moved between them")
    local = scaled_down(plan, apart=True)
    save_plan(local, out / "plan-local.yaml")
    module = parse_module(local.agent.module, "plan-local.yaml (module)")
    tokens = Tokens()
    options = RunOptions(sessions=[0, 0], max_tokens=32, max_trips=4, on_token=tokens.show)
    done = execute(local, module, [read_inputs(module, local.agent.name, [TASK])] * 2, options)
    tokens.end()
    note("(the model is a random 0.6 MB test model: its words mean nothing, its engines, KV and times are real)")
    publish_live(done, False, out / "live.json")
    return next((error.exit_code for error in done.errors if error is not None), 0)
